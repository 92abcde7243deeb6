"""Turns a stage and the results it needs into the job file of its process."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evals.asking.token_agreement import fixed_prompts
from evals.judging.adaptive import Adaptive
from pipelines.planning.context import JobContext
from pipelines.planning.data_parallel import servers_of
from pipelines.planning.stages import Stage, proved_by
from pipelines.recipe.tune_config import cell_load
from pipelines.stage_programs.measure import MeasureJob
from pipelines.stage_programs.serving_stage import ServeJob
from quantizers.base import QuantizeJob, mixed_precision_of, packing_of
from quantizers.calibration.config import CalibrateJob
from quantizers.checkpoints.checkpoint import PrepareJob
from quantizers.inspection.inspection import InspectJob
from quantizers.inspection.soundness import SoundnessJob
from quantizers.precision.choice import choose_precision
from quantizers.sensitivity.stage import SensitivityJob
from registry.contracts import (
    ArtifactRecord,
    CheckpointRecord,
    MeasurementRecord,
    PrecisionRecord,
    SensitivityRecord,
    StageJob,
    StageResult,
)
from registry.store import Store


def job_of(
    stage: Stage,
    context: JobContext,
    results: Mapping[str, StageResult],
    store: Store,
    result_file: Path,
    output_dir: Path,
    log_file: Path,
) -> StageJob:
    """The job of `stage`; every input it names has a result in `results`. Raises DamagedObject for a damaged one."""
    config, machine = context.config, context.machine
    common = {"stage": stage.kind, "result_file": result_file, "output_dir": output_dir}
    computing = {"device": machine.device, "dtype": stage.dtype, "threads": machine.threads}
    if stage.kind == "prepare":
        return PrepareJob(**common, source=config.source, dtype=stage.dtype)
    directories = {
        role: store.open(_object_digest(results[name])) for role, name in stage.inputs.items() if results[name].object
    }
    if stage.kind == "measure":
        model = results[stage.inputs["model"]]
        asked = {
            "adaptive": _adaptive(context, stage, results, directories),
            "asked_alone": stage.config.get("asked_alone", 0),
            "profile": stage.profile,
            "proved": proved_by(results) if stage.proofs == "kernel" else [],
        }
        measuring = common | computing | asked
        if stage.config["load"] is not None:
            measuring |= {"load": config.load, "checks": config.checks}
        return _measure_job(context, model, directories["model"], log_file, {"load": None} | measuring)
    if stage.kind == "tune":
        model = results[stage.inputs["model"]]
        assert config.tune is not None, "its stages are made from it"  # noqa: S101
        served = computing | _served(context, model, directories["model"], log_file)
        load = cell_load(config.load, config.tune)
        return ServeJob(**common, **served, serving=stage.config["serving"], load=load)
    checkpoint = CheckpointRecord.model_validate(results["prepare"].record)
    if stage.kind != "soundness":  # which nothing works beside
        computing |= {"threads": machine.making_threads}
    reading = common | computing | {"checkpoint_dir": directories["checkpoint"], "checkpoint": checkpoint}
    return _checkpoint_job(stage, context, results, directories, reading)


def _checkpoint_job(
    stage: Stage,
    context: JobContext,
    results: Mapping[str, StageResult],
    directories: Mapping[str, Path],
    reading: dict[str, Any],
) -> StageJob:
    """The job of a stage that reads the checkpoint and serves nothing."""
    if stage.kind == "soundness":
        return SoundnessJob(**reading, texts=fixed_prompts())
    if stage.kind == "calibrate":
        return CalibrateJob(**reading, config=stage.config["calibration"], excluded_texts=context.excluded_texts)
    if stage.kind == "inspect":
        return InspectJob(
            **reading,
            artifact_dir=directories["artifact"],
            artifact=ArtifactRecord.model_validate(results[stage.inputs["artifact"]].record),
        )
    calibration = results[stage.inputs["calibration"]] if "calibration" in stage.inputs else None
    if stage.kind == "sensitivity":
        assert calibration is not None, "its rows are what it measures on"  # noqa: S101
        return SensitivityJob(
            **reading,
            calibration_dir=directories["calibration"],
            calibration_digest=_object_digest(calibration),
            group_size=stage.config["group_size"],
            bits=stage.config["bits"],
            trials=stage.config["trials"],
        )
    return QuantizeJob(
        **reading,
        name=stage.subject,
        config=stage.method,
        calibration_dir=directories.get("calibration"),
        calibration_digest=_object_digest(calibration) if calibration else None,
        precision=_precision(stage, results, reading["checkpoint"]),
    )


def _precision(
    stage: Stage, results: Mapping[str, StageResult], checkpoint: CheckpointRecord
) -> PrecisionRecord | None:
    """The bits of each Linear, of an entry that asks for mixed precision."""
    mixed = mixed_precision_of(stage.method) if stage.method else None
    if stage.method is None or mixed is None:
        return None
    sensitivity = SensitivityRecord.model_validate(results[stage.inputs["sensitivity"]].record)
    return choose_precision(mixed, packing_of(stage.method), checkpoint, sensitivity)


def _adaptive(
    context: JobContext, stage: Stage, results: Mapping[str, StageResult], directories: Mapping[str, Path]
) -> Adaptive | None:
    """For an artifact of an adaptive run: how to look, and what the baseline answered."""
    if "baseline" not in stage.inputs:
        return None
    evaluation = MeasurementRecord.model_validate(results[stage.inputs["baseline"]].record).evaluation
    return Adaptive(
        plan=context.config.evaluation.looks,
        baseline=evaluation,
        baseline_samples=directories["baseline"] / evaluation.samples_file,
    )


def _measure_job(
    context: JobContext, model: StageResult, model_dir: Path, log_file: Path, common: dict[str, Any]
) -> MeasureJob:
    config = context.config
    assert model.object is not None, "a model is files"  # noqa: S101
    return MeasureJob(
        **common | _served(context, model, model_dir, log_file),
        servers=servers_of(config, context.machine, model.object.size_bytes),
        suite=context.suite,
        data=config.evaluation.data,
        num_concurrent=config.evaluation.num_concurrent,
        serving=config.serving,
    )


def _served(context: JobContext, model: StageResult, model_dir: Path, log_file: Path) -> dict[str, Any]:
    """What is served, and where."""
    return {
        "model_dir": model_dir,
        "model_digest": _object_digest(model),
        "threads": context.machine.serving_threads,
        "device_name": context.machine.device_name,
        # No name of an entry holds a plus, so this is no other stage's log.
        "server_log_file": log_file.with_name(f"{log_file.stem}+server.log"),
        "deadlines": context.config.deadlines,
        "unquantized": model.stage == "prepare",
    }


def _object_digest(result: StageResult) -> str:
    assert result.object is not None, "stages that others read make files"  # noqa: S101
    return result.object.digest
