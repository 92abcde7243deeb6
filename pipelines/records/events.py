"""What happened in a run, stage by stage, as JSON lines, and where its time went."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Literal

from registry.contracts import StageResult
from registry.contracts.base import Record

How = Literal["done", "reused", "failed", "skipped"]

PartKind = Literal["load", "quantize", "serve", "evaluate", "load test", "checks", "wait", "own"]

WAIT_PART = "wait_to_be_alone"
"""Of a measurement, until the stages that work beside it have ended: what has a speed is measured alone."""

ENGINE_PARTS: dict[str, PartKind] = {
    "import": "load",
    "download": "load",
    "load": "load",
    "reload": "load",
    "sample": "quantize",
    "tokenize": "quantize",
    "quantize": "quantize",
    "convert": "quantize",
    "prove": "quantize",
    "save": "quantize",
    "serve_start": "serve",
    "smoke": "serve",
    "serve_stop": "serve",
    "score": "evaluate",
    "answer": "evaluate",
    "evaluate": "evaluate",
    "load_test": "load test",
    "checks": "checks",
    "limits": "load test",
    "sharding": "checks",
    "profile": "serve",
    WAIT_PART: "wait",
}
"""Parts of a stage's time in which a model is loaded, quantized (its calibration rows included), served or evaluated,
or in which another stage does so.

Our own overhead is all the rest of a run: reading the recipe, process starts, copying, hashing and verifying files,
comparing weights and tokenizers, statistics, waiting for another run's lock, the page and the recording.
"""


class StageOutcome(Record):
    """How one stage of one run ended."""

    name: str
    how: How
    started_at: datetime | None = None
    """In UTC; None in records from before it was kept."""
    wall_seconds: float
    result: StageResult
    node: str | None = None
    """Of the cluster, which did the work; None for the machine of the run."""


class EventLog:
    """Appends one line an outcome, flushed at once: a run that is killed leaves what it knew."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, outcome: StageOutcome) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(outcome.model_dump_json() + "\n")


class TimeBreakdown(Record):
    """Wall time of a run by stage and part, in seconds."""

    wall_seconds: float
    stages: dict[str, dict[str, float]]
    """Stage name -> part -> seconds; `own` is what is not in ENGINE_PARTS."""
    own_seconds: float
    """Everything in the run that is not quantizing, loading, serving or evaluating; see ENGINE_PARTS."""

    @property
    def own_share(self) -> float:
        return self.own_seconds / self.wall_seconds if self.wall_seconds else 0.0

    def with_own(self, name: str, seconds: float) -> "TimeBreakdown":
        """The breakdown of a run that went on for `seconds` more, with work of our own called `name`."""
        return self.model_copy(
            update={
                "wall_seconds": self.wall_seconds + seconds,
                "own_seconds": self.own_seconds + seconds,
                "stages": self.stages | {name: {"own": seconds}},
            }
        )


def time_breakdown(outcomes: Iterable[StageOutcome], wall_seconds: float) -> TimeBreakdown:
    """Where `wall_seconds` went; only stages that ran count, reused ones cost nothing worth a row."""
    stages: dict[str, dict[str, float]] = {}
    worked = [outcome for outcome in outcomes if outcome.how in ("done", "failed")]
    for outcome in worked:
        parts: dict[str, float] = defaultdict(float)
        for part, seconds in outcome.result.timings_seconds.items():
            parts[part if part in ENGINE_PARTS else "own"] += seconds
        parts["own"] += max(0.0, outcome.wall_seconds - sum(outcome.result.timings_seconds.values()))
        stages[outcome.name] = dict(parts)
    # Where two stages worked side by side, what is own in one of them counts, whatever the other did.
    own_seconds = wall_seconds - _covered_seconds(worked) + sum(parts["own"] for parts in stages.values())
    own_seconds = min(max(0.0, own_seconds), wall_seconds)
    return TimeBreakdown(wall_seconds=wall_seconds, stages=stages, own_seconds=own_seconds)


def side_by_side(outcomes: Iterable[StageOutcome]) -> dict[str, list[str]]:
    """Stage that worked -> those that worked at the same time on the same machine, in the order of `outcomes`; none is
    left out."""
    spans = {one.name: (one.node, span) for one in outcomes if (span := _span(one))}
    return {
        name: [
            other
            for other, (where, (begin, end)) in spans.items()
            if other != name and where == node and begin < span[1] and span[0] < end
        ]
        for name, (node, span) in spans.items()
    }


def _covered_seconds(outcomes: Iterable[StageOutcome]) -> float:
    """Of the time in which at least one of the stages worked."""
    spans = [(_span(outcome), outcome.wall_seconds) for outcome in outcomes]
    covered = sum(seconds for span, seconds in spans if span is None)  # from before the time was kept: one at a time
    reached = float("-inf")
    for begin, end in sorted(span for span, _ in spans if span):
        covered += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return covered


def _span(outcome: StageOutcome) -> tuple[float, float] | None:
    """From when to when a stage worked, in seconds; None where it did not, or nobody knows."""
    if outcome.started_at is None or outcome.how not in ("done", "failed"):
        return None
    begin = outcome.started_at.timestamp()
    return begin, begin + outcome.wall_seconds
