import mmap
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs.errors import StageError
from serving_checks.processes import supervisor
from serving_checks.processes.guard import descendants_of
from serving_checks.processes.pulse import Patience
from serving_checks.processes.supervisor import Supervised, run, tail_of

pytestmark = pytest.mark.slow

# A child that leaves the session and ignores SIGTERM, the hardest to get rid of; it writes its process id.
STUBBORN = "import os,signal,sys,time; os.setsid(); signal.signal(15, signal.SIG_IGN); open(sys.argv[1],'w').write(str(os.getpid())); time.sleep(600)"  # noqa: E501
PARENT = "import subprocess,sys,time; subprocess.Popen([sys.executable,'-c',sys.argv[1],sys.argv[2]]); time.sleep(600)"


def tree(pid_file: Path) -> list[str]:
    return [sys.executable, "-c", PARENT, STUBBORN, str(pid_file)]


def pid_in(file: Path) -> int:
    for _ in range(600):
        if file.exists() and file.read_text():
            return int(file.read_text())
        time.sleep(0.05)
    raise AssertionError("the grandchild did not start")


def gone(pid: int) -> bool:
    for _ in range(600):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_exit_code_and_output(tmp_path):
    code = "print('said'); raise SystemExit(7)"
    finished = run([sys.executable, "-c", code], log_file=tmp_path / "new" / "log")
    assert finished.ending.exit_code == 7
    assert (tmp_path / "new" / "log").read_text() == "said\n"


def test_killed_command_gives_128_and_the_signal(tmp_path):
    assert run(["sh", "-c", "kill -9 $$"], log_file=tmp_path / "log").ending.exit_code == 137


def test_missing_program_is_named_in_the_log(tmp_path):
    assert run(["/no/such/program"], log_file=tmp_path / "log").ending.exit_code == 127
    assert "/no/such/program" in (tmp_path / "log").read_text()


def test_variables_are_set_and_shown(tmp_path):
    with Supervised(["sh", "-c", "echo $FRUIT"], env={"FRUIT": "a pear"}, log_file=tmp_path / "log") as child:
        child.wait()
        assert child.log_tail() == "a pear"
        assert child.command_line == "env 'FRUIT=a pear' sh -c 'echo $FRUIT'"


def test_stop_ends_a_grandchild_that_left_the_session(tmp_path):
    with Supervised(tree(tmp_path / "pid"), log_file=tmp_path / "log", grace_seconds=0.2):
        grandchild = pid_in(tmp_path / "pid")
    assert gone(grandchild)


def test_grandchild_ends_when_the_command_ends(tmp_path):
    script = (
        f'{sys.executable} -c "{STUBBORN}" {tmp_path / "pid"} & while [ ! -s {tmp_path / "pid"} ]; do sleep 0.05; done'
    )
    with Supervised(["sh", "-c", script], log_file=tmp_path / "log", grace_seconds=0.2) as child:
        assert child.wait(60) == 0
    assert gone(pid_in(tmp_path / "pid"))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_after_an_exception(tmp_path, error):
    with pytest.raises(error), Supervised(tree(tmp_path / "pid"), log_file=tmp_path / "log", grace_seconds=0.2):
        grandchild = pid_in(tmp_path / "pid")
        raise error
    assert gone(grandchild)


def test_a_command_whose_start_was_interrupted_never_begins(tmp_path, monkeypatch):
    class Interrupted(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            guards.append(self.pid)
            self.stdin.close()  # as Popen does when something is raised inside it
            raise KeyboardInterrupt

    guards = []
    monkeypatch.setattr(supervisor.subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        Supervised(["touch", str(tmp_path / "begun")], log_file=tmp_path / "log").start()
    assert gone(guards[0])
    assert not (tmp_path / "begun").exists()


def test_what_is_interrupted_once_it_runs_is_ended(tmp_path, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        pid_in(tmp_path / "pid")
        raise KeyboardInterrupt

    monkeypatch.setattr(supervisor, "PeakMemorySampler", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Supervised(tree(tmp_path / "pid"), log_file=tmp_path / "log", grace_seconds=0.2).start()
    assert gone(pid_in(tmp_path / "pid"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_when_the_caller_is_killed(tmp_path, number):
    caller = (
        "import sys; from pathlib import Path; from serving_checks.processes.supervisor import Supervised\n"
        "with Supervised(sys.argv[2:], log_file=Path(sys.argv[1]), grace_seconds=0.2) as child: child.wait()"
    )
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", caller, str(tmp_path / "log"), *tree(tmp_path / "pid")],
        stderr=subprocess.DEVNULL,
    )
    grandchild = pid_in(tmp_path / "pid")
    os.kill(process.pid, number)
    process.wait()
    assert gone(grandchild)


def test_nothing_of_the_group_is_left_when_the_guard_is_killed(tmp_path):
    with Supervised(["sleep", "600"], log_file=tmp_path / "log") as child:
        while not (started := descendants_of(child.pid)):
            time.sleep(0.05)
        os.kill(child.pid, signal.SIGKILL)
    assert gone(started[0])


def test_deadline_is_an_error_with_command_and_log(tmp_path):
    ticks = []
    with pytest.raises(StageError, match="no end after") as caught:
        run(
            ["sh", "-c", "echo waiting for nothing; sleep 600"],
            log_file=tmp_path / "log",
            patience=Patience(deadline_seconds=0.5),
            on_tick=ticks.append,
        )
    assert "waiting for nothing" in caught.value.what
    assert "sleep 600" in caught.value.what
    assert ticks


@pytest.mark.slow
def test_memory_of_the_whole_tree_is_sampled(tmp_path):
    hold = "import time; held = bytearray(150 << 20); time.sleep(2)"
    outer = f"import subprocess,sys; subprocess.run([sys.executable,'-c','{hold}'])"
    finished = run([sys.executable, "-c", outer], log_file=tmp_path / "log")
    assert finished.ending.peak_memory_bytes is not None
    assert 150 << 20 < finished.ending.peak_memory_bytes < 400 << 20


SHARER = """
import mmap, sys, time
with open(sys.argv[1], "w+b") as file:
    file.truncate(4096)
    shared = mmap.mmap(file.fileno(), 4096)
open(sys.argv[2], "w").write("1")
time.sleep(600)
"""


@pytest.fixture
def shared_file():
    file = Path(f"/dev/shm/quantbench-test-{os.getpid()}")  # noqa: S108
    yield file
    file.unlink(missing_ok=True)


def test_shared_memory_of_what_is_killed_goes_with_it(tmp_path, shared_file):
    argv = [sys.executable, "-c", SHARER, str(shared_file), str(tmp_path / "ready")]
    with Supervised(argv, log_file=tmp_path / "log", grace_seconds=0.2):
        assert pid_in(tmp_path / "ready") == 1
        assert shared_file.exists()
    assert not shared_file.exists()


def test_shared_memory_that_another_process_maps_stays(tmp_path, shared_file):
    argv = [sys.executable, "-c", SHARER, str(shared_file), str(tmp_path / "ready")]
    with Supervised(argv, log_file=tmp_path / "log", grace_seconds=0.2):
        assert pid_in(tmp_path / "ready") == 1
        with shared_file.open("r+b") as file:
            ours = mmap.mmap(file.fileno(), 4096)
    assert shared_file.exists()
    ours.close()


def test_of_a_long_log_the_beginning_and_the_end_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_LOG_PART_BYTES", 8)
    child = Supervised(["true"], log_file=tmp_path / "log")
    assert child.log == "" and tail_of(tmp_path / "log", 3) == ""
    for text, read in (("12345678", "12345678"), ("12345678abcdefgh", "12345678abcdefgh")):
        (tmp_path / "log").write_text(text)
        assert child.log == read
    (tmp_path / "log").write_text("12345678" + "x" * 1000 + "abcdefgh")
    assert child.log == "12345678\n...\nabcdefgh"
