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
from typing import Literal

from registry.contracts.base import Device, DType, Method, Record

QUANTIZE_AS_STORED: frozenset[Method] = frozenset({"bnb_nf4", "bnb_int8", "rtn", "w8a8"})
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
    gpu_memory_bytes: int | None = None
    driver_version: str | None = None

    @property
    def serving_threads(self) -> int:
        """Threads of the server: one core stays free for the client, the API server and the kernel.

        OpenMP's threads wait for each other by spinning, so a server with as many threads as cores slows down by
        several times as soon as anything else runs.
        """
        return max(1, self.threads - 1)

    def quantize_dtype(self, method: Method | None) -> DType:
        """What weights are held in while `method` runs (None: while the checkpoint itself runs, as in calibration)."""
        return "bfloat16" if self.fast_bfloat16 or method in QUANTIZE_AS_STORED else "float32"

    def serve_dtype(self, in_16_bits_only: bool) -> DType:
        """What a model is served in; `in_16_bits_only` where the engine does not serve it in float32."""
        return "bfloat16" if self.fast_bfloat16 or in_16_bits_only else "float32"


def detect_machine(wanted: Literal["auto", "cpu", "cuda"] = "auto") -> MachineRecord:
    """Read /proc and, for CUDA, NVML; imports no torch."""
    gpu = _first_gpu() if wanted != "cpu" else None
    name, flags = _cpu()
    device: Device = "cuda" if wanted == "cuda" or gpu else "cpu"
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    fast = device == "cuda" or bool(_FAST_BFLOAT16_FLAGS & flags)
    return MachineRecord(
        device=device,
        device_name=gpu[0] if gpu else name,
        fast_bfloat16=fast,
        cpu_flags=sorted(flags & (_OTHER_FLAGS | _FAST_BFLOAT16_FLAGS)),
        threads=len(os.sched_getaffinity(0)),
        memory_bytes=memory_bytes,
        gpu_memory_bytes=gpu[1] if gpu else None,
        driver_version=gpu[2] if gpu else None,
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


@functools.cache
def _first_gpu() -> tuple[str, int, str] | None:
    """(name, memory in bytes, driver version) of GPU 0, or None where none answers."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # without the package, a driver or a GPU the answer is the same: none
        return None
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        return (
            str(pynvml.nvmlDeviceGetName(handle)),
            int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
            str(pynvml.nvmlSystemGetDriverVersion()),
        )
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()
