"""Each category's difference on one scale, with its margin and verdict: what the page, the plot and `compare` show."""

import math

from pipelines.report.table import NOTHING_TO_KEEP, UNKNOWN, VERDICT_TONES, Tone
from registry.contracts import CategoryRetention, RetentionRecord, StratumDrop
from registry.contracts.base import Record
from registry.contracts.comparison import Verdict
from registry.numerals import signed

_TOLD_BY_ITS_CAUSE = (NOTHING_TO_KEEP, "truncated prompts")


class Judged(Record):
    """One category of one comparison. Differences are in `scale`, negative where something was lost."""

    category: str
    scale: str
    """`points` of share, or `%` of perplexity: both small numbers of the same kind of size."""
    items: str
    """`500`, or `250 of 500` where an adaptive evaluation stopped before it had asked all."""
    baseline: str
    artifact: str
    difference: float | None
    low: float | None
    """95 % interval."""
    high: float | None
    margin: float | None
    """The largest acceptable loss, positive."""
    verdict: Verdict
    outcome: str
    """The verdict, or why it is inconclusive where more items are no remedy."""
    reason: str
    tone: Tone

    @property
    def difference_text(self) -> str:
        """`-1.2 [-2.3, -0.1]`"""
        if self.difference is None:
            return UNKNOWN
        return f"{signed(self.difference)}{interval_text(self.low, self.high)}"

    @property
    def margin_text(self) -> str:
        """`-2 points`"""
        return UNKNOWN if self.margin is None else f"−{self.margin:.3g} {self.scale}"


def judged(retention: RetentionRecord) -> list[Judged]:
    """All categories in the suite's order."""
    return [_judged(kept) for kept in retention.categories]


def interval_text(low: float | None, high: float | None) -> str:
    """` [-2.3, -0.1]`; nothing where there is no interval."""
    return "" if low is None or high is None else f" [{signed(low)}, {signed(high)}]"


def drop_text(drop: StratumDrop) -> str:
    """A stratum's difference with its interval: points for shares, per cent of perplexity for running text."""
    scaled = _points if drop.unit == "share" else _percent_of_perplexity
    low, high = (None if end is None else scaled(end) for end in (drop.difference_low, drop.difference_high))
    unit = "points" if drop.unit == "share" else "%"
    return f"{signed(scaled(drop.difference))}{interval_text(low, high)} {unit}"


def _judged(kept: CategoryRetention) -> Judged:
    share = kept.unit == "share"
    scaled = _points if share else _percent_of_perplexity
    difference, low, high = (
        None if value is None else scaled(value)
        for value in (kept.difference, kept.difference_low, kept.difference_high)
    )
    return Judged(
        category=kept.category,
        scale="points" if share else "%",
        items=f"{kept.items} of {kept.look.items_available}"
        if kept.look and kept.look.stopped_early
        else str(kept.items),
        baseline=_score(kept.baseline, share),
        artifact=_score(kept.artifact, share),
        difference=difference,
        low=low,
        high=high,
        margin=None if kept.margin is None else 100 * kept.margin,
        verdict=kept.verdict,
        outcome=kept.undecided if kept.undecided in _TOLD_BY_ITS_CAUSE else kept.verdict,
        reason=kept.verdict_reason,
        tone=VERDICT_TONES[kept.verdict],
    )


def _score(value: float | None, share: bool) -> str:
    if value is None:
        return UNKNOWN
    return f"{100 * value:.1f} %" if share else f"{value:#.4g}"


def _points(difference: float) -> float:
    return 100 * difference


def _percent_of_perplexity(difference: float) -> float:
    """By how much the artifact's perplexity is lower, in per cent of the baseline's: 3 % more of it are −3.

    A difference of log-likelihoods beyond 700 nats is no perplexity.
    """
    return -100 * math.expm1(min(-difference, 700.0))
