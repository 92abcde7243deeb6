"""What each GPU of a server has to hold, and whether the layers go round: known before a weight is read."""

import re
from math import ceil
from typing import NamedTuple

from configs.errors import RequestError
from pipelines.planning.device import MachineRecord
from pipelines.recipe.run_config import RunConfig
from quantizers.base import MethodConfig
from registry.contracts import CheckpointRecord
from registry.contracts.base import Method, format_of
from serving_checks.engines.base import LaunchedConfig, ServingConfig

_LAYER = re.compile(r"\.(\d+)\.")
_UNQUANTIZED_BITS = 16
_BITS: dict[Method | None, int] = {"bnb_nf4": 4, "bnb_int8": 8, "w8a8": 8}
"""Of formats whose methods are asked for no number of bits."""


class RankMemory(NamedTuple):
    """Of the fullest rank, at least: scales, activations and the engine's own buffers come on top."""

    weights_bytes: int
    cache_bytes: int

    @property
    def bytes(self) -> int:
        """Both together."""
        return self.weights_bytes + self.cache_bytes


def rank_memory(checkpoint: CheckpointRecord, serving: ServingConfig, bits: int = _UNQUANTIZED_BITS) -> RankMemory:
    """What the fullest rank of a server holds of a model whose Linears have so many bits a weight."""
    linear = sum(rows * columns for rows, columns in checkpoint.linear_shapes.values())
    rest = max(0, checkpoint.parameters - linear)
    layers = layers_of(checkpoint)
    share = ceil(layers / serving.pipeline_parallel_size) / layers if layers else 1 / serving.pipeline_parallel_size
    # Embedding and head lie on the first stage and the last.
    ends = rest / min(2, serving.pipeline_parallel_size)
    weights = (linear * share * bits + ends * _UNQUANTIZED_BITS) / 8 / serving.tensor_parallel_size
    return RankMemory(round(weights), round(getattr(serving, "kv_cache_gib", 0.0) * 2**30))


def layers_of(checkpoint: CheckpointRecord) -> int:
    """Layers that pipeline stages share out; 0 where the names do not tell."""
    return len({found[1] for name in checkpoint.linear_shapes if (found := _LAYER.search(name))})


def check_ranks(serving: ServingConfig, machine: MachineRecord) -> None:
    """Raise RequestError for more ranks than this machine has GPUs for, and for Ray where there are none."""
    if not isinstance(serving, LaunchedConfig):
        return
    if serving.over_machines:
        if machine.device == "cpu":
            raise RequestError(
                "serving.distributed_executor_backend ray shares a model out over the GPUs of several machines, and"
                " this run's device is a CPU",
                remedy="run it on GPU machines, or leave serving.distributed_executor_backend out",
            )
        return
    if machine.device == "cuda" and machine.gpus and serving.ranks > len(machine.gpus):
        raise RequestError(
            f"serving asks for {serving.ranks} ranks ({serving.tensor_parallel_size} x"
            f" {serving.pipeline_parallel_size}), and {len(machine.gpus)} GPUs are visible here",
            remedy="lower serving.tensor_parallel_size or serving.pipeline_parallel_size; over several machines, set"
            " serving.distributed_executor_backend to ray (docs/multi-node.md)",
        )


def split_violations(config: RunConfig, machine: MachineRecord, checkpoint: CheckpointRecord) -> list[str]:
    """Why a server's GPUs would not hold this model, the baseline or an artifact; empty where they may."""
    serving, memory = config.serving, machine.gpu_memory_bytes
    if machine.device != "cuda" or not isinstance(serving, LaunchedConfig):
        return []
    layers, stages = layers_of(checkpoint), serving.pipeline_parallel_size
    if layers and stages > layers:
        return [f"{stages} pipeline stages cannot share {layers} layers; lower serving.pipeline_parallel_size"]
    gpus = f"each of {serving.ranks} GPUs" if serving.ranks > 1 else "the GPU"
    asked = {"baseline": _UNQUANTIZED_BITS} | {name: _bits(method) for name, method in config.methods.items()}
    return [
        f"{name}: {gpus} would hold {held.weights_bytes / 2**30:.1f} GiB of weights and"
        f" {held.cache_bytes / 2**30:g} GiB of KV cache, and has {memory / 2**30:.1f} GiB; lower serving.kv_cache_gib"
        " or take more GPUs (serving.tensor_parallel_size, serving.pipeline_parallel_size)"
        for name, bits in asked.items()
        if memory and (held := rank_memory(checkpoint, serving, bits)).bytes > memory
    ]


def _bits(method: MethodConfig) -> int:
    bits: int | None = getattr(method, "bits", None)
    return bits or _BITS.get(format_of(method.method), _UNQUANTIZED_BITS)
