"""How a stage's work is done: by a process on this machine, its files moved into the workspace's store."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from configs.errors import StageError
from evals.asking.hub_data import OFFLINE
from pipelines.execution.fork_servers import ForkServers, fetches
from pipelines.execution.jobs import job_of
from pipelines.execution.shared_machine import SharedMachine
from pipelines.execution.stage_job import run_job
from pipelines.execution.workspace import Workspace
from pipelines.planning.context import JobContext
from pipelines.planning.stages import STAGE_MODULES, Stage
from pipelines.stage_programs.measure import MeasureJob
from pipelines.stage_programs.serving_stage import ServeJob
from quantizers.base import QuantizeJob
from quantizers.sensitivity.stage import SensitivityJob
from registry.contracts import StageResult


class StageWork(Protocol):
    """Who does the work of a run's stages. Several threads may ask at the same time."""

    def result_of(
        self, stage: Stage, results: Mapping[str, StageResult], on_progress: Callable[[str], None]
    ) -> StageResult:
        """Do the work of `stage`; what it made is in the workspace's store then.

        Args:
            stage: Every input that it names has a result.
            results: Of the stages before.
            on_progress: Called a few times a second with what is being done.

        Raises:
            DamagedObject: An input's files are not those of its digest, before the work or after it.
            StageError: There is no result; a failure that the stage explains is in the result.
        """

    def node_of(self, stage: Stage) -> str | None:
        """The machine that did it; None for this one."""


class WorkHere:
    """The work is done on this machine.

    Args:
        context: Config, machine, suite: what jobs are made of.
        workspace: Whose store is read and written.
        run_dir: For logs and jobs.
        machine: As the run's stages share it.
        fork_servers: What stages are forked from; every stage is a program of its own when None.
    """

    def __init__(
        self,
        context: JobContext,
        workspace: Workspace,
        run_dir: Path,
        machine: SharedMachine,
        fork_servers: ForkServers | None = None,
    ) -> None:
        self._context, self._workspace, self._run_dir = context, workspace, run_dir
        self._machine, self._fork_servers = machine, fork_servers

    def result_of(
        self, stage: Stage, results: Mapping[str, StageResult], on_progress: Callable[[str], None]
    ) -> StageResult:
        """As `StageWork` says; nothing is left behind when it fails."""
        with self._workspace.store.staging() as staging:
            return self._made_in(staging, stage, results, on_progress)

    def node_of(self, stage: Stage) -> str | None:
        """None: this one."""
        del stage
        return None

    def _made_in(
        self, staging: Path, stage: Stage, results: Mapping[str, StageResult], on_progress: Callable[[str], None]
    ) -> StageResult:
        stem = file_stem(stage.name)
        result_file = self._run_dir / "stages" / f"{stem}.result.json"
        result_file.parent.mkdir(exist_ok=True)
        result_file.unlink(missing_ok=True)
        log_file = self._run_dir / "logs" / f"{stem}.log"
        job = job_of(stage, self._context, results, self._workspace.store, result_file, staging, log_file)
        if isinstance(job, ServeJob) and self._fork_servers:
            fork_server = self._fork_servers.for_model_servers(stage, job.serving)
            job = job.model_copy(update={"fork_server": fork_server})
        if isinstance(job, SensitivityJob) and (key := stage.key(results)):
            job = job.model_copy(update={"trials_file": self._workspace.trials_file(key)})
        if isinstance(job, QuantizeJob) and (key := stage.key(results)):
            job = job.model_copy(update={"kept_dir": self._workspace.kept_dir(key)})
        if isinstance(job, MeasureJob):
            told = {"answers_dir": self._workspace.answers_dir, "turns_dir": self._machine.turns_dir}
            job = job.model_copy(update=told)
        env, fork_server = {} if fetches(stage) else OFFLINE, None
        if making_env := self._machine.making_env(stage):
            env = env | making_env
        elif self._fork_servers:
            fork_server = self._fork_servers.for_stage(stage)
        try:
            result = run_job(
                job,
                STAGE_MODULES[stage.kind],
                stage.name,
                log_file,
                env=env,
                patience=self._context.config.deadlines.of_stage(stage.kind)._replace(given_up=self._machine.given_up),
                on_progress=on_progress,
                interpreter=stage.interpreter,
                fork_server=fork_server,
            )
        except StageError:
            self._check_inputs(stage, results)
            raise
        self._check_inputs(stage, results)
        if result.failure is None and result.object is not None:
            stored = self._workspace.store.put(staging)
            if stored.digest != result.object.digest:
                raise StageError(
                    f"{stage.name}: the files changed after the stage had hashed them",
                    remedy="check the disk (`dmesg`) and memory, then run the same command again",
                    blame="machine",
                )
        return result

    def _check_inputs(self, stage: Stage, results: Mapping[str, StageResult]) -> None:
        """Raise DamagedObject for files that changed while the stage read them, whatever it made of them."""
        for digest in input_digests(stage, results):
            self._workspace.store.open(digest)


def file_stem(name: str) -> str:
    """What the files of the stage of that name are called in a run's folder."""
    return name.replace(":", "-")


def input_digests(stage: Stage, results: Mapping[str, StageResult]) -> list[str]:
    """The objects that the stage reads."""
    objects = [results[name].object for name in stage.inputs.values()]
    return [reference.digest for reference in objects if reference]
