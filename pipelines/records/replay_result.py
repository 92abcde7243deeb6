"""What a replay ended with, as data."""

from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, NamedTuple

from registry.contracts import ReplayRecord
from registry.contracts.base import Record

if TYPE_CHECKING:
    import pyarrow  # type: ignore[import-untyped]


class SideSummary(Record):
    """One side's answers, of the pairs in which both answered; None where nothing is known."""

    tokens: int | None
    """Of all answers, where every one's are known."""
    median_seconds: float | None
    """Of an answer, from sending to its end."""
    median_first_token_seconds: float | None
    refused: int
    mean_score: float | None
    """Against known answers."""


class ReplaySummary(Record):
    """What the pairs of a replay show at first sight. It is no verdict."""

    pairs: int
    compared: int
    """Pairs in which both answered."""
    same: int
    champion: SideSummary
    candidate: SideSummary
    median_first_difference: float | None
    """Token, from 0, of the pairs that differ; None where tokens are not known."""
    tool_calls: int
    """Pairs in which the champion called tools."""
    same_tool_calls: int
    mean_agreement: float | None
    """Share of the champion's tokens that are the candidate's likeliest, a pair each."""
    judged: int
    mean_preference: float | None

    @property
    def tokens_ratio(self) -> float | None:
        """The candidate's tokens to the champion's."""
        return _ratio(self.candidate.tokens, self.champion.tokens)

    @property
    def latency_ratio(self) -> float | None:
        """The candidate's median latency to the champion's."""
        return _ratio(self.candidate.median_seconds, self.champion.median_seconds)


class ReplayResult(NamedTuple):
    """What was replayed, and where it is."""

    record: ReplayRecord
    summary: ReplaySummary
    directory: Path


def summary_of(table: "pyarrow.Table") -> ReplaySummary:
    """Count what a table of pairs (`registry.pairs.read_pair_table`) shows."""
    rows = table.to_pylist()
    both = [row for row in rows if row["same"] is not None]
    calls = [row["same_tool_calls"] for row in both if row["same_tool_calls"] is not None]
    parted = [row["first_difference"] for row in both if row["first_difference"] is not None]
    preferences = [row["preference"] for row in both if row["preference"] is not None]
    return ReplaySummary(
        pairs=len(rows),
        compared=len(both),
        same=sum(row["same"] for row in both),
        champion=_side([row["champion"] for row in both]),
        candidate=_side([row["candidate"] for row in both]),
        median_first_difference=median(parted) if parted else None,
        tool_calls=len(calls),
        same_tool_calls=sum(calls),
        mean_agreement=_mean([row["agreement"] for row in both]),
        judged=len(preferences),
        mean_preference=_mean(preferences),
    )


def _side(answers: list[dict[str, Any]]) -> SideSummary:
    tokens = [one["completion_tokens"] for one in answers]
    return SideSummary(
        tokens=sum(tokens) if tokens and None not in tokens else None,
        median_seconds=_median([one["seconds"] for one in answers]),
        median_first_token_seconds=_median([one["first_token_seconds"] for one in answers]),
        refused=sum(one["refused"] for one in answers),
        mean_score=_mean([one["score"] for one in answers]),
    )


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None
