"""A run as it ended: what the report, the recorder and `--json` read."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from configs.errors import StageError
from pipelines.planning.device import MachineRecord
from pipelines.records.decision import RecommendationRecord
from pipelines.records.events import StageOutcome, TimeBreakdown
from pipelines.records.rows import Row
from registry.contracts.base import Record
from registry.contracts.comparison import Verdict

RESULT_FILE = "result.json"


class Recorded(Record):
    """Where a run was recorded."""

    where: str
    """In words, with all that a reader needs to find it."""
    run_id: str
    """MLflow's own."""
    versions: dict[str, str] = {}
    """Row -> version of the registered model that its artifact is."""


class Notes(Record):
    """What MLflow's own pages say, in Markdown."""

    run: str
    """Of the run, and of the registered model since it is the last one."""
    rows: dict[str, str]
    """Of a row's run, and of the version that its artifact gets."""


class RunRecord(Record):
    """`RESULT_FILE` of a run's folder."""

    run_id: str
    run_dir: Path
    started_at: datetime
    """In UTC; when the recipe began to be read."""
    config: dict[str, Any]
    machine: MachineRecord
    rows: list[Row]
    recommendation: RecommendationRecord | None = None
    """None in records from before there was one."""
    asked_revision: str | None = None
    """The hub's branch or tag that the recipe names, where it pointed to the commit in `config` when the run began."""
    left_out: dict[str, str] = {}
    """Optional entry of the recipe -> why this machine cannot serve it."""
    outcomes: list[StageOutcome]
    breakdown: TimeBreakdown
    """To the run's end, page and recording included; what the recorder is given ends where the recording begins."""
    page: Path | None = None
    """`report.html`, which opens offline."""
    tracking: str | None = None
    """Where MLflow has the run, or why it has not."""
    recorded: bool | None = None
    """Whether it has; None while it is not done."""

    @property
    def registered_model(self) -> str:
        """The registered model that its models are versions of."""
        return str(self.config.get("tracking", {}).get("registered_model") or self.config["name"])

    def policy_outcome(self, name: str) -> Verdict | None:
        """What the recipe's policy says of an artifact; None where it was not asked."""
        candidates = self.recommendation.candidates if self.recommendation else []
        return next((one.outcome for one in candidates if one.name == name), None)

    @property
    def exit_code(self) -> int:
        """0 when every stage is done, and recorded where the recipe requires it; else what the first failed stage asks
        for."""
        failures = [outcome.result.failure for outcome in self.outcomes if outcome.how == "failed"]
        unrecorded = self.recorded is False and self.config.get("tracking", {}).get("required")
        return next((failure.exit_code for failure in failures if failure), StageError.exit_code if unrecorded else 0)


class ResultFile(NamedTuple):
    """A run's record on disk, not yet read."""

    path: Path
    size_bytes: int
    written_ns: int
    """By the clock of the file system, since the epoch."""

    @property
    def run_id(self) -> str:
        return self.path.parent.name


def result_files(root: Path) -> list[ResultFile]:
    """Of the runs of a workspace that came to their end, the one that ended last first.

    Args:
        root: The workspace's folder.
    """
    return sorted(_result_files(root), key=lambda file: (file.written_ns, file.run_id), reverse=True)


def result_file(run_dir: Path) -> ResultFile:
    """Of one run; raises FileNotFoundError where it has none."""
    path = run_dir / RESULT_FILE
    known = path.stat()
    return ResultFile(path, known.st_size, known.st_mtime_ns)


def _result_files(root: Path) -> Iterator[ResultFile]:
    for path in root.glob(f"runs/*/{RESULT_FILE}"):
        with suppress(FileNotFoundError):  # removed just now
            yield result_file(path.parent)
