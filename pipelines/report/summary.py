"""What the numbers say, in sentences and short lists: pure, for terminal and page alike."""

from pipelines.records.events import ENGINE_PARTS, PartKind, StageOutcome, side_by_side
from pipelines.records.rows import Row, concurrencies, lowest_category, verbosity_text
from pipelines.records.run_record import RunRecord
from pipelines.report.floor import FLOOR_METHOD, floor_text
from pipelines.report.memory import more_tokens
from pipelines.report.table import VERDICT_TONES, Tone, better_than_plausible, check_text, kept_text
from registry.contracts import Failure
from registry.contracts.base import Record


class Sentence(Record):
    """An artifact in one sentence."""

    name: str
    text: str
    tone: Tone


class TimedPart(Record):
    name: str
    kind: PartKind
    seconds: float


class TimedStage(Record):
    """A stage that ran, with its parts in the order in which they took place."""

    name: str
    parts: list[TimedPart]
    beside: list[str] = []
    """Stages that worked at the same time, so that it took longer than it would alone."""

    @property
    def seconds(self) -> float:
        return sum(part.seconds for part in self.parts)


def sentences(rows: list[Row]) -> list[Sentence]:
    """One sentence an artifact; the baseline has none unless it is doubtful, or it or a check of its server failed."""
    baseline, *artifacts = rows
    told = [Sentence(name=baseline.name, text=baseline.failure, tone="bad")] if baseline.failure else []
    doubts = [check.detail for check in baseline.soundness if check.outcome == "warn"]
    if doubts and not baseline.failure:
        told.append(Sentence(name=baseline.name, text=f"is doubtful: {'; '.join(doubts)}", tone="warn"))
    if failing := failed_checks(baseline):
        told.append(Sentence(name=baseline.name, text="; ".join(failing), tone="bad"))
    return told + [_sentence(row, rows, concurrencies(rows)) for row in artifacts]


def failed_checks(row: Row) -> list[str]:
    """What a check of the row's server found wrong, a text each."""
    checks = row.serving.checks if row.serving else []
    return [f"check of {check_text(check).rstrip('.')}" for check in checks if check.outcome == "fail"]


def _sentence(row: Row, rows: list[Row], levels: list[int]) -> Sentence:
    baseline = rows[0]
    if row.failure:
        return Sentence(name=row.name, text=f"failed in {row.failure.splitlines()[0]}", tone="bad")
    if row.blocked_by and row.measurement is None:
        made = "made and not measured" if row.artifact else "not made"
        return Sentence(name=row.name, text=f"was {made}, since {row.blocked_by} failed", tone="plain")
    if row.measurement is None:
        return Sentence(name=row.name, text="is not measured yet", tone="plain")
    failing = failed_checks(row)
    if row.retention is None:
        text = "; ".join(["was measured, but there is no baseline to compare it with", *failing])
        return Sentence(name=row.name, text=text, tone="bad" if failing else "warn")
    text = row.retention.verdict_reason.rstrip(".")
    if row.retention.verdict != "fail":
        text = f"{row.retention.verdict}: {text}"
    odd = [kept.category for kept in row.retention.categories if better_than_plausible(kept)]
    text += f"; implausibly better than the baseline in {', '.join(odd)}" if odd else ""
    lowest = lowest_category(row)
    if lowest:
        text += f"; lowest category {lowest.category}, keeps {kept_text(lowest)}"
    floor = floor_text(row, rows)
    text += f"; {floor}" if floor else ""
    if row.verbosity and row.verbosity.low is not None and row.verbosity.low > 1:
        text += f"; {verbosity_text(row.verbosity)}"
    gained = _gained(row, baseline, levels)
    text += f"; has {' and '.join(gained)}" if gained else ""
    text = "; ".join([text, *_room(row, baseline), *failing])
    tone = VERDICT_TONES[row.retention.verdict]
    if failing:
        tone = "bad"
    doubtful = bool(odd) or (floor is not None and row.method != FLOOR_METHOD)
    return Sentence(name=row.name, text=text, tone="warn" if doubtful and tone == "good" else tone)


def _gained(row: Row, baseline: Row, levels: list[int]) -> list[str]:
    told = []
    if row.size_bytes and baseline.size_bytes:
        told.append(f"{row.size_bytes / baseline.size_bytes:.2f} of the baseline's size")
    if levels:
        speed, base = row.tokens_per_second(levels[-1]), baseline.tokens_per_second(levels[-1])
        if speed and base:
            told.append(f"{speed / base:.2f} of its output tokens/s with {levels[-1]} requests at a time")
    return told


def _room(row: Row, baseline: Row) -> list[str]:
    """What the freed weights would hold, at most one text."""
    tokens = more_tokens(baseline.serving.memory, row.serving.memory) if row.serving and baseline.serving else None
    if tokens is None:
        return []
    kind = "more" if tokens >= 0 else "fewer"
    return [f"on the same memory, {abs(tokens):,} {kind} tokens of KV cache (computed)"]


def failed(record: RunRecord) -> list[tuple[str, Failure]]:
    """Stage and failure of every stage that failed by itself."""
    return [(one.name, one.result.failure) for one in record.outcomes if one.how == "failed" and one.result.failure]


def blame_text(failure: Failure) -> str:
    """Where the fault lies, in a word or two; empty where nothing shows it."""
    if failure.blame is None:
        return ""
    return "Quantbench itself" if failure.blame == "quantbench" else f"the {failure.blame}"


def names(outcomes: list[StageOutcome], how: str) -> list[str]:
    """Stages that ended in this way."""
    return [outcome.name for outcome in outcomes if outcome.how == how]


def reused_text(outcomes: list[StageOutcome]) -> str:
    """What was taken over from earlier runs, in words."""
    reused = names(outcomes, "reused")
    if not reused:
        return "reused: nothing, every stage ran"
    if len(reused) == len(outcomes):
        return f"reused: all {len(reused)} stages, nothing to do"
    return f"reused {len(reused)} of {len(outcomes)} stages: {', '.join(reused)}"


def timed_stages(record: RunRecord) -> list[TimedStage]:
    """Where the time of the stages that ran, and of the recording, went; parts under 0.05 s are left out."""
    beside = side_by_side(record.outcomes)
    stages = [
        TimedStage(
            name=name,
            beside=beside.get(name, []),
            parts=[
                TimedPart(name=part.replace("_", " "), kind=ENGINE_PARTS.get(part, "own"), seconds=seconds)
                for part, seconds in parts.items()
                if seconds >= 0.05
            ],
        )
        for name, parts in record.breakdown.stages.items()
    ]
    return [stage for stage in stages if stage.parts]
