"""Four memory numbers of a served model, kept apart."""

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from registry.contracts.base import Device
from registry.contracts.serving import MemoryRecord
from serving_checks.processes.guard import descendants_of
from serving_checks.server import RunningServer
from serving_checks.transport.metrics import number, read_metrics


def gpu_bytes_of_tree(root: int) -> int:
    """GPU memory held now by the descendants of `root`, all GPUs together, by NVML.

    Raises:
        RuntimeError: NVML is missing, refuses, or knows none of the processes (as inside many containers).
    """
    try:
        import pynvml

        pynvml.nvmlInit()
        pids, used = set(descendants_of(root)), 0
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle):
                if process.pid in pids and process.usedGpuMemory:
                    used += int(process.usedGpuMemory)
    except Exception as error:  # NVML raises its own family of errors, the import another
        raise RuntimeError(f"NVML: {type(error).__name__}: {error}") from error
    if not used:
        raise RuntimeError("NVML lists none of the server's processes (other process-id namespace?)")
    return used


def memory_record(server: RunningServer, model_dir: Path, device: Device) -> MemoryRecord:
    """Read the four numbers of a server that is still running, after the load test (which makes the peak)."""
    notes = []
    peak, weights, unread = None, None, None
    try:
        weights = server.engine.resident_weights_bytes(server.endpoint, server.log)
    except (OSError, ValueError) as error:
        notes.append(f"resident weights: {error}")
    if server.engine.tells_ranks:
        with suppress(OSError, ValueError):  # then the weights are told with a note, or from the log
            unread = sum(rank.unread_bytes for rank in server.engine.ranks(server.endpoint))
    cache = _kv_cache(server, notes)
    if server.pid is None:
        notes.append("peak: the server was not started here")
    elif device == "cpu":
        peak = server.peak_memory_bytes()
        if peak is None:
            notes.append("peak: the server's memory has not been sampled yet")
    else:
        try:
            peak = gpu_bytes_of_tree(server.pid)
            notes.append("peak: GPU memory as held after the load test; the engine takes it at start and keeps it")
        except RuntimeError as error:
            notes.append(f"peak: {error}")
    return MemoryRecord(
        artifact_bytes=sum(
            file.stat().st_size for file in (*model_dir.glob("*.safetensors"), *model_dir.glob("*.gguf"))
        ),
        weights_bytes_by_rank=weights,
        unread_weights_bytes=unread,
        kv_cache_bytes=None if cache.budget_bytes is None else int(cache.budget_bytes),
        kv_cache_tokens=None if cache.tokens is None else int(cache.tokens),
        kv_cache_requests=cache.requests,
        peak_process_bytes=peak,
        notes=notes,
    )


class _KVCache(NamedTuple):
    budget_bytes: float | None = None
    tokens: float | None = None
    requests: float | None = None


def _kv_cache(server: RunningServer, notes: list[str]) -> _KVCache:
    """What the engine's metrics tell of its KV cache; a note for what they do not."""
    names = server.engine.metrics
    asked = (names.kv_cache_bytes, names.kv_cache_tokens, names.kv_cache_requests)
    try:
        samples = read_metrics(server.endpoint) if any(asked) else []
    except OSError as error:
        notes.append(f"KV cache: no metrics page ({error})")
        return _KVCache()
    found = _KVCache(*(number(samples, name) for name in asked))
    missing = [field.replace("_", " ") for field, value in found._asdict().items() if value is None]
    if missing:
        notes.append(f"KV cache: the metrics of {server.engine.name} do not tell its {', '.join(missing)}")
    return found
