"""A run's scratch goes with the run, by whoever is left to remove it."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.errors import RequestError
from serving_checks.processes.scratch import note_shared_memory, scratch_folder
from serving_checks.processes.supervisor import run

WORKER = "import tempfile, time; print(tempfile.mkdtemp(), flush=True); time.sleep(600)"
OWNER = f"""
import sys
from pathlib import Path
from serving_checks.processes.scratch import scratch_folder
from serving_checks.processes.supervisor import Supervised
with scratch_folder() as folder:
    with Supervised([sys.executable, "-c", {WORKER!r}], log_file=Path(sys.argv[1]), grace_seconds=0.2) as child:
        while not child.log:
            child.wait(0.05)
        print(folder, child.pid, flush=True)
        child.wait()
"""


@pytest.fixture(autouse=True)
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place for temporary files that this test has for itself, its path short enough for sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield Path(folder)


def left(base: Path) -> list[Path]:
    return [path for path in base.rglob("*") if path.name != f"qb-{os.getuid()}"]


def owner(log: Path) -> tuple["subprocess.Popen[str]", Path, int]:
    process = subprocess.Popen([sys.executable, "-P", "-c", OWNER, str(log)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    folder, guard = process.stdout.readline().split()
    return process, Path(folder), int(guard)


def await_gone(path: Path) -> None:
    deadline = time.monotonic() + 60
    while path.exists():
        assert time.monotonic() < deadline, f"{path} stayed"
        time.sleep(0.05)


def test_all_temporary_files_lie_in_it_and_go_with_it(base: Path, tmp_path: Path) -> None:
    with scratch_folder() as folder:
        assert folder.is_relative_to(base)
        assert Path(tempfile.mkdtemp()).parent == folder
        run([sys.executable, "-c", "import tempfile; print(tempfile.mkdtemp())"], log_file=tmp_path / "log")
        assert Path((tmp_path / "log").read_text().strip()).parent == folder
    assert left(base) == []
    assert tempfile.gettempdir() == os.environ["TMPDIR"] == str(base)


def test_a_socket_has_room_in_it_wherever_temporary_files_lie(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (deep := tmp_path / ("d" * 60)).mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    tempfile.tempdir = None
    with scratch_folder() as folder:
        assert len(str(folder)) <= 107 - 12 - 1 - 36  # a folder of the server, a slash, a name by uuid


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_the_guards_remove_it_when_its_owner_is_killed(base: Path, tmp_path: Path, sent: signal.Signals) -> None:
    process, folder, _ = owner(tmp_path / "log")
    assert list(folder.iterdir())
    process.send_signal(sent)
    process.wait()
    await_gone(folder)
    await_gone(folder.with_name(folder.name + ".lock"))
    assert left(base) == []


def test_the_next_run_removes_it_when_all_were_killed(base: Path, tmp_path: Path) -> None:
    process, folder, guard = owner(tmp_path / "log")
    with tempfile.NamedTemporaryFile(dir="/dev/shm", delete=False) as memory:
        (folder / "shared_memory").write_text(f"{memory.name}\n/etc/hostname\n")
    os.kill(guard, signal.SIGKILL)
    process.kill()
    process.wait()
    assert folder.exists()
    with scratch_folder() as mine:
        assert not folder.exists()
        assert mine.exists()
    assert left(base) == []
    assert not Path(memory.name).exists()
    assert Path("/etc/hostname").exists()


def test_a_living_run_s_stays(tmp_path: Path) -> None:
    process, folder, _ = owner(tmp_path / "log")
    with scratch_folder():
        assert folder.exists()
    process.kill()
    process.wait()
    await_gone(folder)


def test_a_folder_that_others_can_write_is_refused(base: Path) -> None:
    (base / f"qb-{os.getuid()}").mkdir()
    (base / f"qb-{os.getuid()}").chmod(0o777)
    with pytest.raises(RequestError, match="is not yours alone"), scratch_folder():
        pass


def test_noting_needs_no_run() -> None:
    note_shared_memory(["/dev/shm/x"])  # noqa: S108
