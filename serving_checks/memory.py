"""Four memory numbers of a served model, kept apart."""

from pathlib import Path

from registry.contracts.base import Device
from registry.contracts.serving import MemoryRecord
from serving_checks import server_log
from serving_checks.guard import descendants_of
from serving_checks.http_json import get_text, post_json
from serving_checks.metrics import kv_cache_tokens, parse_metrics
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
    notes = []
    peak = None
    try:
        answer = post_json(f"{server.endpoint.base_url}/collective_rpc", {"method": "resident_weight_bytes"})
        weights = [int(rank) for rank in answer["results"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        weights = server_log.weights_bytes_of(server.log_file.read_text(errors="replace"))
        if not weights:
            notes.append(f"resident weights: the engine did not answer ({error})")
    try:
        tokens = kv_cache_tokens(parse_metrics(get_text(f"{server.endpoint.base_url}/metrics")))
    except OSError as error:
        tokens = None
        notes.append(f"KV cache: no metrics page ({error})")
    if device == "cpu":
        peak = server.peak_memory_bytes()
    else:
        try:
            peak = gpu_bytes_of_tree(server.pid)
            notes.append("peak: GPU memory as held after the load test; the engine takes it at start and keeps it")
        except RuntimeError as error:
            notes.append(f"peak: {error}")
    return MemoryRecord(
        artifact_bytes=sum(file.stat().st_size for file in model_dir.glob("*.safetensors")),
        weights_bytes_by_rank=weights or None,
        kv_cache_tokens=tokens,
        peak_process_bytes=peak,
        notes=notes,
    )
