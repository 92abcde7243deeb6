"""What is doubted of the machine's limits, what is read of its caches, and a process that fails. No torch."""

import sys
from pathlib import Path

import pytest

from configs.errors import StageError
from registry.contracts import Rates
from serving_checks.readings import machine_limits
from serving_checks.readings.machine_limits import take_limits
from serving_checks.readings.machine_rates import cache_bytes, doubts

ONE = Rates(
    threads=1,
    memory_bytes_per_second=20e9,
    float32_flop_per_second=100e9,
    bfloat16_flop_per_second=400e9,
    int8_op_per_second=900e9,
)
FOUR = Rates(
    threads=4,
    memory_bytes_per_second=40e9,
    float32_flop_per_second=390e9,
    bfloat16_flop_per_second=1500e9,
    int8_op_per_second=3500e9,
)


def test_rates_of_a_quiet_machine_are_believed() -> None:
    assert doubts(ONE, FOUR, 0.02) == []
    assert doubts(ONE, ONE, None) == []
    assert doubts(None, FOUR.model_copy(update={"threads": None}), 0.1) == []


def test_work_of_others_is_said() -> None:
    (doubt,) = doubts(ONE, FOUR, 1.46)
    assert doubt.startswith("other processes kept 1.5 cores busy")


@pytest.mark.parametrize(
    ("field", "value", "name"),
    [
        ("memory_bytes_per_second", 3e8, "memory bandwidth on 1 thread is 3e+08 a second"),
        ("float32_flop_per_second", 0.5e9, "the float32 rate on 1 thread"),
        ("bfloat16_flop_per_second", 1e-3, "the bfloat16 rate on 1 thread"),
        ("int8_op_per_second", 0.9e9, "the int8 rate on 1 thread"),
    ],
)
def test_less_than_any_machine_gives_is_doubted_once(field: str, value: float, name: str) -> None:
    slow = ONE.model_copy(update={field: value})
    (doubt,) = doubts(slow, slow, 0.0)
    assert doubt.startswith(name)


def test_many_threads_that_give_less_than_one_are_doubted() -> None:
    (doubt,) = doubts(ONE, FOUR.model_copy(update={"float32_flop_per_second": 22e9}), 0.0)
    assert doubt == "the float32 rate is lower on 4 threads than on one: 2.2e+10 and 1e+11"


def test_what_is_not_known_is_not_doubted() -> None:
    assert doubts(ONE, Rates(threads=4), 0.0) == []


def cpu(root: Path, number: int, *caches: tuple[int, str, str]) -> None:
    for index, (level, size, shared) in enumerate(caches):
        folder = root / f"cpu{number}" / "cache" / f"index{index}"
        folder.mkdir(parents=True)
        for name, text in (("level", str(level)), ("size", size), ("shared_cpu_list", shared)):
            (folder / name).write_text(f"{text}\n")


def test_each_last_level_cache_counts_once(tmp_path: Path) -> None:
    cpu(tmp_path, 0, (1, "48K", "0"), (2, "1024K", "0"), (3, "32768K", "0-1"))
    cpu(tmp_path, 1, (1, "48K", "1"), (3, "32768K", "0-1"))
    cpu(tmp_path, 2, (3, "16384K", "2-3"))
    assert cache_bytes({0, 1}, tmp_path) == 32 << 20
    assert cache_bytes({0, 1, 2}, tmp_path) == 48 << 20


def test_a_machine_that_tells_no_cache_has_none(tmp_path: Path) -> None:
    cpu(tmp_path, 0, (3, "unknown", "0"))
    assert cache_bytes({0, 1}, tmp_path) is None


def test_a_process_that_gives_nothing_is_told_with_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_limits, "_PROGRAM", [sys.executable, "-c", "raise SystemExit('no torch here')"])
    with pytest.raises(StageError, match="limits ended with exit code 1") as caught:
        take_limits("cpu", 1)
    assert "no torch here" in caught.value.what
