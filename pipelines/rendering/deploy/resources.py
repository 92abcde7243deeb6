"""What a server asks of its machine, from the measured memory split."""

import math
from typing import NamedTuple

from configs.errors import RequestError
from pipelines.rendering.deploy.champion import Champion

_MIB, _GIB = 2**20, 2**30
_HOST_BYTES = 4 * _GIB
"""Of a GPU server's own memory for each rank, beside the weights that pass through it: imports of torch and the engine
and pinned buffers. Not measured."""
_WITHOUT_A_PEAK_BYTES = 3 * _GIB
"""The same, where the peak of a server on a CPU was not read."""
SCRATCH_BYTES = 2 * _GIB
"""For caches and sockets in /tmp."""


class Resources(NamedTuple):
    """Of one server."""

    cpus: int
    memory_bytes: int
    """Whole MiB."""
    gpus: int
    gpu_bytes: int | None
    """What each GPU has to have at least; None on a CPU, and where it was not measured."""
    shared_memory_bytes: int
    """By which ranks talk; 0 where there is one."""
    told: list[str]
    """Where the numbers come from, each a sentence."""

    @property
    def memory_mib(self) -> int:
        return self.memory_bytes // _MIB


def resources_of(champion: Champion) -> Resources:
    """What one server needs. Raises RequestError where the memory that is asked for cannot hold what was measured."""
    on_gpu = champion.serving.device == "cuda"
    memory, told = _memory(champion, on_gpu)
    ranks = champion.ranks
    gpu_bytes = _gpu_bytes(champion, told) if on_gpu else None
    # One more than its ranks compute with: the HTTP server beside them.
    cpus = (2 * ranks if on_gpu else champion.serving.threads or ranks) + 1
    told.append(
        f"CPUs: {cpus}, one of them for the HTTP server"
        + (" (two for each rank; not measured)." if on_gpu else ", the others as measured.")
    )
    shared = _GIB * ranks if ranks > 1 else 0
    return Resources(cpus, memory, ranks if on_gpu else 0, gpu_bytes, shared, told)


def _memory(champion: Champion, on_gpu: bool) -> tuple[int, list[str]]:
    memory, settings = champion.serving.memory, champion.settings
    weights = memory.resident_weights_bytes or champion.size_bytes
    cache = (memory.kv_cache_bytes or 0) * champion.ranks
    split = f"weights {_mib(weights)}, KV cache {_mib(cache)}" if cache else f"weights {_mib(weights)}"
    if settings.memory_gib is not None:
        asked = math.ceil(settings.memory_gib * 1024) * _MIB
        least = champion.size_bytes if on_gpu else memory.peak_process_bytes or weights + cache
        if asked < least:
            raise RequestError(
                f"memory_gib {settings.memory_gib:g} is less than the {_mib(least)} that {champion.name} took",
                remedy="ask for more, or leave it out",
            )
        return asked, [f"Memory: {_mib(asked)} as asked for by memory_gib; measured: {split}."]
    if on_gpu:
        needed = champion.size_bytes + _HOST_BYTES * champion.ranks
        how = (
            f"Memory of the machine: {_mib(needed)}, the weights once and {_mib(_HOST_BYTES)} for each rank; it was"
            " not measured, so watch the first start."
        )
    elif memory.peak_process_bytes:
        needed = round(memory.peak_process_bytes * (1 + settings.headroom)) + SCRATCH_BYTES
        how = (
            f"Memory: {_mib(needed)}, the measured peak of {_mib(memory.peak_process_bytes)} ({split}) with"
            f" {settings.headroom:.0%} of headroom, and {_mib(SCRATCH_BYTES)} for /tmp."
        )
    else:
        needed = weights + cache + _WITHOUT_A_PEAK_BYTES + SCRATCH_BYTES
        how = (
            f"Memory: {_mib(needed)}: {split}, {_mib(_WITHOUT_A_PEAK_BYTES)} for the engine, whose peak was not"
            f" measured, and {_mib(SCRATCH_BYTES)} for /tmp."
        )
    return math.ceil(needed / _MIB) * _MIB, [how]


def _gpu_bytes(champion: Champion, told: list[str]) -> int | None:
    memory = champion.serving.memory
    if memory.peak_process_bytes is None:
        told.append("Memory of the GPU: its peak was not measured. Take the kind of GPU that it was measured on.")
        return None
    each = round(memory.peak_process_bytes / champion.ranks * (1 + champion.settings.headroom))
    told.append(
        f"Memory of each GPU: at least {_mib(each)}, the measured peak with {champion.settings.headroom:.0%} of"
        f" headroom; measured on {champion.serving.device_name}."
    )
    return each


def _mib(count: float) -> str:
    return f"{math.ceil(count / _MIB):,} MiB"
