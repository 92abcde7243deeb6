"""What can be known to fail before it costs an hour: rules, compatibility, disk space. Nothing is loaded."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from configs.errors import RequestError, StageError
from pipelines.compatibility import serving_violations
from pipelines.device import SERVE_16_BIT_ONLY
from pipelines.jobs import JobContext
from pipelines.stages import Stage, quantize_dtype, serve_dtype
from quantizers.calibration import check_calibration
from quantizers.rules import tensor_parallel_violations
from quantizers.table import load_method
from registry.contracts import CheckpointRecord, StageResult

_SPARE_BYTES = 64 << 20
_UNKNOWN_SOURCE_BYTES = 256 << 20


def check_rules(context: JobContext, checkpoint: CheckpointRecord) -> None:
    """Raise RequestError with all that forbids the run on this checkpoint, machine and serving config."""
    found = rule_violations(context, checkpoint)
    if found:
        raise RequestError(
            "the run is refused before its work begins:" + "".join(f"\n  - {line}" for line in found),
            remedy="change the recipe as each line says",
        )


def rule_violations(context: JobContext, checkpoint: CheckpointRecord) -> list[str]:
    """Sentences with the entry's name, the layers and the remedy; empty where nothing is wrong."""
    config, machine = context.config, context.machine
    ranks = config.serving.tensor_parallel_size
    found = tensor_parallel_violations(checkpoint, ranks)
    if any(load_method(method.method).needs_calibration for method in config.methods.values()):
        found += _calibration_violations(context, checkpoint)
    for name, method in config.methods.items():
        dtype = quantize_dtype(config, machine, method.method)
        shapes = checkpoint.linear_shapes
        lines = load_method(method.method).violations(method, shapes, ranks, machine.device, dtype)
        lines += serving_violations(method.method, machine.device, ranks)
        if serve_dtype(config, machine, method.method) == "float32" and method.method in SERVE_16_BIT_ONLY:
            lines.append(f"vLLM serves {method.method} in 16-bit types only; set dtype.serve to auto or bfloat16")
        found += [f"{name}: {line}" for line in lines]
    return found


def _calibration_violations(context: JobContext, checkpoint: CheckpointRecord) -> list[str]:
    try:
        check_calibration(context.config.calibration, checkpoint.max_position_embeddings, checkpoint.has_chat_template)
    except RequestError as error:
        return [f"calibration: {error.what}; {error.remedy}"]
    return []


def expected_bytes(stage: Stage, results: Mapping[str, StageResult]) -> int:
    """Upper estimate of what the stage writes: artifacts are allowed twice the checkpoint."""
    prepared = results.get("prepare")
    size = prepared.object.size_bytes if prepared and prepared.object else _UNKNOWN_SOURCE_BYTES
    return {"prepare": _UNKNOWN_SOURCE_BYTES, "quantize": 2 * size}.get(stage.kind, 0)


def check_free_space(root: Path, stage: Stage, results: Mapping[str, StageResult]) -> None:
    """Raise StageError when the workspace's disk cannot hold what the stage is going to write."""
    needed = expected_bytes(stage, results) + _SPARE_BYTES
    free = shutil.disk_usage(root).free
    if free < needed:
        raise StageError(
            f"{stage.name} needs {needed / 2**20:.0f} MiB on the disk of {root}; {free / 2**20:.0f} MiB are free",
            remedy="free space there or name a --workspace on another disk, then run the same command again",
        )
