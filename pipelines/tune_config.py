"""What `quantbench tune` is asked: a small grid of serving parameters, and what the best of them is best at."""

from collections.abc import Iterator
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, create_model, model_validator

from configs.base import StrictModel
from configs.errors import RequestError
from registry.contracts.serving import SLO
from serving_checks.load import LoadConfig
from serving_checks.vllm_server import VllmServerConfig

TUNABLE = (
    "max_num_seqs",
    "max_num_batched_tokens",
    "enable_prefix_caching",
    "enable_chunked_prefill",
    "kv_cache_gib",
    "enforce_eager",
    "tensor_parallel_size",
)
"""Fields of the server's config that change how fast it answers; the others change what is served, or where."""

MOST_CELLS = 64
"""Each cell starts a server of its own."""


def _grid_model() -> type[StrictModel]:
    """A list of values for each tunable field, each checked as the server's config checks its own."""
    fields: dict[str, Any] = {}
    for name in TUNABLE:
        field = VllmServerConfig.model_fields[name]
        value = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        fields[name] = (Annotated[list[value], Field(min_length=1)] | None, None)  # type: ignore[valid-type]
    return create_model("Grid", __base__=StrictModel, **fields)


if TYPE_CHECKING:
    Grid = StrictModel
else:
    Grid = _grid_model()


class AtConcurrency(StrictModel):
    """Goodput in a closed loop: completed requests per second that kept the SLO."""

    kind: Literal["concurrency"]
    concurrency: int = Field(ge=1)
    """Requests that are kept in flight."""


class AtRate(StrictModel):
    """The highest rate of Poisson arrivals at which the SLO is kept."""

    kind: Literal["rate"]


class TuneConfig(StrictModel):
    """A search over serving parameters for one model. What `grid` does not name stays as it is under `serving`."""

    model: str = "baseline"
    """`baseline`, or an entry of `methods`."""
    objective: Annotated[AtConcurrency | AtRate, Field(discriminator="kind")]
    """What the best parameters have most of."""
    slo: SLO
    """What a request has to keep to count as good."""
    grid: Grid
    """Serving parameter -> values to try; null is the engine's default. Every combination is measured."""
    tie_share: float = Field(default=0.03, ge=0, lt=1)
    """Cells that come this close to the best, as a share of it, count as equal to it: repeated runs differ as much."""

    @model_validator(mode="after")
    def _can_be_searched(self) -> Self:
        lists = _lists(self.grid)
        if not lists:
            raise ValueError(f"`grid` names no parameter; known: {', '.join(TUNABLE)}")
        for name, values in lists.items():
            if len(set(values)) < len(values):
                raise ValueError(f"`grid.{name}` holds a value twice: {values}")
        size = prod(map(len, lists.values()))
        if size > MOST_CELLS:
            counts = " x ".join(f"{len(values)} ({name})" for name, values in lists.items())
            raise ValueError(
                f"`grid` has {size} cells, {counts}, and at most {MOST_CELLS} are allowed: each starts a server;"
                " take values out, or tune in two steps"
            )
        limits = [limit for limit in (self.slo.ttft_seconds, self.slo.tpot_seconds, self.slo.e2e_seconds) if limit]
        if not limits or min(limits) <= 0:
            raise ValueError("`slo` needs at least one of ttft_seconds, tpot_seconds, e2e_seconds, each above 0")
        return self

    def cells(self) -> Iterator[dict[str, Any]]:
        """Every combination of the grid's values, the last parameter changing fastest."""
        lists = _lists(self.grid)
        for values in product(*lists.values()):
            yield dict(zip(lists, values, strict=True))


def cell_name(parameters: dict[str, Any]) -> str:
    """`max_num_seqs=8,enable_prefix_caching=true`; `default` where the engine chooses."""
    return ",".join(f"{name}={_shown(value)}" for name, value in parameters.items())


def _shown(value: Any) -> str:
    if value is None:
        return "default"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _lists(grid: StrictModel) -> dict[str, list[Any]]:
    named = {name: getattr(grid, name) for name in TUNABLE}
    return {name: values for name, values in named.items() if values is not None}


def cell_load(load: LoadConfig, tune: TuneConfig) -> LoadConfig:
    """The recipe's load with what the objective needs: one load test, or the search for a rate.

    Raises:
        RequestError: `load` has too few requests for the objective's concurrency.
    """
    if isinstance(tune.objective, AtRate):
        raise RequestError("this load generator searches for no rate", remedy="tune for `kind: concurrency`")
    try:
        return LoadConfig.model_validate(load.model_dump() | {"concurrency": [tune.objective.concurrency]})
    except ValidationError as error:
        raise RequestError(
            f"`tune.objective` does not fit `load`: {error.errors()[0]['msg'].removeprefix('Value error, ')}",
            remedy="raise `load.requests`, or lower `tune.objective.concurrency`",
        ) from None
