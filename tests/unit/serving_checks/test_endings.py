"""Why a process ended: each kind of end made for real, beside those that need another machine."""

import os
import signal
import sys
from pathlib import Path

import pytest

from serving_checks.processes import endings
from serving_checks.processes.endings import Ending, death_of, memory_limit_bytes, oom_kills
from serving_checks.processes.supervisor import run


def ended(tmp_path: Path, code: str) -> Ending:
    return run([sys.executable, "-c", code], log_file=tmp_path / "log").ending


@pytest.mark.parametrize(
    ("number", "reason", "remedy", "blame"),
    [
        (signal.SIGILL, "this CPU does not know an instruction", "another CPU", "machine"),
        (signal.SIGSEGV, "memory that is not its own", "engine's version", "engine"),
        (signal.SIGABRT, "abort", "engine's version", "engine"),
        (signal.SIGFPE, "divided by zero", "engine's version", "engine"),
        (signal.SIGBUS, "a file that it had mapped", "free space", "machine"),
        (signal.SIGXFSZ, "file grew", "ulimit -f", "machine"),
        (signal.SIGXCPU, "CPU time", "ulimit -t", "machine"),
        (signal.SIGTERM, "someone ended it", "same command", "machine"),
        (signal.SIGKILL, "someone sent SIGKILL", "same command", "machine"),
        (signal.SIGUSR1, "from outside or from the engine", "read the log", None),
    ],
)
def test_a_real_signal_has_its_reason(
    tmp_path: Path, number: signal.Signals, reason: str, remedy: str, blame: str | None
) -> None:
    argv = ["sh", "-c", f"ulimit -c 0; kill -{int(number)} $$"]
    ending = run(argv, log_file=tmp_path / "log").ending
    assert ending.signal == number
    death = death_of(ending)
    assert reason in death.reason
    assert remedy in death.remedy
    assert death.blame == blame


@pytest.mark.parametrize("code", ["import os; os._exit(0)", "import sys; sys.exit(3)"])
def test_a_library_that_ends_the_process_is_not_tried_again(tmp_path: Path, code: str) -> None:
    death = death_of(ended(tmp_path, f"print('ValueError: weights are NaN', flush=True); {code}"))
    assert death.blame == "engine"
    assert "ValueError: weights are NaN" in death.reason
    assert "the same way again" in death.remedy
    assert "same command" not in death.remedy


def test_a_refused_resource_in_the_log_is_the_machine_s(tmp_path: Path) -> None:
    death = death_of(ended(tmp_path, "raise OSError(28, 'No space left on device', '/x/result.json')"))
    assert death.blame == "machine"
    assert "no room on the disk" in death.reason


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    death = death_of(run(["/no/such/program"], log_file=tmp_path / "log").ending)
    assert "could not be started" in death.reason


def test_a_killed_guard_is_told_apart(tmp_path: Path) -> None:
    ending = Ending(-9, "", tmp_path)
    assert ending.signal == signal.SIGKILL
    assert "guard" in ending.how


GIB = 1 << 30


@pytest.mark.parametrize(
    ("kills", "peak", "said"),
    [(1, GIB, "the kernel ended it for want of memory"), (0, 7 * GIB + GIB // 2, "most likely"), (0, GIB, "someone")],
)
def test_sigkill_by_the_kernel_shows_in_its_counters_or_in_the_peak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: int, peak: int, said: str
) -> None:
    monkeypatch.setattr(endings, "memory_limit_bytes", lambda: 8 * GIB)
    death = death_of(Ending(137, "", tmp_path, peak, kills))
    assert said in death.reason
    assert "of 8.0 GiB" in death.reason
    assert ("same command" in death.remedy) == (said == "someone")


def test_a_full_disk_explains_an_end_without_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endings, "is_full", lambda folder: folder == tmp_path)
    assert "no room" in death_of(Ending(1, "", tmp_path)).reason


def test_the_machine_s_own_numbers_are_read() -> None:
    limit = memory_limit_bytes()
    assert limit is not None
    assert limit <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") + GIB
    assert oom_kills() >= 0
