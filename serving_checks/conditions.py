"""Under which conditions a number was measured."""

import os
from contextlib import suppress
from pathlib import Path

from registry.contracts.base import Device


def device_name(device: Device) -> str:
    """The model name of the CPU, or of the first GPU as NVML gives it; `unknown` where neither can be read."""
    if device == "cuda":
        with suppress(Exception):  # NVML fails in many ways, each of them means: no name
            import pynvml

            pynvml.nvmlInit()
            name = pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0))
            return name.decode() if isinstance(name, bytes) else str(name)
        return "unknown"
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "unknown"


def load_average() -> float:
    """One-minute load average of the machine."""
    return os.getloadavg()[0]
