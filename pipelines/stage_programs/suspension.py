"""What is measured while somebody holds the processes is no measurement: it is marked, never shown as a speed."""

from collections.abc import Sequence

from registry.contracts import CheckRecord, LoadPoint


def doubted_points(points: Sequence[LoadPoint], suspended_seconds: float) -> list[LoadPoint]:
    """The load tests as they are, or all of them invalid: which of them was held is not known."""
    if not suspended_seconds:
        return list(points)
    return [point.model_copy(update={"invalid": point.invalid or _why(suspended_seconds)}) for point in points]


def doubted_checks(checks: Sequence[CheckRecord], suspended_seconds: float) -> list[CheckRecord]:
    """The proofs about time as they are, or as not run."""
    if not suspended_seconds:
        return list(checks)
    return [
        CheckRecord(check=check.check, outcome="not_run", reason=_why(suspended_seconds), numbers=check.numbers)
        for check in checks
    ]


def _why(seconds: float) -> str:
    return f"a process of the server or its client was stopped from outside for {max(seconds, 0.1):.1f} s meanwhile"
