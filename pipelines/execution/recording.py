"""Hands a finished run to the recorder's process, unless an equal run was recorded before."""

import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from configs.errors import StageError
from pipelines.execution.workspace import Workspace
from pipelines.recipe.run_config import TrackingConfig
from pipelines.records.run_record import Recorded, RunRecord
from pipelines.stage_programs.record import FinishedRun, RecordJob
from registry.contracts import StageResult
from registry.files import write_text_atomically
from registry.hashing import digest_of
from registry.mlflow_backend import holds_run
from registry.stage_cache import StageKey
from serving_checks.processes.endings import death_of
from serving_checks.processes.pulse import UNBOUNDED, Patience
from serving_checks.processes.supervisor import Supervised

_RECORD_VERSION = 2


class Recorder:
    """Writes a run to MLflow in a process of its own; leaving the block ends it.

    That process takes ten seconds to import MLflow and to open a new store, so it is started with the run's first work
    and waits for its end. A run that reuses everything never starts it: finding nothing new takes no MLflow.

    Args:
        tracking: Where to record.
        workspace: Remembers what was recorded.
        run_dir: `runs/<id>/`.
        patience: With the process, once the run is handed to it.
    """

    def __init__(
        self, tracking: TrackingConfig, workspace: Workspace, run_dir: Path, patience: Patience = UNBOUNDED
    ) -> None:
        self._workspace, self._patience = workspace, patience
        self._uri = tracking.uri or workspace.default_tracking_uri
        stages = run_dir / "stages"
        self._job = RecordJob(
            stage="record",
            result_file=stages / "record.result.json",
            finished_run_file=stages / "record.run.json",
            artifact_root=workspace.root / "mlartifacts",
            store_root=workspace.root / "store",
            tracking_uri=self._uri,
            tracking=tracking,
        )
        self._log_file = run_dir / "logs" / "record.log"
        self._child: Supervised | None = None

    def start(self) -> None:
        """Start the process, unless it runs. One that ended early, its store out of reach then, gets another try."""
        if self._child is not None and self._child.poll() is None:
            return
        job_file = self._job.result_file.with_name("record.job.json")
        job_file.parent.mkdir(exist_ok=True)
        self._job.result_file.unlink(missing_ok=True)
        write_text_atomically(job_file, self._job.model_dump_json(indent=2))
        argv = [sys.executable, "-P", "-m", "pipelines.stage_programs.record", str(job_file)]
        self.close()
        env = {"MLFLOW_DISABLE_TELEMETRY": "true"}
        self._child = Supervised(argv, log_file=self._log_file, env=env)  # known to `close` before it runs
        try:
            self._child.start()
        except BaseException:
            self._child = None
            raise

    def record(self, record: RunRecord, start_seconds: float) -> str:
        """Write the run to MLflow.

        Args:
            record: All that is known of the run.
            start_seconds: `time.monotonic()` at the end of `record.breakdown`; the recorder adds the time since then.

        Returns:
            Where it is, in words. A failure is told in words too: the measurements are safe without MLflow, and the
            next run of the same command tries again.
        """
        facts = {"rows": [row.model_dump(mode="json") for row in record.rows], "config": record.config}
        run = digest_of(facts | {"uri": self._uri})
        key = StageKey(stage="record", stage_version=_RECORD_VERSION, config={"run": run}, inputs={}, libraries={})
        known = self._workspace.cache.get(key)
        if known is not None:
            before = Recorded.model_validate(known.record)
            if holds_run(self._uri, before.run_id):
                return f"{before.where} (recorded before)"
        self.start()
        finished = FinishedRun(run=record, start_seconds=start_seconds)
        write_text_atomically(self._job.finished_run_file, finished.model_dump_json(indent=2))
        assert self._child is not None  # noqa: S101 - `start` has made it
        try:
            exit_code = self._child.attend(self._patience)
        except StageError as error:
            return f"not recorded in MLflow: {error.what.splitlines()[0]}; {error.remedy}"
        try:
            result = StageResult.model_validate_json(self._job.result_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            death = death_of(self._child.ending(exit_code))
            return f"not recorded in MLflow: {death.reason}; {death.remedy}, see {self._log_file}"
        if result.failure is not None:
            return f"not recorded in MLflow: {result.failure.what}; {result.failure.remedy}"
        self._workspace.cache.put(key, "record", result)
        return Recorded.model_validate(result.record).where

    def close(self) -> None:
        """End the process."""
        if self._child is not None:
            self._child.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
