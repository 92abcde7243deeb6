"""Mixed precision as a recipe asks for it: within which size, and among which bits."""

from __future__ import annotations

import re
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import BeforeValidator, Field, model_validator

from configs.base import StrictModel
from configs.quantities import Count, Label

Bits = Literal[4, 8, 16]
"""Of a Linear's weights; 16 leaves it as it is, in the source's own dtype."""
AS_IT_IS = 16

_UNITS = {"bits": 1, "MB": 10**6, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}
_BUDGET = re.compile(rf"(?P<amount>\d+(?:\.\d+)?) ?(?P<unit>{'|'.join(_UNITS)})")


class Budget(NamedTuple):
    """A size that is not exceeded."""

    bits_per_weight: float | None
    """Of the Linears as they are stored, scales and zero points included."""
    file_bytes: int | None
    """Of all safetensors files; None where bits are given."""


def parse_budget(text: str) -> Budget:
    """Read `4.6 bits` or `95 MB`. Raises ValueError for anything else."""
    found = _BUDGET.fullmatch(text)
    if found is None or not float(found["amount"]):
        raise ValueError(f"a budget is `4.6 bits` a weight, or the files' size as `95 MB` ({', '.join(_UNITS)})")
    amount, unit = float(found["amount"]), found["unit"]
    return Budget(amount, None) if unit == "bits" else Budget(None, int(amount * _UNITS[unit]))


def _known_budget(value: object) -> object:
    parse_budget(str(value))  # a number without a unit is none either
    return value


class MixedPrecision(StrictModel):
    """A few modules in more bits than the others: those in which a bit saves most of what rounding loses."""

    budget: Annotated[str, BeforeValidator(_known_budget)]
    """Size that the artifact keeps within: `4.6 bits` a weight of the Linears, scales included, or that of the weights'
    files, as `95 MB`."""
    choices: list[Bits] = Field(default=[4, 8, 16], min_length=2)
    """Bits that a module may have, rising; the first are the method's own, and 16 leaves a module as it is."""
    modules: dict[Label, Bits] = {}
    """Modules whose bits are not searched: name, or a pattern such as `model.layers.0.*` -> bits. What is served as one
    matrix (queries, keys and values; gate and up projection) is named together."""
    trials: Count = Field(default=48, ge=1, le=10_000)
    """Whole-model measurements at most; modules beyond them are judged by their estimates."""

    @model_validator(mode="after")
    def _choices_rise(self) -> Self:
        if sorted(set(self.choices)) != self.choices:
            raise ValueError(f"`choices` rise, each once: {sorted(set(self.choices))}")
        for pattern, bits in self.modules.items():
            if bits not in self.choices:
                raise ValueError(f"`modules` gives {pattern} {bits} bits, which are none of `choices` {self.choices}")
        return self
