"""Energy of the device that serves, over a stretch of time: RAPL of a CPU's packages, NVML of GPUs.

RAPL (Linux's powercap, `/sys/class/powercap/intel-rapl:N`, AMD's too) counts microjoules of a package and of its
memory, and begins again at 0 beyond `max_energy_range_uj`; a server's package is through with that in minutes, so
counters are read now and then meanwhile. NVML counts millijoules of a GPU since its driver was loaded. Both are of the
whole device, idle part and neighbours included. What a counter cannot tell is None with a reason, and never 0.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

from configs.base import StrictModel
from registry.contracts.base import Device

POWERCAP = Path("/sys/class/powercap")
_MOST_WATTS = 2000.0
"""No package and no GPU takes as much for long: a counter that went faster was set back, or went round unseen."""
_SLACK_SECONDS = 1.0
"""Counters move in steps, so a short gap may seem to take more."""
_SAMPLE_SECONDS = 10.0


class MeteredDevice(StrictModel):
    """Whose energy is read."""

    kind: Device
    gpus: list[str] = []
    """As CUDA_VISIBLE_DEVICES names them; the first ones that are visible when empty."""
    ranks: int = 1
    """GPUs that the server takes."""


class EnergyTold(StrictModel):
    """What was read, and what was not."""

    source: str | None = None
    notes: list[str] = []


class Counter(NamedTuple):
    """One counter of a device."""

    name: str
    read: Callable[[], float]
    """Joules since some moment; OSError or ValueError where it tells nothing."""
    begins_again_at: float | None = None
    """Joules at which it is at 0 again."""


class Counted:
    """What one counter counts from its first reading to its last."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._last: tuple[float, float] | None = None
        self.joules = 0.0
        self.fault: str | None = None
        """Why `joules` is not to be believed."""

    def take(self, now: float) -> Self:
        """Read it at `now`, in seconds of a clock that never goes back."""
        try:
            value = self._counter.read()
        except (OSError, ValueError) as error:
            self.fault = f"could not be read: {error}"
            return self
        if self._last:
            before, at = self._last
            self._add(value - before, now - at)
        self._last = value, now
        return self

    def _add(self, step: float, seconds: float) -> None:
        span = self._counter.begins_again_at
        most = _MOST_WATTS * (seconds + _SLACK_SECONDS)
        if span is not None and _MOST_WATTS * seconds > span:
            self.fault = f"was not read for {seconds:.0f} s, in which it may have gone round more than once"
        if step < 0 and span is not None:
            step += span
        if not 0 <= step <= most:
            self.fault = "went back or jumped"
        self.joules += step


class Energy(NamedTuple):
    """Of one stretch of time."""

    joules: float | None
    fault: str | None = None
    """Why there are none, where something could have been read."""


class EnergyMeter:
    """Reads a device's counters.

    Args:
        source: What is read, in words; None where nothing is.
        counters: All of them together are the device's energy.
        note: What a reader has to know, such as why nothing is read.
    """

    def __init__(self, source: str | None, counters: Sequence[Counter], note: str | None = None) -> None:
        self.source, self.note = source, note
        self._counters = counters

    @contextmanager
    def measuring(self) -> Iterator[Callable[[], Energy]]:
        """A block whose energy is measured; what is yielded tells it when the block is over."""
        counted = [Counted(counter).take(time.monotonic()) for counter in self._counters]
        ended = threading.Event()

        def sample() -> None:
            while not ended.wait(_SAMPLE_SECONDS):
                for one in counted:
                    one.take(time.monotonic())

        thread = threading.Thread(target=sample, daemon=True)
        if counted:
            thread.start()
        try:
            yield lambda: self._told(counted)
        finally:
            ended.set()
            if counted:
                thread.join()
            for one in counted:
                one.take(time.monotonic())

    def _told(self, counted: Sequence[Counted]) -> Energy:
        if not counted:
            return Energy(None)
        for counter, one in zip(self._counters, counted, strict=True):
            fault = one.fault or (None if one.joules > 0 else "did not move")
            if fault:
                return Energy(None, f"the energy counter of {counter.name} {fault}")
        return Energy(sum(one.joules for one in counted))


def energy_meter(device: MeteredDevice | None, powercap: Path = POWERCAP) -> EnergyMeter:
    """A meter of the device; one that reads nothing, and says why, where the machine does not tell.

    Args:
        device: None for a server that was not started here.
        powercap: Where the kernel shows RAPL.
    """
    if device is None:
        return EnergyMeter(None, [], "no energy: the server was not started here")
    return _rapl(powercap) if device.kind == "cpu" else _nvml(device)


def _rapl(powercap: Path) -> EnergyMeter:
    """Packages and their memory. Cores and graphics are parts of a package, and `psys` holds packages."""
    zones = [(zone, _word(zone / "name")) for zone in sorted(powercap.glob("intel-rapl:*"))]
    packages = {zone.name: name for zone, name in zones if name.startswith("package")}
    read = [(zone, name) for zone, name in zones if zone.name in packages]
    read += [
        (zone, f"dram of {packages[parent]}")
        for zone, name in zones
        if name == "dram" and (parent := zone.name.rpartition(":")[0]) in packages
    ]
    if not packages:
        return EnergyMeter(None, [], f"this machine tells no energy: no RAPL in {powercap}")
    counters = []
    for zone, name in read:
        try:
            _microjoules(zone / "energy_uj")
            span = _microjoules(zone / "max_energy_range_uj")
        except (OSError, ValueError) as error:
            return EnergyMeter(None, [], f"RAPL cannot be read, which takes root or a right to the file: {error}")
        counters.append(Counter(name, partial(_microjoules, zone / "energy_uj"), span))
    return EnergyMeter("RAPL " + " + ".join(counter.name for counter in counters), counters)


def _word(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _microjoules(file: Path) -> float:
    """A file's microjoules as joules."""
    return int(file.read_text(encoding="ascii")) / 1e6


def _nvml(device: MeteredDevice) -> EnergyMeter:
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    names = device.gpus or (visible or [str(index) for index in range(device.ranks)])[: device.ranks]
    slices = [name for name in names if name.startswith("MIG")]
    if slices:
        return EnergyMeter(None, [], f"NVML tells no energy of a slice of a GPU ({', '.join(slices)})")
    try:
        import pynvml

        pynvml.nvmlInit()
        counters = [Counter(f"GPU {name}", _nvml_reading(pynvml, name)) for name in names]
        for counter in counters:
            counter.read()
    except Exception as error:  # NVML raises its own family of errors, the import another
        return EnergyMeter(None, [], f"NVML tells no energy: {type(error).__name__}: {error}")
    return EnergyMeter("NVML " + " + ".join(counter.name for counter in counters), counters)


def _nvml_reading(pynvml: Any, name: str) -> Callable[[], float]:
    # CUDA counts GPUs of one kind as NVML does, by their place on the bus.
    of_index, of_uuid = pynvml.nvmlDeviceGetHandleByIndex, pynvml.nvmlDeviceGetHandleByUUID
    handle = of_index(int(name)) if name.isdecimal() else of_uuid(name)

    def read() -> float:
        try:
            return int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
        except pynvml.NVMLError as error:
            raise OSError(str(error)) from error

    return read
