"""What a candidate's answers are worth beside the champion's on the same prompts, metric by metric."""

from typing import Any, Literal

from registry.contracts.base import Record

Outcome = Literal["pass", "fail", "continue", "inconclusive"]
"""continue: more pairs may decide; inconclusive: none will, as the budget is used up or there is no honest number."""
MetricUnit = Literal["points", "share", "change", "nats", "preference"]
"""points: a difference of shares; change: a ratio less 1. All are fractions, as limits are (0.02 is two points)."""


class MetricVerdict(Record):
    """One metric over all pairs or over those of one class. Values, bounds and limit are in `unit`."""

    metric: str
    prompt_class: str = ""
    """Empty: all pairs."""
    unit: MetricUnit
    at_least: bool
    """Whether the value has to be at least `limit`, else at most."""
    limit: float
    pairs: int
    """That say something of this metric."""
    failed_pairs: int
    """Left out since a side gave no answer; they count in `errors`."""
    unrecorded_pairs: int
    """Left out since a side has no value."""
    clipped_pairs: int = 0
    """Whose difference or ratio counts as the clip."""
    champion: float | None = None
    """Mean over these pairs, for ratios the median; None where the metric has no sides."""
    candidate: float | None = None
    value: float | None = None
    """Candidate against champion: a mean; for ratios the geometric mean of clipped ones, less 1. None without pairs."""
    low: float | None = None
    """What is below is refuted at `low_level`, whenever one looks: the bound that decided, or would decide."""
    high: float | None = None
    low_level: float
    """Chance that the true value is ever below `low`."""
    high_level: float
    outcome: Outcome
    decided_after: int | None = None
    """Judged pairs, of all metrics and classes, after which it was decided."""
    pairs_to_decide: int | None = None
    """A rough estimate of how many more pairs in all would decide, if the value stays as it is."""
    reason: str
    """One sentence with the numbers."""


class ShadowVerdict(Record):
    """The verdict over all metrics; wrong at most with the chance alpha, however often one has looked."""

    outcome: Outcome
    """fail if any metric fails, else inconclusive if any is, else continue if any does, else pass."""
    reason: str
    alpha: float
    config: dict[str, Any]
    """A VerdictConfig."""
    config_digest: str
    frozen_digest: str | None
    """Of the config that was stored before the first pair; None where none was."""
    frozen: bool
    """Whether both are one; else the limits may have been chosen by the results, and the verdict is exploratory."""
    pairs: int
    """That were judged: the first ones by number."""
    pairs_beyond_budget: int = 0
    """Not judged."""
    pairs_waiting: int = 0
    """Not judged yet, since pairs before them are still being answered."""
    pairs_digest: str
    """Of the judged pairs' ids in their order."""
    looks: list[int]
    """Judged pairs at each look of this command."""
    metrics: list[MetricVerdict]
    unrecorded: list[str] = []
    """Metrics that have a limit and were left out, since nothing was recorded of them."""
    small_classes: int = 0
    """Classes with too few pairs to be judged for themselves."""
    rare_in_classes: dict[str, int] = {}
    """Metrics of the other classes that too few of their pairs say anything of, with these pairs."""
