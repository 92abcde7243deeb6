"""Runs the stages of a plan one after the other, each in a process of its own, and keeps what they give."""

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from configs.errors import QuantbenchError, StageError
from pipelines.events import EventLog, How, StageOutcome
from pipelines.fork_servers import OFFLINE, ForkServers, fetches
from pipelines.jobs import JobContext, job_of
from pipelines.measure import MeasureJob
from pipelines.preflight import check_free_space
from pipelines.serving_stage import ServeJob
from pipelines.stages import STAGE_MODULES, Stage
from pipelines.workspace import Workspace
from registry.contracts import Failure, InspectionRecord, StageResult
from registry.files import write_text_atomically
from registry.stage_process import progress_file_of
from serving_checks import supervisor

_ENVIRONMENT = {"TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}

OnProgress = Callable[[Stage, str], None]


class Runner:
    """One run of one recipe in one workspace.

    Args:
        context: Config, machine, suite: what jobs are made of.
        workspace: Where results are kept and looked for.
        run_dir: `runs/<id>/` for logs, jobs and events.
        on_progress: Called a few times a second with the stage and what it is doing.
        fork_servers: What stages are forked from; every stage is a program of its own when None.
        before_work: Called before each stage that cannot be reused.
    """

    def __init__(
        self,
        context: JobContext,
        workspace: Workspace,
        run_dir: Path,
        on_progress: OnProgress,
        fork_servers: ForkServers | None = None,
        before_work: Callable[[], None] | None = None,
    ) -> None:
        self._context = context
        self._workspace = workspace
        self._run_dir = run_dir
        self._on_progress = on_progress
        self._fork_servers = fork_servers
        self._before_work = before_work
        self._events = EventLog(run_dir / "events.jsonl")
        self.results: dict[str, StageResult] = {}

    def run(self, stage: Stage) -> StageOutcome:
        """Reuse or make one stage's result. A failure is an outcome, so that stages that do not need it go on."""
        start = time.monotonic()
        how: How
        broken = [name for name in stage.inputs.values() if not _succeeded(self.results.get(name))]
        if broken:
            failure = Failure(what=f"{', '.join(broken)} failed", remedy="mend that first; this stage was skipped")
            result, how = StageResult(stage=stage.kind, failure=failure), "skipped"
        else:
            try:
                result, how = self._reuse_or_execute(stage)
            except QuantbenchError as error:
                failure = Failure(what=error.what, remedy=error.remedy, exit_code=error.exit_code)
                result, how = StageResult(stage=stage.kind, failure=failure), "failed"
        if stage.kind == "inspect" and result.failure is None:
            result, how = _judged(result, how)
        self.results[stage.name] = result
        outcome = StageOutcome(name=stage.name, how=how, wall_seconds=time.monotonic() - start, result=result)
        self._events.append(outcome)
        return outcome

    def reject(self, outcome: StageOutcome, error: QuantbenchError) -> StageOutcome:
        """Turn a finished stage into a failed one: its result was found not to be usable."""
        failure = Failure(what=error.what, remedy=error.remedy, exit_code=error.exit_code)
        result = outcome.result.model_copy(update={"failure": failure})
        self.results[outcome.name] = result
        rejected = outcome.model_copy(update={"how": "failed", "result": result})
        self._events.append(rejected)
        return rejected

    def _reuse_or_execute(self, stage: Stage) -> tuple[StageResult, How]:
        key = stage.key(self.results)
        if key is None:
            raise StageError(f"{stage.name} has no inputs", remedy="run again with --debug")
        cached = self._workspace.cache.get(key)
        if stage.is_answered_by(cached):
            return cached, "reused"
        with self._workspace.machine_lock(lambda pid: self._on_progress(stage, f"waiting for run of process {pid}")):
            # Another run may have made it while this one waited.
            cached = self._workspace.cache.get(key)
            if stage.is_answered_by(cached):
                return cached, "reused"
            if self._before_work:
                self._before_work()
            check_free_space(self._workspace.root, stage, self._context.config.source, self.results)
            result = self._execute(stage)
            if result.failure is None:
                self._workspace.cache.put(key, stage.name, result)
        return result, "failed" if result.failure else "done"

    def _execute(self, stage: Stage) -> StageResult:
        """Run the stage's process and move its files into the store; leaves nothing behind when it fails."""
        staging = self._workspace.store.new_staging_dir()
        stem = stage.name.replace(":", "-")
        result_file = self._run_dir / "stages" / f"{stem}.result.json"
        result_file.parent.mkdir(exist_ok=True)
        result_file.unlink(missing_ok=True)
        log_file = self._run_dir / "logs" / f"{stem}.log"
        try:
            job = job_of(stage, self._context, self.results, self._workspace.store, result_file, staging, log_file)
            if isinstance(job, ServeJob) and self._fork_servers:
                fork_server = self._fork_servers.for_model_servers(stage, job.serving)
                job = job.model_copy(update={"fork_server": fork_server})
            if isinstance(job, MeasureJob):
                job = job.model_copy(update={"answers_dir": self._workspace.answers_dir})
            job_file = result_file.with_name(f"{stem}.job.json")
            write_text_atomically(job_file, job.model_dump_json(indent=2))
            python = str(stage.interpreter or sys.executable)
            argv = [python, "-P", "-m", STAGE_MODULES[stage.kind], str(job_file)]
            finished = supervisor.run(
                argv,
                log_file=log_file,
                env=_ENVIRONMENT if fetches(stage) else _ENVIRONMENT | OFFLINE,
                on_tick=lambda: self._on_progress(stage, _progress_text(result_file)),
                fork_server=self._fork_servers.for_stage(stage) if self._fork_servers else None,
            )
            result = self._result_of(stage, result_file, finished, log_file, argv)
            if result.failure is None and result.object is not None:
                stored = self._workspace.store.put(staging)
                if stored.digest != result.object.digest:
                    raise StageError(
                        f"{stage.name}: the files changed after the stage had hashed them",
                        remedy="check the disk (dmesg), then run the same command again",
                    )
            timings = result.timings_seconds
            timings = timings | {"import": timings.get("import", 0.0) + finished.launch_seconds}
            return result.model_copy(
                update={"peak_memory_bytes": finished.peak_memory_bytes, "timings_seconds": timings}
            )
        except OSError as error:
            raise StageError(
                f"{stage.name}: {error.strerror or error} ({error.filename or staging})",
                remedy="free disk space or mend the path, then run the same command again; finished stages are kept",
            ) from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _result_of(
        self, stage: Stage, result_file: Path, finished: supervisor.Finished, log_file: Path, argv: list[str]
    ) -> StageResult:
        try:
            return StageResult.model_validate_json(result_file.read_text(encoding="utf-8"))
        except (OSError, ValidationError):
            code = finished.exit_code
            how = f"was killed by signal {code - 128}" if code > 128 else f"ended with exit code {code}"
            hint = "the kernel kills a process that runs out of memory; see dmesg. " if code == 137 else ""
            raise StageError(
                f"{stage.name} {how} after {finished.duration_seconds:.0f} s without a result; the end of {log_file}:\n"
                + _tail(log_file),
                remedy=f"{hint}run the same command again; to repeat this stage alone: {' '.join(argv)}",
            ) from None


def _judged(result: StageResult, how: How) -> tuple[StageResult, How]:
    """An inspection that found something wrong is a finished stage (kept in the cache) and a failed artifact."""
    failed = [check for check in InspectionRecord.model_validate(result.record).checks if not check.passed]
    if not failed:
        return result, how
    failure = Failure(
        what="the artifact did not pass its inspection: "
        + "; ".join(f"{check.name}: {check.detail}" for check in failed),
        remedy="the artifact is not served; change the method's parameters or its dtype and run again",
    )
    return result.model_copy(update={"failure": failure}), "failed"


def _succeeded(result: StageResult | None) -> bool:
    return result is not None and result.failure is None


def _progress_text(result_file: Path) -> str:
    try:
        said: dict[str, Any] = json.loads(progress_file_of(result_file).read_text())
    except (OSError, ValueError):
        return "starting"
    part = str(said["part"]).replace("_", " ")
    return f"{part} {said['done']}/{said['total']}" if said.get("total") else part


def _tail(log_file: Path, lines: int = 15) -> str:
    try:
        return "\n".join("    " + line for line in log_file.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return "    (no log)"
