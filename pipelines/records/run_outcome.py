"""What one call of `quantbench run` came to, in a line: for schedulers, and whoever the recipe's `notify` tells."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

from configs.errors import Blame
from pipelines.records.events import How
from pipelines.records.rows import UNQUANTIZED
from pipelines.records.run_record import RunRecord
from registry.contracts import Failure
from registry.contracts.base import Record
from registry.contracts.comparison import Verdict

Status = Literal["finished", "unchanged", "left", "failed", "refused", "interrupted"]
"""finished: all stages are done; unchanged: `--if-changed` found nothing to do; left: another run of the recipe goes
on, and `--overlap leave` was asked for; failed: a stage failed, so that the same command may be tried again; refused:
the request is wrong, and would be again; interrupted: by a signal, so that the same command goes on."""


class ToldFailure(Record):
    """Something that failed for a reason of its own."""

    stage: str | None
    """None for what is no stage's."""
    what: str
    remedy: str
    blame: Blame | None = None


class ToldRegression(Record):
    """One quantity of one artifact that became worse since the last accepted version."""

    artifact: str
    quantity: str
    """A category of the suite, or a column of the review."""
    text: str
    """The numbers, and what they were taken from."""


class RunOutcome(Record):
    """The line that `quantbench run --json-line` prints, and what `notify` sends."""

    recipe: str | None
    """Its name; None where the file could not be read."""
    recipe_file: Path
    workspace: Path
    run_id: str | None = None
    """Of the run that took place, or for `unchanged` of the one that it would repeat."""
    status: Status
    exit_code: int
    why: str
    """A sentence."""
    started_at: datetime
    """In UTC."""
    seconds: float
    """Wall time of the command up to here."""
    stages: dict[How, int] = {}
    """How many were done, reused, failed and skipped."""
    source_commit: str | None = None
    """The hub's commit that was asked for, or that the recipe's branch or tag pointed to at the beginning."""
    verdicts: dict[str, Verdict | None] = {}
    """By artifact; None for one that was not judged."""
    verdicts_before: dict[str, Verdict | None] = {}
    """The same at the run before."""
    recommendation: str | None = None
    """The artifact to take; None where none is recommended."""
    regressions: list[ToldRegression] = []
    not_compared: list[str] = []
    """What kept regressions from being looked for, or some of them, in words."""
    failures: list[ToldFailure] = []
    report: Path | None = None
    """The page."""
    tracking: str | None = None
    """Where MLflow has the run, or why it has not."""

    @property
    def events(self) -> set[str]:
        """What of `notify.on` it is."""
        found = {"failure"} if self.status in ("failed", "refused") else set()
        if self.status == "finished":
            found.add("finished")
        if any(verdict and self.verdicts_before.get(name) != verdict for name, verdict in self.verdicts.items()):
            found.add("verdict")
        if self.regressions:
            found.add("regression")
        return found if self.status not in ("unchanged", "left", "interrupted") else set()


def verdicts_of(record: RunRecord | None) -> dict[str, Verdict | None]:
    """By artifact; of no run none."""
    rows = record.rows if record else []
    return {row.name: row.verdict for row in rows if row.method != UNQUANTIZED}


def failures_of(record: RunRecord) -> list[ToldFailure]:
    """Those that follow from no other."""
    failed = [(one.name, one.result.failure) for one in record.outcomes if one.how == "failed"]
    return [_told(name, failure) for name, failure in failed if failure]


def _told(stage: str, failure: Failure) -> ToldFailure:
    return ToldFailure(stage=stage, what=failure.what, remedy=failure.remedy, blame=failure.blame)


def stage_counts(record: RunRecord) -> dict[How, int]:
    """How its stages ended."""
    return dict(Counter(one.how for one in record.outcomes))


def sentence_of(status: Status, failures: Sequence[ToldFailure], stages: dict[How, int]) -> str:
    """Of a run that came to its end."""
    if failures:
        return f"{len(failures)} of {sum(stages.values())} stages failed, the first was {failures[0].stage}"
    return f"{status}: {', '.join(f'{count} {how}' for how, count in stages.items())}"
