"""What the whole model loses when a unit is rounded: measured one after the other, each kept as soon as it is there."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import StageError
from quantizers.precision.config import AS_IT_IS
from quantizers.precision.units import Unit
from quantizers.sensitivity.rounding import rounded_inside
from registry.contracts import SensitivityTrial
from registry.contracts.sensitivity import ALL_UNITS
from registry.journal import Journal, opened_journal, read_journal

if TYPE_CHECKING:
    import torch

Candidate = tuple[str, int]
"""Unit and bits."""


def candidates(
    units: Sequence[Unit], estimated: Mapping[str, Mapping[int, float]], choices: Sequence[int], most: int
) -> list[Candidate]:
    """What is worth a trial: all units at once, then those that seem to lose most for each bit that they would take."""
    worth = {
        (unit.name, bits): estimated[unit.name][bits] / (unit.weights * (AS_IT_IS - bits))
        for unit in units
        for bits in choices
    }
    ordered = sorted(worth, key=lambda one: (-worth[one], one))
    return [*((ALL_UNITS, bits) for bits in choices), *ordered][:most]


def run_trials(
    wanted: Sequence[Candidate],
    measure: Callable[[str, int], float],
    kept_in: Path | None,
    report: Callable[[int, int], None],
) -> dict[Candidate, float]:
    """Nats a token of every candidate; those that an earlier process kept are not measured again.

    Args:
        wanted: In this order.
        measure: Unit and bits -> nats a token.
        kept_in: Journal of this very measurement; None keeps nothing.
        report: Told trials done and trials in all.

    Raises:
        StageError: A loss is no number, or the journal is damaged.
    """
    found: dict[Candidate, float] = {}
    if kept_in:
        kept_in.parent.mkdir(parents=True, exist_ok=True)
        found = {(one.unit, one.bits): one.nats for one in read_journal(kept_in, SensitivityTrial)}
    with opened_journal(kept_in, SensitivityTrial) if kept_in else nullcontext() as journal:
        for done, (unit, bits) in enumerate(wanted):
            report(done, len(wanted))
            if (unit, bits) not in found:
                found[unit, bits] = _measured(unit, bits, measure, journal)
    return {one: found[one] for one in wanted}


def _measured(
    unit: str, bits: int, measure: Callable[[str, int], float], journal: Journal[SensitivityTrial] | None
) -> float:
    nats = measure(unit, bits)
    if not math.isfinite(nats):
        what = "all modules" if unit == ALL_UNITS else unit
        raise StageError(
            f"with {what} in {bits} bits the model's loss is no number ({nats})",
            remedy="take float32 for dtype.quantize; where it is so in float32 too, this model is not for so few bits:"
            " set mixed_precision.modules for it, or leave mixed_precision out",
            blame="source",
        )
    if journal:
        journal.append(SensitivityTrial(unit=unit, bits=bits, nats=nats))
    return nats


class HeldOut:
    """The model's own answers on rows, and how far those of the model as it is now are from them."""

    def __init__(self, model: Any, batches: Sequence[torch.Tensor]) -> None:
        self._model, self._batches = model, batches
        self._own = [self._logprobs(ids) for ids in batches]
        self.tokens: int = sum(ids.numel() for ids in batches)

    def nats(self, linears: Sequence[torch.nn.Linear], bits: int, group_size: int) -> float:
        """KL divergence a token, with these Linears rounded."""
        import torch

        with rounded_inside(linears, bits, group_size), torch.inference_mode():
            sums = [
                float((own.exp() * (own - self._logprobs(ids))).sum())
                for own, ids in zip(self._own, self._batches, strict=True)
            ]
        return sum(sums) / self.tokens

    def _logprobs(self, ids: torch.Tensor) -> torch.Tensor:
        """[rows, tokens, vocabulary]."""
        import torch

        with torch.inference_mode():
            logprobs: torch.Tensor = self._model(ids, use_cache=False).logits.float().log_softmax(-1)
        return logprobs
