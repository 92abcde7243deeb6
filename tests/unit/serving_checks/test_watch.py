"""Servers that die, are killed or are stopped while they are used: whoever waits for them is told, and soon."""

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from configs.errors import StageError
from serving_checks.checks.smoke import smoke_answer
from serving_checks.processes.guard import alive, descendants_of
from serving_checks.processes.pulse import Patience, Pulse
from serving_checks.processes.supervisor import Supervised
from serving_checks.processes.watch import Watch
from serving_checks.server import RunningServer, serve
from serving_checks.transport.http_json import post_json
from tests.fake_engine import FakeEngine
from tests.unit.serving_checks.test_server import request

pytestmark = pytest.mark.slow

Hurt = Callable[[RunningServer], None]


def kill_guard(server: RunningServer) -> None:
    assert server.pid
    os.kill(server.pid, signal.SIGKILL)


def kill_command(server: RunningServer) -> None:
    assert server.pid
    os.kill(descendants_of(server.pid)[0], signal.SIGKILL)


def stop_command(server: RunningServer) -> None:
    assert server.pid
    os.kill(descendants_of(server.pid)[0], signal.SIGSTOP)


def stop_guard(server: RunningServer) -> None:
    assert server.pid
    os.kill(server.pid, signal.SIGSTOP)


@contextmanager
def served(tmp_path: Path, mode: str, suspended_seconds: float = 60.0) -> Iterator[RunningServer]:
    asked = request(tmp_path)
    engine = FakeEngine(asked.config, "--mode", mode, "--tpot-seconds", "0.1")
    patience = Patience(suspended_seconds=suspended_seconds)
    with serve(asked, tmp_path / "log", engine, patience=patience) as server:
        yield server


def waits_for_ever(server: RunningServer) -> None:
    """An answer of an hour; the socket is all that can end it."""
    body = {"model": "model", "prompt": "once upon", "max_tokens": 36_000}
    post_json(f"{server.endpoint.base_url}/v1/completions", body, timeout_seconds=3600.0)


def hurt_amid_an_answer(tmp_path: Path, mode: str, hurt: Hurt, suspended_seconds: float = 60.0) -> StageError:
    """What a caller is told who waits when the server comes to harm; nothing of the server is left."""
    with (
        pytest.raises(StageError) as caught,
        served(tmp_path, mode, suspended_seconds) as server,
    ):
        assert server.pid
        assert server.child
        assert server.child._memory
        tree = [server.pid, *descendants_of(server.pid)]
        # What outlives a killed guard is known from the last sample of its tree; below a stage's guard, by that.
        while {pid for pid, _ in server.child._memory.seen} < set(tree[1:]):
            time.sleep(0.05)
        threading.Timer(0.3, hurt, [server]).start()
        waits_for_ever(server)
    assert not alive(tree)
    return caught.value


@pytest.mark.parametrize("mode", ["ok", "heir", "grandchild"])
@pytest.mark.parametrize("hurt", [kill_guard, kill_command])
def test_a_killed_server_is_told_as_that(tmp_path: Path, mode: str, hurt: Hurt) -> None:
    error = hurt_amid_an_answer(tmp_path, mode, hurt)
    assert "the server died amid its work" in error.what
    assert "SIGKILL" in error.what
    assert ("guard" in error.what.splitlines()[0]) == (hurt is kill_guard)
    assert "it was noticed as" in error.what
    assert error.blame == "machine"


@pytest.mark.slow  # its answer keeps the fake server from ending at SIGTERM
@pytest.mark.parametrize("hurt", [stop_guard, stop_command])
def test_a_suspended_server_is_ended_after_a_while(tmp_path: Path, hurt: Hurt) -> None:
    error = hurt_amid_an_answer(tmp_path, "ok", hurt, suspended_seconds=1.0)
    assert "suspended from outside" in error.what
    assert error.blame == "machine"


def test_a_server_that_goes_on_has_been_suspended(tmp_path: Path) -> None:
    with served(tmp_path, "ok") as server:
        assert server.pid
        assert server.suspended_seconds == 0
        (command,) = descendants_of(server.pid)
        os.kill(command, signal.SIGSTOP)
        while not server.suspended_seconds:
            time.sleep(0.05)
        os.kill(command, signal.SIGCONT)
        assert smoke_answer(server.endpoint, max_tokens=1)


def test_a_caller_s_own_failure_stays_his(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="mine"), served(tmp_path, "ok"):
        raise StageError("mine", remedy="none")


@pytest.mark.slow
def test_a_server_that_was_stopped_before_it_was_ready(tmp_path: Path) -> None:
    def stop_all() -> None:
        for pid in descendants_of(os.getpid()):
            if b"--mode\0hang" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGSTOP)

    asked = request(tmp_path)
    threading.Timer(1.5, stop_all).start()
    with (
        pytest.raises(StageError, match="not healthy and was stopped: suspended from outside"),
        serve(asked, tmp_path / "log", FakeEngine(asked.config, "--mode", "hang"), patience=Patience(None, None, 1.0)),
    ):
        pass


def test_a_look_for_which_no_file_can_be_opened_does_not_end_the_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = threading.Event()

    def look(_: Pulse) -> None:
        tried.set()
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Pulse, "look", look)
    with Supervised(["sleep", "600"], log_file=tmp_path / "log") as child, Watch(child, Patience()) as watch:
        assert tried.wait(60)
        while not descendants_of(child.pid):
            time.sleep(0.05)
        os.kill(descendants_of(child.pid)[0], signal.SIGKILL)
        assert watch.over(60)
