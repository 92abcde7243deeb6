"""What a vLLM log says: the kernel chosen, the warnings a reviewer has to know, why a server died."""

import re
from pathlib import Path

from configs.errors import Blame
from serving_checks.processes.endings import Death

# "(EngineCore pid=12) WARNING 11-21 04:32:42 [cpu.py:224] text"
_LINE = re.compile(r"^(?:\([^)]*\) )?(?P<level>INFO|WARNING|ERROR) \S+ \S+ \[[^\]]*\] (?P<text>.*)$")
_KERNEL = re.compile(
    r"Using (?P<kernel>\w+) for (?:\w*LinearMethod|mixed-precision linear|CompressedTensors\w+|\w+ GEMM)"
)
_EXCEPTION = re.compile(r"(?P<error>\b\w*(?:Error|Exception)): (?P<text>.+)")
# A config that does not validate (pydantic): the exception's own line only counts the errors.
_REFUSED = re.compile(r"^\s+Value error, (?P<text>.+?)(?: \[type=.*)?$", re.MULTILINE)
_WEIGHTS = re.compile(r"Model loading took (?P<gib>[\d.]+) GiB")
# bitsandbytes has no handler for its log: the bare text goes to stderr (bitsandbytes/autograd/_functions.py).
_CAST = re.compile(r"^(?P<text>MatMul8bitLt: inputs will be cast .+?)\s*$", re.MULTILINE)
# What ranks meet by; on a CPU the files that they share begin with its last part.
_MEETING_POINT = re.compile(r"distributed_init_method=\S*/(?P<name>vllm_dist_[0-9a-f]{32})\b")
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux keeps it (shm_overview(7))
_LAYER = re.compile(r"\S*\blayers\.\d+\.\S*")
# Exceptions that only say that another process failed first.
_FOLLOW_UPS = ("Engine core initialization failed", "WorkerProc initialization failed", "Failed core proc")
# Said on every start on every machine, whatever is served; they would hide the line that matters.
_EXPECTED = (
    "Enforce eager set",
    "Inductor compilation was disabled",
    "Triton is not installed",
    "Model Runner V2 requires Triton",
    "Found ulimit of",
    "The global random seed is set to",
    "CPU backend doesn't allow to use `torch.set_num_threads`",
    "SECURITY WARNING: Development endpoints",
    "libtcmalloc is not found in LD_PRELOAD",
    "libiomp is not found in LD_PRELOAD",
)


_REMEDIES: tuple[tuple[str, str, Blame], ...] = (
    (r"out of memory|requested memory for kv|desired CPU memory|No available memory for the cache|MemoryError"
     r"|KV cache is needed",
     "lower `kv_cache_gib` or `max_model_len`, or free memory", "machine"),
    (r"[Aa]ddress already in use", "leave `port` out, or choose another", "machine"),
    (r"max_num_batched_tokens",
     "raise `max_num_batched_tokens`, or lower `max_num_seqs` or, without chunked prefill, `max_model_len`", "recipe"),
    (r"max_model_len|maximum (model|sequence) length", "lower `max_model_len` to what the model was made for",
     "recipe"),
    (r"divisible by tensor parallel|divisible by \w*tp_size", "let `tensor_parallel_size` divide the model's heads",
     "recipe"),
    (r"dtype|bfloat16|float16|float32", "choose a dtype that the quantization method's kernels take", "recipe"),
    (r"No module named", "set the environment up again: a package of the engine is missing", "machine"),
    (r"safetensors|No such file|config\.json", "the model directory is not whole: make the artifact again", "machine"),
)  # fmt: skip


def _said(log: str, level: str) -> list[str]:
    found = (match for line in log.splitlines() if (match := _LINE.match(line)) and match["level"] == level)
    return list(dict.fromkeys(match["text"].strip() for match in found))


def kernel_of(log: str) -> str | None:
    """The quantization kernels that the engine says it chose; None where it says nothing."""
    return ", ".join(dict.fromkeys(match["kernel"] for match in _KERNEL.finditer(log))) or None


def warnings_of(log: str) -> list[str]:
    """Distinct warnings, without those that every start gives; what is said of many layers is one warning."""
    said = [text for text in _said(log, "WARNING") if text and not text.startswith(_EXPECTED)]
    said += dict.fromkeys(match["text"] for match in _CAST.finditer(log))
    alike: dict[str, list[str]] = {}
    for text in said:
        alike.setdefault(_LAYER.sub("*", text), []).append(text)
    return [texts[0] + (f" (and {len(texts) - 1} more layers)" if len(texts) > 1 else "") for texts in alike.values()]


def weights_bytes_of(log: str) -> list[int]:
    """Resident weights of each rank as the engine measured them on a GPU; empty where it logs nothing."""
    return [round(float(match["gib"]) * 2**30) for match in _WEIGHTS.finditer(log)]


def shared_memory_of(log: str) -> set[str]:
    """Files of the server's ranks that are there in /dev/shm."""
    names = {match["name"] for match in _MEETING_POINT.finditer(log)}
    return {str(file) for name in names for file in _SHARED_MEMORY.glob(f"{name}*")}


def death_of(log: str) -> Death | None:
    """Why a server ended, by the last error that its log names; None where it names none."""
    errors = [match for match in _EXCEPTION.finditer(log) if not match["text"].startswith(_FOLLOW_UPS)]
    if not errors:
        return None
    refused = _REFUSED.findall(log) if errors[-1]["error"] == "ValidationError" else []
    reason = refused[-1] if refused else f"{errors[-1]['error']}: {errors[-1]['text'].strip()}"
    for pattern, remedy, blame in _REMEDIES:
        if re.search(pattern, reason):
            return Death(reason, remedy, blame)
    return Death(reason, "read the log, mend what it names, and run the command by hand to try", "engine")
