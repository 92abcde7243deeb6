"""What `quantbench tune` is asked: a small grid of serving parameters, and what the best of them is best at."""

from collections.abc import Iterator
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, create_model, model_validator

from configs.base import StrictModel
from configs.errors import RequestError
from configs.quantities import Count, Label, Share
from registry.contracts.serving import SLO, LoadPoint, ServingRecord
from serving_checks.engines.table import default_config
from serving_checks.load import LoadConfig
from serving_checks.load.config import Concurrent, Sweep

_SERVING = type(default_config())
TUNABLE = _SERVING.tunable

MOST_CELLS = 64
"""Each cell starts a server of its own."""


def _grid_model() -> type[StrictModel]:
    """A list of values for each tunable field, each checked as the server's config checks its own."""
    fields: dict[str, Any] = {}
    for name in TUNABLE:
        field = _SERVING.model_fields[name]
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
    concurrency: Count = Field(ge=1)
    """Requests that are kept in flight."""


class AtRate(StrictModel):
    """The highest rate of Poisson arrivals at which the SLO is kept."""

    kind: Literal["rate"]


class TuneConfig(StrictModel):
    """A search over serving parameters for one model. What `grid` does not name stays as it is under `serving`."""

    model: Label = "baseline"
    """`baseline`, or an entry of `methods`."""
    objective: Annotated[AtConcurrency | AtRate, Field(discriminator="kind")]
    """What the best parameters have most of."""
    slo: SLO | None = None
    """What a request has to keep to count as good; that of `load` when null."""
    grid: Grid
    """Serving parameter -> values to try; null is the engine's default. Every combination is measured."""
    tie_share: Share = Field(default=0.03, lt=1)
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
        return self

    def cells(self) -> Iterator[dict[str, Any]]:
        """Every combination of the grid's values, the last parameter changing fastest."""
        lists = _lists(self.grid)
        for values in product(*lists.values()):
            yield dict(zip(lists, values, strict=True))


def cell_name(parameters: dict[str, Any]) -> str:
    """`max_num_seqs=8,enable_prefix_caching=true`; `default` where the engine chooses."""
    return ",".join(f"{name}={shown(value)}" for name, value in parameters.items())


def shown(value: Any) -> str:
    """A value as a recipe has it; `default` for null."""
    if value is None:
        return "default"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _lists(grid: StrictModel) -> dict[str, list[Any]]:
    named = {name: getattr(grid, name) for name in TUNABLE}
    return {name: values for name, values in named.items() if values is not None}


def cell_load(load: LoadConfig, tune: TuneConfig) -> LoadConfig:
    """The recipe's load with what the objective needs of it: one load test or one search, on its first prompt mix.

    Raises:
        RequestError: There is no SLO, or `load` has too few requests for the objective's concurrency.
    """
    slo = tune.slo or load.slo
    if slo is None:
        raise RequestError(
            "goodput needs an SLO, and neither `tune` nor `load` has one",
            remedy="write `slo: {ttft_seconds: 1.0}` or the like under `tune`; tpot_seconds and e2e_seconds go too",
        )
    if isinstance(tune.objective, AtConcurrency):
        profile: Concurrent | Sweep = Concurrent(kind="concurrent", levels=[tune.objective.concurrency])
    else:
        sweeps = [profile for profile in load.profiles if isinstance(profile, Sweep)]
        profile = sweeps[0] if sweeps else Sweep(kind="sweep")
    prompts = load.prompts.model_dump() | {"mixes": load.prompts.mixes[:1]}
    changes = {"profiles": [profile.model_dump()], "slo": slo.model_dump(), "prompts": prompts}
    try:
        return LoadConfig.model_validate(load.model_dump() | changes)
    except ValidationError as error:
        raise RequestError(
            f"`tune` does not fit `load`: {error.errors()[0]['msg'].removeprefix('Value error, ')}",
            remedy="change `tune.slo`, `tune.objective.concurrency` or `load.requests`",
        ) from None


def deciding_point(serving: ServingRecord, objective: AtConcurrency | AtRate) -> LoadPoint | None:
    """The load test that a cell's goodput was read from; None where no rate kept the SLO."""
    if isinstance(objective, AtConcurrency):
        return next(point for point in serving.load_points if point.concurrency == objective.concurrency)
    search = serving.rate_search
    rate = search.highest_good_requests_per_second if search else None
    at_rate = [point for point in serving.load_points if point.requests_per_second_offered == rate]
    return at_rate[0] if rate is not None and at_rate else None
