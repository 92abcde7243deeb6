"""One folder for all that a run's processes let lie: temporary files, sockets, what compilers keep.

It is the TMPDIR of the run and so of every process that comes of it. It goes with the run; where the run is killed, the
guards of its processes remove it when these are gone (`guard.py`), and where they are killed too, the next run does.
"""

import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from configs.errors import RequestError
from registry.owned_folders import is_owned, owned_folder, sweep_abandoned
from serving_checks.processes.guard import SCRATCH_VARIABLE, SHARED_MEMORY, remove_shared_memory

_LONGEST_BASE_BYTES = 38
"""A socket's path has 107 bytes at most (unix(7)); vLLM and multiprocessing put up to 69 behind this."""
_PLAIN_BASE = Path("/tmp")  # noqa: S108 - short on every Linux
_SHARED_MEMORY_NAMES = "shared_memory"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder that is this process's and its children's TMPDIR for the length of the block.

    Raises:
        RequestError: There is no place for it.
    """
    parent = _parent()
    sweep_abandoned(parent, _forget_shared_memory)
    with owned_folder(parent) as folder:
        before = {name: os.environ.get(name) for name in ("TMPDIR", SCRATCH_VARIABLE)}
        _set(dict.fromkeys(before, str(folder)))
        try:
            yield folder
        finally:
            _set(before)


def left_over() -> list[int]:
    """Processes of this user that came of a run which is gone: their guards are about to end them."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # another user's, or it ended just now
            variables = environ.read_bytes().split(b"\0")
            named = next((one for one in variables if one.startswith(f"{SCRATCH_VARIABLE}=".encode())), None)
            if named and not is_owned(Path(os.fsdecode(named.partition(b"=")[2]))):
                found.append(int(environ.parent.name))
    return sorted(found)


def note_shared_memory(files: Iterable[str]) -> None:
    """Write down files in /dev/shm for whoever sweeps the run's folder: they lie outside of it."""
    folder = os.environ.get(SCRATCH_VARIABLE)
    if folder:
        with suppress(OSError), (Path(folder) / _SHARED_MEMORY_NAMES).open("a") as notes:
            notes.writelines(f"{file}\n" for file in files)


def _forget_shared_memory(folder: Path) -> None:
    with suppress(OSError):
        noted = (folder / _SHARED_MEMORY_NAMES).read_text(errors="replace").splitlines()
        remove_shared_memory({file for file in noted if file.startswith(SHARED_MEMORY)})


def _parent() -> Path:
    """The folder in which all runs of this user have theirs; short, and nobody else's."""
    base = Path(tempfile.gettempdir())
    if len(os.fsencode(base)) > _LONGEST_BASE_BYTES:
        base = _PLAIN_BASE
    folder = base / f"qb-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise RequestError(
            f"{folder}, for temporary files and sockets, cannot be made: {error.strerror}",
            remedy=f"let TMPDIR name a folder of yours, its path at most {_LONGEST_BASE_BYTES} bytes long",
        ) from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise RequestError(
            f"{folder}, for temporary files and sockets, is not yours alone",
            remedy=f"let TMPDIR name a folder of yours, its path at most {_LONGEST_BASE_BYTES} bytes long",
        )
    return folder


def _set(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    tempfile.tempdir = None  # it is read once
