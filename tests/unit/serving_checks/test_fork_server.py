"""Commands forked from a process with its imports done: the same life and death as executed ones."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving_checks.processes import fork_server
from serving_checks.processes.guard import descendants_of
from serving_checks.processes.process_memory import pss_bytes
from serving_checks.processes.supervisor import Supervised, run
from tests.unit.serving_checks.test_supervisor import gone, pid_in

COMMAND = """
import atexit, os, sys, tempfile, threading, time, subprocess
behaviour = sys.argv[1]
if behaviour == "tell":
    print(__name__, sys.argv[1:], "wave" in sys.modules, tempfile.gettempdir(), os.getcwd(), sys.stdin.read() == "")
    sys.exit(7)
if behaviour == "secret":
    print("with" if os.environ.get("SERVER_KEY") == "not-to-be-shown" else "without", "the key")
if behaviour == "raise":
    raise RuntimeError("it broke")
if behaviour == "words":
    sys.exit("told why")
if behaviour == "end":
    atexit.register(print, "atexit", flush=False)
    threading.Thread(target=lambda: (time.sleep(0.3), print("thread"))).start()
    sys.exit()
if behaviour == "sleep":
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    with open(sys.argv[2], "w") as file:
        file.write(str(child.pid))
    time.sleep(600)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "forked_command.py").write_text(COMMAND)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "forked_command"


@pytest.fixture
def server(tmp_path: Path, module: str) -> Iterator[Supervised]:
    argv = [sys.executable, "-P", "-m", "serving_checks.processes.fork_server", str(tmp_path / "socket"), "wave"]
    with Supervised(argv, log_file=tmp_path / "server.log") as child:
        while not (tmp_path / "socket").exists():
            assert child.wait(0.02) is None, child.log_tail()
        yield child


def command(module: str, *words: str) -> list[str]:
    return [sys.executable, "-P", "-m", module, *words]


def test_a_fork_is_the_program_that_was_asked_for(tmp_path, module, server):
    (tmp_path / "place").mkdir()
    finished = run(
        command(module, "tell"),
        log_file=tmp_path / "log",
        env={"TMPDIR": str(tmp_path / "place")},
        cwd=tmp_path / "place",
        fork_server=tmp_path / "socket",
    )
    assert finished.ending.exit_code == 7
    place = tmp_path / "place"
    assert (tmp_path / "log").read_text() == f"__main__ ['tell'] True {place} {place} True\n"


def test_a_secret_reaches_a_fork_and_is_shown_nowhere(tmp_path, module, server):
    log = tmp_path / "log"
    for secrets in ({}, {"SERVER_KEY": "not-to-be-shown"}):
        asked = command(module, "secret")
        with Supervised(asked, log_file=log, fork_server=tmp_path / "socket", secrets=secrets) as child:
            assert child.forked
            assert child.wait(30) == 0
            assert "not-to-be-shown" not in child.command_line
    assert log.read_text() == "without the key\nwith the key\n"


def test_a_traceback_goes_to_the_log_of_the_command(tmp_path, module, server):
    finished = run(command(module, "raise"), log_file=tmp_path / "log", fork_server=tmp_path / "socket")
    assert finished.ending.exit_code == 1
    assert "RuntimeError: it broke" in (tmp_path / "log").read_text()


def test_words_at_the_end_go_to_the_log(tmp_path, module, server):
    finished = run(command(module, "words"), log_file=tmp_path / "log", fork_server=tmp_path / "socket")
    assert finished.ending.exit_code == 1
    assert (tmp_path / "log").read_text() == "told why\n"


def test_a_fork_ends_as_a_program_does(tmp_path, module, server):
    finished = run(command(module, "end"), log_file=tmp_path / "log", fork_server=tmp_path / "socket")
    assert finished.ending.exit_code == 0
    assert (tmp_path / "log").read_text() == "thread\natexit\n"


def test_leaving_the_block_ends_all_that_the_fork_started(tmp_path, module, server):
    argv = command(module, "sleep", str(tmp_path / "pid"))
    with Supervised(argv, log_file=tmp_path / "log", fork_server=tmp_path / "socket") as child:
        assert child.forked
        sleeper = pid_in(tmp_path / "pid")
        assert sleeper in descendants_of(child.pid)
    assert gone(sleeper)
    assert (
        run(command(module, "raise"), log_file=tmp_path / "log", fork_server=tmp_path / "socket").ending.exit_code == 1
    )


def test_two_forks_at_once_do_not_touch_each_other(tmp_path, module, server):
    children = [
        Supervised(
            command(module, "sleep", str(tmp_path / name)), log_file=tmp_path / "log", fork_server=tmp_path / "socket"
        ).start()
        for name in ("one", "two")
    ]
    one, two = pid_in(tmp_path / "one"), pid_in(tmp_path / "two")
    children[0].stop()
    assert gone(one)
    assert Path(f"/proc/{two}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    assert children[1].poll() is None
    children[1].stop()
    assert gone(two)


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_ends_the_fork_is_its_exit_code(tmp_path, module, server, sent):
    argv = command(module, "sleep", str(tmp_path / "pid"))
    with Supervised(argv, log_file=tmp_path / "log", fork_server=tmp_path / "socket") as child:
        sleeper = pid_in(tmp_path / "pid")
        os.kill(descendants_of(child.pid)[0], sent)
        assert child.wait(20) == 128 + sent
    assert gone(sleeper)


def test_kill_of_the_guard_ends_the_fork(tmp_path, module, server):
    argv = command(module, "sleep", str(tmp_path / "pid"))
    with Supervised(argv, log_file=tmp_path / "log", fork_server=tmp_path / "socket") as child:
        pid_in(tmp_path / "pid")
        forked = descendants_of(child.pid)[0]
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait(20) == -9
        assert gone(forked)


def test_the_end_of_the_fork_server_is_the_end_of_its_forks(tmp_path, module, server):
    argv = command(module, "sleep", str(tmp_path / "pid"))
    with Supervised(argv, log_file=tmp_path / "log", fork_server=tmp_path / "socket") as child:
        sleeper = pid_in(tmp_path / "pid")
        server.stop()
        assert gone(sleeper)
        assert child.wait(20) is not None


@pytest.mark.slow
@pytest.mark.parametrize("address", ["nothing", "dead", "stopped"])
def test_where_no_server_answers_the_command_is_executed(tmp_path, module, server, address):
    if address == "dead":
        server.stop()
    if address == "stopped":
        os.kill(descendants_of(server.pid)[0], signal.SIGSTOP)
    place = tmp_path / ("nothing" if address == "nothing" else "socket")
    with Supervised(command(module, "tell"), log_file=tmp_path / "log", fork_server=place) as child:
        assert child.wait(60) == 7
        assert not child.forked
    assert "False" in (tmp_path / "log").read_text()
    if address == "stopped":
        # It finds the request that nobody waits for any more: the work is not done a second time.
        os.kill(descendants_of(server.pid)[0], signal.SIGCONT)
        assert run(command(module, "raise"), log_file=tmp_path / "next", fork_server=place).ending.exit_code == 1
        assert (tmp_path / "log").read_text().count("__main__") == 1


@pytest.mark.parametrize("interrupted_at", ["send_fds", "_await_reply", "ForkedCommand"])
def test_a_command_whose_start_was_interrupted_never_begins(tmp_path, module, server, monkeypatch, interrupted_at):
    """Else it would work on in folders that its caller is taking away."""

    def interrupted(*arguments: object) -> None:
        if interrupted_at == "send_fds":
            send_fds(*arguments)
        raise KeyboardInterrupt

    send_fds = fork_server.socket.send_fds
    owner = fork_server.socket if interrupted_at == "send_fds" else fork_server
    with monkeypatch.context() as patched:
        patched.setattr(owner, interrupted_at, interrupted)
        with pytest.raises(KeyboardInterrupt):
            Supervised(command(module, "tell"), log_file=tmp_path / "log", fork_server=tmp_path / "socket").start()
    after = run(command(module, "raise"), log_file=tmp_path / "next", fork_server=tmp_path / "socket")
    assert after.ending.exit_code == 1
    deadline = time.monotonic() + 20
    while len(descendants_of(server.pid)) > 1 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(descendants_of(server.pid)) == 1
    assert (tmp_path / "log").read_text() == ""


def test_a_failed_import_means_plain_starts(tmp_path, module):
    argv = [
        sys.executable,
        "-P",
        "-m",
        "serving_checks.processes.fork_server",
        str(tmp_path / "socket"),
        "no_such_module",
    ]
    with Supervised(argv, log_file=tmp_path / "server.log") as server:
        while not (tmp_path / "socket").exists():
            time.sleep(0.02)
        finished = run(command(module, "tell"), log_file=tmp_path / "log", fork_server=tmp_path / "socket")
        assert finished.ending.exit_code == 7
        assert server.wait(20) == 1
        assert "no_such_module" in server.log_tail()


def test_other_programs_are_executed(tmp_path, server):
    with Supervised(["sh", "-c", "exit 3"], log_file=tmp_path / "log", fork_server=tmp_path / "socket") as child:
        assert child.wait(20) == 3
        assert not child.forked


def test_inherited_pages_are_counted_whole():
    """In a process that shares nothing anonymous the two counts agree; in a fork only one of them halves."""
    data = bytearray(os.urandom(1) * (64 << 20))
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(reader, 1)
        os._exit(len(data) and 0)
    try:
        whole, halved = pss_bytes(child, inherited=True), pss_bytes(child)
        assert whole - halved > 25 << 20
    finally:
        os.write(writer, b"x")
        os.waitpid(child, 0)
