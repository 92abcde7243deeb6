"""What an orchestrator shows beside a stage: its digest, its verdict and its main numbers, with units in the names."""

import math

from pipelines.records.events import StageOutcome
from pipelines.records.rows import UNQUANTIZED, Row, concurrencies
from quantizers.precision.telling import told_precision
from registry.contracts import ArtifactRecord, CalibrationRecord, CheckpointRecord, InspectionRecord, SoundnessRecord
from registry.hashing import digest_of

Shown = str | int | float | None


def digest_shown(outcome: StageOutcome) -> str:
    """Of the stage's files; of its record where it makes none. Equal digests, equal results."""
    result = outcome.result
    return result.object.digest if result.object else digest_of(result.record)


def asset_metadata(outcome: StageOutcome, row: Row | None) -> dict[str, str | int | float]:
    """What is shown of a stage that gave a result; what is not known is left out.

    Args:
        outcome: The stage's.
        row: The model's that the stage is about.
    """
    kind = outcome.name.partition(":")[0]
    shown: dict[str, Shown] = {
        "digest": digest_shown(outcome),
        "how": outcome.how,
        "wall_seconds": round(outcome.wall_seconds, 3),
        "peak_memory_bytes": outcome.result.peak_memory_bytes,
    }
    record = outcome.result.record
    if kind == "prepare":
        shown |= _of_checkpoint(CheckpointRecord.model_validate(record))
    elif kind == "soundness":
        checks = SoundnessRecord.model_validate(record).checks
        shown |= {f"soundness.{check.name}": check.outcome for check in checks}
    elif kind == "calibrate":
        calibration = CalibrationRecord.model_validate(record)
        shown |= {"rows": calibration.rows, "tokens": calibration.tokens, "source": calibration.source}
    elif kind == "quantize":
        shown |= _of_artifact(ArtifactRecord.model_validate(record))
    elif kind == "inspect":
        shown |= _of_inspection(InspectionRecord.model_validate(record))
    elif kind == "measure" and row:
        shown |= _of_measurement(row)
    return {name: _finite(value) for name, value in shown.items() if value is not None}


def verdict_shown(row: Row) -> dict[str, str]:
    """An artifact's verdict, and that of each category."""
    categories = row.retention.categories if row.retention else []
    return {"verdict": row.verdict or "not judged", **{f"verdict.{one.category}": one.verdict for one in categories}}


def _of_checkpoint(checkpoint: CheckpointRecord) -> dict[str, Shown]:
    return {
        "origin": checkpoint.origin,
        "architecture": checkpoint.architecture,
        "parameters": checkpoint.parameters,
        "dtype": checkpoint.dtype,
        "size_bytes": checkpoint.size_bytes,
    }


def _of_artifact(artifact: ArtifactRecord) -> dict[str, Shown]:
    return {
        "method": artifact.method,
        "engine": artifact.engine,
        "bits_per_weight": artifact.bits_per_weight,
        "precision": told_precision(artifact.precision) if artifact.precision else None,
        "size_bytes": artifact.size_bytes,
        "fallback_modules": artifact.fallback_count,
    }


def _of_inspection(inspection: InspectionRecord) -> dict[str, Shown]:
    errors = inspection.module_relative_error
    worst = max(errors, key=lambda module: errors[module], default=None)
    return {
        "checks_passed": sum(check.passed for check in inspection.checks),
        "largest_relative_error": errors[worst] if worst else None,
        "largest_relative_error_module": worst,
    }


def _of_measurement(row: Row) -> dict[str, Shown]:
    shown: dict[str, Shown] = {} if row.method == UNQUANTIZED else dict(verdict_shown(row))
    for score in row.measurement.evaluation.categories if row.measurement else []:
        shown[f"{score.category}.{score.metric}"] = score.value
    for kept in row.retention.categories if row.retention else []:
        shown[f"{kept.category}.kept"] = kept.kept
    for level in concurrencies([row]):
        shown[f"output_tokens_per_second.concurrency_{level}"] = row.tokens_per_second(level)
    if row.serving:
        memory = row.serving.memory
        shown |= {
            "resident_weights_bytes": memory.resident_weights_bytes,
            "kv_cache_tokens": memory.kv_cache_tokens,
            "peak_process_bytes": memory.peak_process_bytes,
            "start_seconds": row.serving.start_seconds,
        }
    return shown


def _finite(value: str | int | float) -> str | int | float:
    """JSON has no number for what is none."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
