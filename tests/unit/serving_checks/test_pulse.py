"""When a process tree is given up: by a clock that the test turns, and for real where a signal does it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event

import pytest

from configs.errors import StageError
from serving_checks.processes.pulse import Patience, Pulse, Stuck, Vitals, vitals_of
from serving_checks.processes.supervisor import run

pytestmark = pytest.mark.slow  # processes that stand still for seconds


class Tree:
    """A process tree as the kernel would tell of it, and a clock."""

    def __init__(self, **patience: float) -> None:
        self.now = self.cpu_seconds = 0.0
        self.suspended: list[int] = []
        self.sign = 0
        self.pulse = Pulse(
            1,
            Patience(**patience),
            lambda: self.sign,
            lambda: self.now,
            lambda _: Vitals(self.cpu_seconds, self.suspended),
        )

    def after(self, seconds: float, *, step: float = 5.0, share: float = 0.0) -> Stuck | None:
        """Look every `step` seconds; `share` of a core is used meanwhile."""
        until = self.now + seconds
        stuck = None
        while self.now < until and not stuck:
            self.now += step
            self.cpu_seconds += step * share
            stuck = self.pulse.look()
        return stuck


def test_the_deadline_is_told_in_minutes() -> None:
    stuck = Tree(deadline_seconds=600).after(700)
    assert stuck
    assert stuck.what == "no end after 10 min"
    assert "deadlines" in stuck.remedy


def test_whoever_gives_up_need_not_wait() -> None:
    given_up = Event()
    pulse = Pulse(os.getpid(), Patience(given_up=given_up))
    assert pulse.look() is None
    given_up.set()
    stuck = pulse.look()
    assert stuck and stuck.what == "nobody waits for it any more"


def test_who_computes_is_not_silent_and_who_polls_is() -> None:
    assert Tree(silent_seconds=600).after(10_000, share=0.5) is None
    stuck = Tree(silent_seconds=600).after(10_000, share=0.02)
    assert stuck
    assert "no sign of life for 10 min" in stuck.what


def test_a_process_that_ends_takes_nothing_of_what_the_others_compute() -> None:
    tree = Tree(silent_seconds=600)
    tree.cpu_seconds = 5000.0
    assert tree.after(300, share=0.5) is None
    tree.cpu_seconds -= 5000.0
    assert tree.after(10_000, share=0.5) is None


def test_progress_is_a_sign_of_life() -> None:
    tree = Tree(silent_seconds=600)
    for _ in range(5):
        assert tree.after(500) is None
        tree.sign += 1
    assert tree.after(700)


def test_a_suspended_process_is_given_up_after_a_while_and_forgiven_before() -> None:
    tree = Tree(suspended_seconds=60)
    tree.suspended = [7]
    assert tree.after(50) is None
    assert tree.pulse.suspended_now
    tree.suspended = []
    assert tree.after(500) is None
    assert tree.pulse.suspended_seconds == 50
    tree.suspended = [7, 8]
    stuck = tree.after(100)
    assert stuck
    assert "process 7, 8 is stopped (state T)" in stuck.what
    assert stuck.blame == "machine"


def test_who_looks_may_have_been_stopped_himself() -> None:
    tree = Tree(suspended_seconds=60)
    tree.after(30, step=30.0)
    assert tree.pulse.suspended_seconds == 30


def test_the_kernel_tells_who_is_stopped_and_what_was_computed() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        while vitals_of(process.pid).cpu_seconds < 0.05:
            time.sleep(0.02)
        assert vitals_of(process.pid).suspended == []
        os.kill(process.pid, signal.SIGSTOP)
        while not vitals_of(process.pid).suspended:
            time.sleep(0.02)
        assert vitals_of(process.pid).suspended == [process.pid]
        process.kill()


def test_a_command_that_stops_itself_is_ended_and_leaves_nothing(tmp_path: Path) -> None:
    ticks: list[bool] = []
    with pytest.raises(StageError, match="suspended from outside") as caught:
        run(
            ["sh", "-c", "echo $$ > pid; kill -STOP $$; sleep 600"],
            log_file=tmp_path / "log",
            cwd=tmp_path,
            patience=Patience(suspended_seconds=2.0),
            on_tick=ticks.append,
        )
    assert caught.value.blame == "machine"
    assert True in ticks
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_a_command_that_waits_for_nothing_is_ended(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no sign of life"):
        run(["sleep", "600"], log_file=tmp_path / "log", patience=Patience(silent_seconds=1.0))
