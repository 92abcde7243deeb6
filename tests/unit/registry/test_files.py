"""Files are whole or not there: after an error, after a kill, and where the file system has no nameless files."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from registry.files import write_text_atomically, written_atomically

_WRITER = """
import sys
from pathlib import Path
from registry.files import written_atomically
with written_atomically(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("amid", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=["nameless", "named"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both kinds of file system; NFS answers O_TMPFILE with EOPNOTSUPP."""
    opened = os.open

    def without_nameless(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), str(path))
        return opened(path, flags, *more, **named)

    if request.param == "named":
        monkeypatch.setattr("registry.files.os.open", without_nameless)
    return str(request.param)


def test_new_and_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a" / "b.json"
    write_text_atomically(path, "old\n")
    assert path.read_text() == "old\n"
    write_text_atomically(path, "ä\n")
    assert path.read_bytes() == "ä\n".encode()
    assert [one.name for one in path.parent.iterdir()] == ["b.json"]


def test_an_error_leaves_what_was(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "b.json"
    for before in ([], ["b.json"]):
        with pytest.raises(ZeroDivisionError), written_atomically(path) as file:
            file.write(b"half")
            raise ZeroDivisionError
        assert [one.name for one in tmp_path.iterdir()] == before
        write_text_atomically(path, "old")
        assert path.read_text() == "old"


def test_a_reader_sees_it_when_it_is_whole(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "b.json"
    with written_atomically(path) as file:
        file.write(b"whole")
        file.flush()
        assert not path.exists()
    assert path.read_text() == "whole"


def test_whom_the_umask_lets_read(tmp_path: Path, kind: str) -> None:
    before = os.umask(0o027)
    try:
        write_text_atomically(tmp_path / "b.json", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "b.json").stat().st_mode & 0o777 == 0o640


def test_a_folder_in_its_way_is_moved_aside(tmp_path: Path, kind: str) -> None:
    (tmp_path / "b.json").mkdir()
    write_text_atomically(tmp_path / "b.json", "x")
    assert (tmp_path / "b.json").read_text() == "x"
    assert len(list(tmp_path.glob("b.json.damaged-*"))) == 1


def test_a_killed_writer_leaves_nothing(tmp_path: Path) -> None:
    """Of a process killed amid the writing: no hidden file, and what was there before."""
    path = tmp_path / "b.json"
    for before in ([], ["b.json"]):
        with subprocess.Popen(
            [sys.executable, "-P", "-c", _WRITER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"amid\n"
            writer.send_signal(signal.SIGKILL)
        assert [one.name for one in tmp_path.iterdir()] == before
        write_text_atomically(path, "old")
        assert path.read_text() == "old"
