"""What a process uses is known to others, until it ends, however it does."""

import fcntl
import gc
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from configs.errors import StageError
from registry import in_use
from registry.in_use import InUse

USER = """
import sys
from pathlib import Path
from registry.in_use import InUse
user = InUse(Path(sys.argv[1]))
for name in sys.argv[2:]:
    user.hold(name)
print("held", flush=True)
sys.stdin.read()
"""
CLOSER = """
import sys
from pathlib import Path
from registry.in_use import InUse
with InUse(Path(sys.argv[1])).closed():
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def beside(program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Another process, that has what it wants."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_another_process_is_seen_until_it_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "in-use.lock"
    mine = InUse(path)
    with beside(USER, str(path), "a", "b"):
        assert [mine.is_used(name) for name in ("a", "b", "c")] == [True, True, False]
        with mine.closed():
            assert mine.is_used("a")
    assert not mine.is_used("a")


def test_what_this_process_uses_it_may_take_away(tmp_path: Path) -> None:
    path = tmp_path / "in-use.lock"
    mine, other = InUse(path), InUse(path)
    mine.hold("a")
    assert not other.is_used("a")


def test_a_file_is_closed_with_its_last_user(tmp_path: Path) -> None:
    mine = InUse(tmp_path / "in-use.lock")
    mine.hold("a")
    assert len([key for key in in_use._files if key[1] == (tmp_path / "in-use.lock").stat().st_ino]) == 1
    del mine
    gc.collect()
    assert not [key for key in in_use._files if key[1] == (tmp_path / "in-use.lock").stat().st_ino]


def test_nobody_begins_behind_a_closed_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "in-use.lock"
    monkeypatch.setattr(in_use, "_PATIENCE_SECONDS", 0.0)
    mine = InUse(path)
    with beside(CLOSER, str(path)):
        with pytest.raises(StageError, match="shut") as caught:
            mine.hold("a")
        assert "workspace gc" in caught.value.remedy
        with pytest.raises(StageError, match="shut"), mine.closed():
            pass
    mine.hold("a")


def test_whoever_waits_goes_on_when_the_gate_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "in-use.lock"
    mine = InUse(path)
    waits: list[float] = []
    with beside(CLOSER, str(path)) as closer:

        def waited(seconds: float) -> None:
            waits.append(seconds)
            closer.kill()
            closer.wait()

        monkeypatch.setattr(in_use, "time", SimpleNamespace(sleep=waited, monotonic=time.monotonic))
        mine.hold("a")
    assert waits == [in_use._POLL_SECONDS]


def test_a_file_system_without_locks_keeps_nobody_from_working(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "fcntl", no_locks)
    mine = InUse(tmp_path / "in-use.lock")
    mine.hold("a")
    with pytest.raises(StageError, match="nobody knows what others use"):
        mine.is_used("a")
    with pytest.raises(StageError, match="nobody knows what others use"), mine.closed():
        pass


def test_where_no_file_can_be_made_nobody_uses_anything(tmp_path: Path) -> None:
    mine = InUse(tmp_path / "none" / "in-use.lock")
    mine.hold("a")
    assert not mine.is_used("a")
