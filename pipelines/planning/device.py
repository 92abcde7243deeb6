"""What this machine is, and which dtype each step takes on it.

The policy, and why. A CPU without AMX and AVX512-BF16 multiplies bfloat16 at about a sixth of its float32 speed, so
float32 is taken there wherever engine and method accept it: to quantize, and to serve the baseline and INT8. What the
serving engine takes in 16-bit types only is served in bfloat16 there. Everywhere else everything is bfloat16. Each
dtype is written into the record, and the report shows where they differ.
"""

import functools
import os
import platform
from pathlib import Path
from typing import Literal, NamedTuple

from registry.contracts.base import Device, DType, Method, Record, is_imported

QUANTIZE_AS_STORED: frozenset[Method] = frozenset({"bnb_nf4", "bnb_int8", "rtn", "w8a8", "fp8", "gguf"})
"""They only convert: no matrix is multiplied, and what is not quantized keeps its 16 bits on disk."""
_FAST_BFLOAT16_FLAGS = frozenset({"amx_bf16", "avx512_bf16"})
_OTHER_FLAGS = frozenset({"avx2", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"})
"""What engines choose kernels by."""


class MachineRecord(Record):
    """The machine that a run happens on."""

    device: Device
    device_name: str
    fast_bfloat16: bool
    cpu_flags: list[str]
    threads: int
    memory_bytes: int
    gpus: list[str] = []
    """Those that a process sees, as CUDA_VISIBLE_DEVICES names them."""
    gpu_memory_bytes: int | None = None
    driver_version: str | None = None

    @property
    def serving_threads(self) -> int:
        """Threads of the server: one core stays free for the client, the API server and the kernel.

        OpenMP's threads wait for each other by spinning, so a server with as many threads as cores slows down by
        several times as soon as anything else runs.
        """
        return max(1, self.threads - 1)

    @property
    def making_threads(self) -> int:
        """Threads of a stage that makes something or reads what was made.

        Of two cores one, for the same reason: a measured model's server may work beside it. What GPTQ and AWQ give
        depends on the number to the last digit, so it does not depend on whether that is so.
        """
        return 1 if self.serving_threads == 1 else self.threads

    def quantize_dtype(self, method: Method | None) -> DType:
        """What weights are held in while `method` runs (None: while the checkpoint itself runs, as in calibration)."""
        return "bfloat16" if self.fast_bfloat16 or _as_stored(method) else "float32"

    def serve_dtype(self, in_16_bits_only: bool) -> DType:
        """What a model is served in; `in_16_bits_only` where the engine does not serve it in float32."""
        return "bfloat16" if self.fast_bfloat16 or in_16_bits_only else "float32"


def _as_stored(method: Method | None) -> bool:
    return method is not None and (method in QUANTIZE_AS_STORED or is_imported(method))


def detect_machine(wanted: Literal["auto", "cpu", "cuda"] = "auto") -> MachineRecord:
    """Read /proc and, for CUDA, NVML; imports no torch."""
    gpu = _gpus() if wanted != "cpu" else None
    name, flags = _cpu()
    device: Device = "cuda" if wanted == "cuda" or gpu else "cpu"
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    fast = device == "cuda" or bool(_FAST_BFLOAT16_FLAGS & flags)
    return MachineRecord(
        device=device,
        device_name=gpu.name if gpu else name,
        fast_bfloat16=fast,
        cpu_flags=sorted(flags & (_OTHER_FLAGS | _FAST_BFLOAT16_FLAGS)),
        threads=len(os.sched_getaffinity(0)),
        memory_bytes=memory_bytes,
        gpus=gpu.visible if gpu else [],
        gpu_memory_bytes=gpu.memory_bytes if gpu else None,
        driver_version=gpu.driver_version if gpu else None,
    )


@functools.cache
def _cpu() -> tuple[str, frozenset[str]]:
    name, flags = platform.processor() or platform.machine(), frozenset[str]()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            name = value.strip()
        elif key.strip() == "flags":
            flags = frozenset(value.split())
    return name, flags


class _Gpus(NamedTuple):
    name: str
    """Of GPU 0, as its memory is."""
    memory_bytes: int
    driver_version: str
    visible: list[str]


@functools.cache
def _gpus() -> _Gpus | None:
    """None where none answers."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # without the package, a driver or a GPU the answer is the same: none
        return None
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
        count = int(pynvml.nvmlDeviceGetCount())
        return _Gpus(
            str(pynvml.nvmlDeviceGetName(handle)),
            int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
            str(pynvml.nvmlSystemGetDriverVersion()),
            [name.strip() for name in chosen.split(",")] if chosen else [str(gpu) for gpu in range(count)],
        )
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()
