"""What a run's artifacts were held against, and which one is to be taken."""

from collections.abc import Iterable
from typing import Literal

from registry.contracts.base import Record
from registry.contracts.comparison import Verdict


def worst_of(outcomes: Iterable[Verdict]) -> Verdict:
    """fail if any is, else inconclusive if any is, else pass."""
    found = set(outcomes)
    return "fail" if "fail" in found else "inconclusive" if "inconclusive" in found else "pass"


class LimitOutcome(Record):
    """One limit of a policy, on one artifact."""

    limit: str
    """`quality`, `soundness`, `size`, `memory`, `fallbacks`, `checks`, or a load such as `load at 8`."""
    outcome: Verdict
    """inconclusive: the numbers do not tell, or are not there."""
    reason: str
    """A sentence with the numbers."""


class Candidate(Record):
    """One artifact, judged."""

    name: str
    digest: str | None
    """None for one that was not made."""
    limits: list[LimitOutcome]
    beaten_by: str | None = None
    """One that passes as well and is at least as good in accuracy, speed and size, and better in one of them."""

    @property
    def outcome(self) -> Verdict:
        return worst_of(limit.outcome for limit in self.limits)


class RecommendationRecord(Record):
    """What to do with the artifacts of a run."""

    goal: str
    kind: Literal["artifact", "undecided", "none"]
    """none: every artifact surely breaks a limit, so the baseline stays."""
    choice: str | None = None
    """Name of the artifact."""
    digest: str | None = None
    sentence: str
    """What is recommended and why."""
    candidates: list[Candidate]
    """In the order of the run."""
    next_step: str
    """The command that comes next, or what to change before it."""
