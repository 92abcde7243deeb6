"""A quantize stage of another engine's environment, as a run starts it, and one with a piece of the engine replaced."""

import json
import tempfile
from pathlib import Path
from typing import Any

from configs.errors import StageError
from pipelines.environments.definition import environment_named
from pipelines.environments.making import OUR_CODE, in_use
from pipelines.execution.stage_job import run_job
from quantizers.base import QuantizeJob, load_method
from quantizers.checkpoints.checkpoint import describe
from quantizers.inspection.inspection import InspectJob, inspect
from registry.contracts import ArtifactRecord, CheckpointRecord, InspectionRecord, StageResult
from registry.contracts.base import Method
from registry.stage_process import StageClock
from serving_checks.processes import supervisor
from serving_checks.processes.pulse import UNBOUNDED, Patience
from tests import model_trial
from tests.tiny_families import make_tiny_of

MOST_SECONDS = 240
"""Of a tiny model in another environment, whose engine is imported for a quarter of a minute."""

_REPLACED = """\
import runpy, sys
import quantizers.engines.{engine} as engine
{replacement}
runpy.run_module("quantizers", run_name="__main__", alter_sys=True)
"""


def job_in(folder: Path, source: Path, rows: list[list[int]], config: dict[str, Any]) -> QuantizeJob:
    """A job that makes an artifact of `source` below `folder`, in bfloat16 on one thread."""
    output = folder / "artifact"
    output.mkdir(parents=True)
    (folder / "rows.json").write_text(json.dumps(rows))
    return QuantizeJob(
        stage="quantize",
        result_file=folder / "quantize.result.json",
        output_dir=output,
        name="mine",
        config=config,  # type: ignore[arg-type]
        checkpoint_dir=source,
        checkpoint=describe(source, origin="a random model"),
        calibration_dir=folder,
        calibration_digest="sha256:0",
        device="cpu",
        dtype="bfloat16",
        threads=1,
    )


def run(job: QuantizeJob, patience: Patience = UNBOUNDED) -> StageResult:
    """The job's result, of the method's own environment."""
    environment = environment_named(load_method(job.config.method).environment, "cpu")
    options: dict[str, Any] = {"env": {}, "patience": patience, "on_progress": lambda _: None}
    log_file = job.result_file.with_suffix(".log")
    return run_job(job, "quantizers", "quantize:mine", log_file, interpreter=environment, **options)


def run_replaced(job: QuantizeJob, engine: str, replacement: str) -> StageResult:
    """The same with a line of Python before it, in which the module of `quantizers/engines` is called `engine`."""
    job_file = job.result_file.with_suffix(".job.json")
    job_file.write_text(job.model_dump_json())
    program = _REPLACED.format(engine=engine, replacement=replacement)
    with in_use(environment_named(load_method(job.config.method).environment, "cpu"), print) as python:
        argv = [str(python), "-P", "-c", program, str(job_file)]
        supervisor.run(argv, log_file=job.result_file.with_suffix(".log"), env=OUR_CODE)
    return StageResult.model_validate_json(job.result_file.read_text())


def inspected(job: QuantizeJob, made: StageResult) -> InspectionRecord:
    """What our own inspection says of the artifact."""
    assert job.output_dir is not None
    seen = InspectJob(
        stage="inspect",
        result_file=job.result_file,
        checkpoint_dir=job.checkpoint_dir,
        checkpoint=job.checkpoint,
        artifact_dir=job.output_dir,
        artifact=ArtifactRecord.model_validate(made.record),
        device="cpu",
        dtype="bfloat16",
        threads=1,
    )
    return inspect(seen, StageClock(job.result_file.with_suffix(".progress")))[0]


def trial(model_type: str, method: Method, **parameters: Any) -> None:
    """`model_trial.trial` of a method in an environment of its own; ValueError says why it is not made."""
    try:
        _trial(model_type, method, parameters, seed=0)
    except model_trial.NotSoundError:
        _trial(model_type, method, parameters, seed=1)


def _trial(model_type: str, method: Method, parameters: dict[str, Any], seed: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        room, folder = Path(name) / "work", Path(name) / "model"
        room.mkdir()
        checkpoint = model_trial.apart(lambda: _described(model_type, folder, seed))
        job = model_trial.quantize_job(checkpoint, method, room, **parameters)
        try:
            made = run(job, Patience(deadline_seconds=MOST_SECONDS))
        except StageError as error:
            # Without the command and the end of the log behind it.
            told = model_trial.words(error).partition(": env ")[0].partition("; the end of ")[0]
            raise ValueError(told) from None
        if made.failure is not None:
            raise ValueError(model_trial.words(made.failure))
        artifact = ArtifactRecord.model_validate(made.record)
        try:
            model_trial.apart(
                lambda: model_trial.check_sound(checkpoint, artifact, inspected(job, made), room / "artifact")
            )
        except ValueError as error:
            raise model_trial.NotSoundError(str(error)) from None


def _described(model_type: str, folder: Path, seed: int) -> CheckpointRecord:
    make_tiny_of(model_type, folder, seed)
    return describe(folder, origin=str(folder))
