"""`python -P -m quantizers job.json`: the prepare, soundness, calibrate, sensitivity, quantize and inspect stages."""

import sys
import time
from pathlib import Path
from typing import cast

from configs.errors import RequestError, blaming
from quantizers.base import QuantizeJob, check_rules, load_method, mixed_precision_of
from quantizers.calibration.calibration import calibrate
from quantizers.calibration.config import CalibrateJob
from quantizers.checkpoints.checkpoint import PrepareJob, prepare
from quantizers.checkpoints.older_readers import keep_readable
from quantizers.checkpoints.stored_model import stored_files, stored_headers
from quantizers.engines.heap import give_large_blocks_back
from quantizers.inspection.inspection import InspectJob, bits_per_weight, inspect
from quantizers.inspection.soundness import SoundnessJob, prove_soundness
from quantizers.methods.card import write_card
from quantizers.sensitivity.stage import SensitivityJob, measure_sensitivity
from registry.contracts import ArtifactRecord, ObjectRef, StageJob, StageResult
from registry.hashing import manifest_of
from registry.stage_process import StageClock, main


def prepare_stage(job: StageJob, clock: StageClock) -> StageResult:
    """Source -> CheckpointRecord and its folder."""
    with blaming("source"):
        record, versions = prepare(cast(PrepareJob, job), clock)
    made = ObjectRef(digest=record.digest, size_bytes=record.size_bytes)
    return StageResult(stage=job.stage, record=record.model_dump(mode="json"), object=made, versions=versions)


def soundness_stage(job: StageJob, clock: StageClock) -> StageResult:
    """Checkpoint -> SoundnessRecord and what the checkpoint said about each token of fixed texts."""
    job = cast(SoundnessJob, job)
    record, versions = prove_soundness(job, clock)
    return StageResult(
        stage=job.stage, record=record.model_dump(mode="json"), object=_object(job.output_dir), versions=versions
    )


def calibrate_stage(job: StageJob, clock: StageClock) -> StageResult:
    """Checkpoint and config -> CalibrationRecord and the folder with its rows."""
    job = cast(CalibrateJob, job)
    record, versions = calibrate(job, clock)
    return StageResult(
        stage=job.stage, record=record.model_dump(mode="json"), object=_object(job.output_dir), versions=versions
    )


def sensitivity_stage(job: StageJob, clock: StageClock) -> StageResult:
    """Checkpoint and calibration rows -> SensitivityRecord."""
    record, versions = measure_sensitivity(cast(SensitivityJob, job), clock)
    return StageResult(stage=job.stage, record=record.model_dump(mode="json"), versions=versions)


def quantize_stage(job: StageJob, clock: StageClock) -> StageResult:
    """Checkpoint, calibration and method -> ArtifactRecord and the artifact's folder."""
    job = cast(QuantizeJob, job)
    method = load_method(job.config.method)
    check_rules(
        method,
        job.config,
        job.checkpoint.linear_shapes,
        tensor_parallel=1,  # How it will be served was judged before; one rank is the least that has to work.
        device=job.device,
        quantize_dtype=job.dtype,
    )
    if method.needs_calibration and job.calibration_dir is None:
        raise RequestError(f"{job.config.method} needs calibration rows", remedy="add a calibration to the recipe")
    if mixed_precision_of(job.config) and job.precision is None:
        raise RequestError(
            f"{job.name} asks for mixed precision, and the job says no module's bits",
            remedy="give the job a `precision`, as runs do from the sensitivity stage's record",
        )
    give_large_blocks_back()
    start = time.perf_counter()
    outcome = method.quantize(job, clock)
    keep_readable(job.output_dir)
    write_card(job, outcome, job.output_dir)
    duration_seconds = time.perf_counter() - start
    with clock.part("hash"):
        made = _object(job.output_dir)
        headers = stored_headers(job.output_dir, job.checkpoint_dir)
        record = ArtifactRecord(
            digest=made.digest,
            checkpoint_digest=job.checkpoint.digest,
            calibration_digest=job.calibration_digest if method.needs_calibration else None,
            name=job.name,
            method=job.config.method,
            parameters=job.config.model_dump(mode="json", exclude={"method"}) | outcome.found,
            engine=outcome.engine,
            engine_versions=outcome.versions,
            size_bytes=sum(path.stat().st_size for path in stored_files(job.output_dir)),
            bits_per_weight=bits_per_weight(headers, job.checkpoint.linear_shapes),
            quantized_modules=outcome.modules,
            fallback_count=sum(module.fallback is not None for module in outcome.modules),
            quantize_dtype=job.dtype,
            quantize_device=job.device,
            duration_seconds=duration_seconds,
            precision=job.precision,
        )
    return StageResult(stage=job.stage, record=record.model_dump(mode="json"), object=made, versions=outcome.versions)


def inspect_stage(job: StageJob, clock: StageClock) -> StageResult:
    """Artifact and checkpoint -> InspectionRecord."""
    record, versions = inspect(cast(InspectJob, job), clock)
    return StageResult(stage=job.stage, record=record.model_dump(mode="json"), versions=versions)


def _object(output_dir: Path) -> ObjectRef:
    manifest = manifest_of(output_dir)
    return ObjectRef(digest=manifest.digest, size_bytes=manifest.size_bytes)


if __name__ == "__main__":
    sys.exit(
        main(
            {
                "prepare": (PrepareJob, prepare_stage),
                "soundness": (SoundnessJob, soundness_stage),
                "calibrate": (CalibrateJob, calibrate_stage),
                "sensitivity": (SensitivityJob, sensitivity_stage),
                "quantize": (QuantizeJob, quantize_stage),
                "inspect": (InspectJob, inspect_stage),
            }
        )
    )
