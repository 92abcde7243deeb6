"""What can be known to fail before it costs an hour: rules, compatibility, disk space. Nothing is loaded."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from configs.errors import StageError
from pipelines.compatibility import serving_violations
from pipelines.jobs import JobContext
from pipelines.stages import Stage, quantize_dtype, serve_dtype
from quantizers.rules import tensor_parallel_violations
from quantizers.table import load_method
from registry.contracts import CheckpointRecord, StageResult

_SPARE_BYTES = 64 << 20
_UNKNOWN_SOURCE_BYTES = 256 << 20


def rule_violations(context: JobContext, checkpoint: CheckpointRecord, only: str | None = None) -> list[str]:
    """Everything that forbids the run's methods on this checkpoint, this machine and this serving config.

    Args:
        only: The one method entry to look at; all when None.

    Returns:
        Sentences that begin with the entry's name and hold layer names and the remedy; empty where nothing is wrong.
    """
    config, machine = context.config, context.machine
    ranks = config.serving.tensor_parallel_size
    found = tensor_parallel_violations(checkpoint, ranks)
    for name, method in config.methods.items():
        if only not in (None, name):
            continue
        dtype = quantize_dtype(config, machine, method.method)
        shapes = checkpoint.linear_shapes
        lines = load_method(method.method).violations(method, shapes, ranks, machine.device, dtype)
        lines += serving_violations(method.method, machine.device, ranks)
        if serve_dtype(config, machine, method.method) == "float32" and method.method != "bnb_int8":
            lines.append(f"vLLM serves {method.method} in 16-bit types only; set dtype.serve to auto or bfloat16")
        found += [f"{name}: {line}" for line in lines]
    return found


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
