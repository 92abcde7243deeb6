"""Hands a finished run to the recorder's process, unless an equal run was recorded before."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from configs.errors import RequestError, StageError
from pipelines.execution.workspace import Workspace
from pipelines.recipe.run_config import TrackingConfig
from pipelines.records.run_record import Recorded, RunRecord
from pipelines.report.notes import notes_of
from pipelines.review.shared_run import write_shared
from pipelines.stage_programs.record import FinishedRun, RecordJob
from registry.contracts import StageResult
from registry.files import write_text_atomically
from registry.hashing import digest_of
from registry.stage_cache import StageKey
from registry.stage_process import progress_file_of, progress_text
from registry.tracking.address import PASSWORD_VARIABLE, password_of, scrubbed, with_password, without_password
from registry.tracking.probe import deleted_experiment, experiment_stage, holds_run
from registry.tracking.rest import NoAnswerError
from serving_checks.processes.endings import death_of
from serving_checks.processes.pulse import UNBOUNDED, Patience
from serving_checks.processes.supervisor import Supervised

_RECORD_VERSION = 3


class Ended(NamedTuple):
    """How a recording ended."""

    told: str
    """Where the run is, or why it is not recorded, in words."""
    recorded: Recorded | None = None


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
        uri = tracking.uri or workspace.default_tracking_uri
        self._uri, self._opened = without_password(uri), with_password(uri)
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

    def check(self) -> str | None:
        """Ask the store before work; what is doubtful about it, in words.

        Raises:
            RequestError: It will not take the run, or does not answer although the recipe requires it.
        """
        experiment = self._job.tracking.experiment
        try:
            if experiment_stage(self._opened, experiment) != "deleted":
                return None
        except NoAnswerError as error:
            what = f"the MLflow tracking store {self._uri} does not answer: {scrubbed(str(error), self._opened)}"
            if self._job.tracking.required:
                remedy = "start it, or name another by `tracking.uri`; `tracking.required` is what makes this run wait"
                raise RequestError(what, remedy=remedy, blame="machine") from error
            return f"{what}; the run is recorded at its end if it does by then"
        what, remedy = deleted_experiment(experiment, self._uri)
        raise RequestError(what, remedy=remedy)

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
        password = password_of(self._opened)
        secrets = {PASSWORD_VARIABLE: password} if password else {}
        # Known to `close` before it runs.
        self._child = Supervised(argv, log_file=self._log_file, env=env, secrets=secrets)
        try:
            self._child.start()
        except BaseException:
            self._child = None
            raise

    def record(
        self, record: RunRecord, start_seconds: float, on_progress: Callable[[str], None] = lambda text: None
    ) -> Ended:
        """Write the run to MLflow, unless it is there.

        A failure is told and not raised: the measurements are safe without MLflow, and the next run of the same command
        tries again.

        Args:
            record: All that is known of the run.
            start_seconds: `time.monotonic()` at the end of `record.breakdown`; the recorder adds the time since then.
            on_progress: Called a few times a second with what is being done.
        """
        with self._workspace.recording_lock(lambda pid: on_progress(f"waiting for the record of process {pid}")):
            return self._record(record, start_seconds, on_progress)

    def _record(self, record: RunRecord, start_seconds: float, on_progress: Callable[[str], None]) -> Ended:
        facts = {"rows": [row.model_dump(mode="json") for row in record.rows], "config": record.config}
        run = digest_of(facts | {"uri": self._uri})
        key = StageKey(stage="record", stage_version=_RECORD_VERSION, config={"run": run}, inputs={}, libraries={})
        known = self._workspace.cache.get(key)
        if known is not None:
            before = Recorded.model_validate(known.record)
            # A store that does not tell is asked by the recorder, which goes on with a run that is there.
            if holds_run(self._opened, before.run_id):
                return Ended(f"{before.where} (recorded before)", before)
        self.start()
        files = [write_shared(record, self._job.finished_run_file.parent)]
        finished = FinishedRun(run=record, key=run, notes=notes_of(record), files=files, start_seconds=start_seconds)
        write_text_atomically(self._job.finished_run_file, finished.model_dump_json(indent=2))
        assert self._child is not None  # noqa: S101 - `start` has made it
        try:
            exit_code = self._child.attend(
                self._patience,
                progress_file_of(self._job.result_file),
                lambda suspended: on_progress(
                    progress_text(self._job.result_file) + (", suspended" if suspended else "")
                ),
            )
        except StageError as error:
            return Ended(f"not recorded in MLflow: {error.what.splitlines()[0]}; {error.remedy}")
        try:
            result = StageResult.model_validate_json(self._job.result_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            death = death_of(self._child.ending(exit_code))
            return Ended(f"not recorded in MLflow: {death.reason}; {death.remedy}, see {self._log_file}")
        if result.failure is not None:
            return Ended(f"not recorded in MLflow: {result.failure.what}; {result.failure.remedy}")
        self._workspace.cache.put(key, "record", result)
        recorded = Recorded.model_validate(result.record)
        return Ended(recorded.where, recorded)

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
