"""Four memory numbers of a served model, kept apart."""

from pathlib import Path

from registry.contracts.base import Device
from registry.contracts.serving import MemoryRecord
from serving_checks import server_log
from serving_checks.guard import descendants_of
from serving_checks.http_json import get_text
from serving_checks.metrics import KVCache, kv_cache, parse_metrics
from serving_checks.rank_facts import ask_ranks
from serving_checks.vllm_server import RunningServer


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
    notes: list[str] = []
    weights = _weights_bytes_by_rank(server, notes)
    cache = _kv_cache(server, notes)
    return MemoryRecord(
        artifact_bytes=sum(file.stat().st_size for file in model_dir.glob("*.safetensors")),
        weights_bytes_by_rank=weights,
        kv_cache_bytes=cache.budget_bytes,
        kv_cache_tokens=cache.tokens,
        kv_cache_requests=cache.requests,
        peak_process_bytes=_peak_bytes(server, device, notes),
        notes=notes,
    )


def _weights_bytes_by_rank(server: RunningServer, notes: list[str]) -> list[int] | None:
    try:
        return [rank.weights_bytes for rank in ask_ranks(server.endpoint)]
    except (OSError, ValueError) as error:
        logged = server_log.weights_bytes_of(server.log_file.read_text(errors="replace"))
        if logged:
            notes.append("resident weights: from the engine's log, rounded to 0.01 GiB; its workers did not answer")
        else:
            notes.append(f"resident weights: the engine's workers did not answer ({_one_line(error)})")
        return logged or None


def _kv_cache(server: RunningServer, notes: list[str]) -> KVCache:
    try:
        cache = kv_cache(parse_metrics(get_text(f"{server.endpoint.base_url}/metrics")))
    except OSError as error:
        notes.append(f"KV cache: no metrics page ({error})")
        return KVCache(None, None, None)
    missing = [name.replace("_", " ") for name, value in cache._asdict().items() if value is None]
    if missing:
        notes.append(f"KV cache: the engine's metrics do not tell its {', '.join(missing)}")
    return cache


def _peak_bytes(server: RunningServer, device: Device, notes: list[str]) -> int | None:
    if device == "cpu":
        peak = server.peak_memory_bytes()
        if peak is None:
            notes.append("peak: the server's memory has not been sampled yet")
        return peak
    try:
        held = gpu_bytes_of_tree(server.pid)
    except RuntimeError as error:
        notes.append(f"peak: {error}")
        return None
    notes.append("peak: GPU memory as held after the load test; the engine takes it at start and keeps it")
    return held


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
