"""Energy: counters that go round, stand still, go back or may not be read; and what this machine itself tells."""

import os
import sys
from pathlib import Path

import pytest

from serving_checks.readings.energy import (
    POWERCAP,
    Counted,
    Counter,
    MeteredDevice,
    energy_meter,
)

CPU = MeteredDevice(kind="cpu")
RANGE_UJ = 262_143_328_850


def powercap(root: Path, joules: float = 100.0) -> Path:
    """Two packages, one with memory, beside zones that are parts of them or hold them."""
    zones = {
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "dram",
        "intel-rapl:1": "package-1",
        "intel-rapl:2": "psys",
        "intel-rapl-mmio:0": "package-0",
    }
    for zone, name in zones.items():
        (root / zone).mkdir(parents=True)
        (root / zone / "name").write_text(f"{name}\n")
        (root / zone / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
        count(root, zone, joules)
    return root


def count(root: Path, zone: str, joules: float) -> None:
    (root / zone / "energy_uj").write_text(f"{round(joules * 1e6)}\n")


def test_packages_and_their_memory_are_added_and_nothing_twice(tmp_path: Path) -> None:
    meter = energy_meter(CPU, powercap(tmp_path))
    assert (meter.source, meter.note) == ("RAPL package-0 + package-1 + dram of package-0", None)
    with meter.measuring() as energy:
        for zone, joules in (("intel-rapl:0", 130), ("intel-rapl:0:0", 999), ("intel-rapl:0:1", 104)):
            count(tmp_path, zone, joules)
        count(tmp_path, "intel-rapl:1", 150)
    assert energy() == (pytest.approx(30 + 4 + 50), None)


def test_a_counter_goes_round(tmp_path: Path) -> None:
    root = powercap(tmp_path, joules=RANGE_UJ / 1e6 - 10)
    with energy_meter(CPU, root).measuring() as energy:
        for zone in ("intel-rapl:0", "intel-rapl:0:1", "intel-rapl:1"):
            count(root, zone, 5)
    assert energy().joules == pytest.approx(3 * 15)


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (100.0, "of package-1 did not move"),
        (90.0, "of package-1 went back or jumped"),
        (9e9, "of package-1 went back or jumped"),
        (None, "of package-1 could not be read"),
    ],
)
def test_a_counter_that_tells_nothing_is_no_energy_and_not_0(tmp_path: Path, after: float | None, said: str) -> None:
    root = powercap(tmp_path)
    with energy_meter(CPU, root).measuring() as energy:
        for zone in ("intel-rapl:0", "intel-rapl:0:1"):
            count(root, zone, 120)
        if after is None:
            (root / "intel-rapl:1" / "energy_uj").unlink()
        else:
            count(root, "intel-rapl:1", after)
    found = energy()
    assert found.joules is None
    assert found.fault is not None and said in found.fault


def readings(*values: float) -> Counter:
    left = list(values)
    return Counter("package-0", lambda: left.pop(0), begins_again_at=1000.0)


def test_what_may_have_gone_round_twice_is_not_told() -> None:
    counted = Counted(readings(10, 400, 20, 30))
    # Half a second at 2 kW is as much as the counter holds.
    for now in (0.0, 0.4, 0.8):
        counted.take(now)
    assert (counted.joules, counted.fault) == (390 + 620, None)
    counted.take(9.8)
    assert counted.fault == "was not read for 9 s, in which it may have gone round more than once"


def test_a_long_stretch_is_read_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving_checks.readings.energy._SAMPLE_SECONDS", 0.001)
    root = powercap(tmp_path)
    with energy_meter(CPU, root).measuring() as energy:
        reads = [0]
        before = Counted.take

        def counting(self: Counted, now: float) -> Counted:
            reads[0] += 1
            return before(self, now)

        monkeypatch.setattr(Counted, "take", counting)
        while reads[0] < 9:
            os.sched_yield()
        for zone in ("intel-rapl:0", "intel-rapl:0:1", "intel-rapl:1"):
            count(root, zone, 101)
    assert energy() == (pytest.approx(3.0), None)


def test_a_machine_that_does_not_tell_says_so_once(tmp_path: Path) -> None:
    meter = energy_meter(CPU, tmp_path)
    assert meter.note == f"this machine tells no energy: no RAPL in {tmp_path}"
    with meter.measuring() as energy:
        pass
    assert (meter.source, energy()) == (None, (None, None))


@pytest.mark.parametrize("content", [None, "a word\n", ""])
def test_a_counter_that_may_not_be_read_is_a_note(tmp_path: Path, content: str | None) -> None:
    root = powercap(tmp_path)
    file = root / "intel-rapl:1" / "energy_uj"
    file.unlink()
    if content is None:
        file.mkdir()  # refuses root too
    else:
        file.write_text(content)
    meter = energy_meter(CPU, root)
    assert meter.source is None
    assert meter.note is not None and meter.note.startswith("RAPL cannot be read, which takes root or a right to")


def test_a_server_that_was_not_started_here_has_no_energy() -> None:
    assert energy_meter(None).note == "no energy: the server was not started here"


def test_this_machine_tells_energy_or_why_not() -> None:
    meter = energy_meter(CPU)
    assert (meter.source is None) == (meter.note is not None)
    if not list(POWERCAP.glob("intel-rapl:*")):
        assert meter.note == f"this machine tells no energy: no RAPL in {POWERCAP}"
        return
    with meter.measuring() as energy:
        sum(place * place for place in range(3_000_000))
    found = energy()
    assert meter.source is None or found.joules or found.fault


class Nvml:
    """Of `pynvml`: two GPUs that count millijoules."""

    NVMLError = type("NVMLError", (Exception,), {})

    def __init__(self, refuses: str | None = None) -> None:
        self.refuses = refuses
        self.millijoules = {"0": 5_000, "1": 7_000, "GPU-aa": 9_000}

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return str(index)

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        if self.refuses:
            raise self.NVMLError(self.refuses)
        return self.millijoules[handle]


def test_the_gpus_of_the_server_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1, GPU-aa")
    for device, source in (
        (MeteredDevice(kind="cuda", gpus=["1"]), "NVML GPU 1"),
        (MeteredDevice(kind="cuda"), "NVML GPU 1"),
        (MeteredDevice(kind="cuda", ranks=2), "NVML GPU 1 + GPU GPU-aa"),
    ):
        meter = energy_meter(device)
        assert (meter.source, meter.note) == (source, None)
    with meter.measuring() as energy:
        nvml.millijoules = {"0": 99_000, "1": 8_500, "GPU-aa": 9_250}
    assert energy() == (pytest.approx(1.75), None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert energy_meter(MeteredDevice(kind="cuda", ranks=2)).source == "NVML GPU 0 + GPU 1"


def test_a_driver_that_was_loaded_anew_is_no_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    with energy_meter(MeteredDevice(kind="cuda", gpus=["0"])).measuring() as energy:
        nvml.millijoules["0"] = 10
    assert energy() == (None, "the energy counter of GPU 0 went back or jumped")
    with energy_meter(MeteredDevice(kind="cuda", gpus=["0"])).measuring() as energy:
        nvml.refuses = "GPU is lost"
    assert energy() == (None, "the energy counter of GPU 0 could not be read: GPU is lost")


def test_gpus_that_do_not_tell_are_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Nvml(refuses="Not Supported"))
    told = energy_meter(MeteredDevice(kind="cuda", gpus=["0"]))
    assert (told.source, told.note) == (None, "NVML tells no energy: OSError: Not Supported")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    note = energy_meter(MeteredDevice(kind="cuda", gpus=["0"])).note
    assert note is not None and note.startswith("NVML tells no energy: ModuleNotFoundError")
    slices = energy_meter(MeteredDevice(kind="cuda", gpus=["MIG-1"]))
    assert slices.note == "NVML tells no energy of a slice of a GPU (MIG-1)"


def test_the_gpu_of_this_machine_tells_energy() -> None:
    pynvml = pytest.importorskip("pynvml", reason="this environment has no NVML")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        pytest.skip(f"no GPU answers here: {error}")
    meter = energy_meter(MeteredDevice(kind="cuda", gpus=["0"]))
    assert (meter.source, meter.note) == ("NVML GPU 0", None)
    counter = meter._counters[0]
    with meter.measuring() as energy:
        begin = counter.read()
        assert begin > 0
        while counter.read() == begin:  # it counts an idle GPU too, every few milliseconds
            os.sched_yield()
    found = energy()
    assert found.joules is not None and found.joules > 0
