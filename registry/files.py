"""Writing files so that a reader sees the old content or the new, never half of either, and a power cut neither."""

import logging
import os
import secrets
import tempfile
from pathlib import Path

logger = logging.getLogger(__name__)


def make_way(path: Path) -> None:
    """Make the folder of a file that is to be written, and move aside whatever has its name and is no file."""
    if os.path.lexists(path.parent) and not path.parent.is_dir():
        _move_aside(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(path) and not path.is_file():
        _move_aside(path)


def _move_aside(path: Path) -> None:
    aside = path.with_name(f"{path.name}.damaged-{secrets.token_hex(4)}")
    logger.warning("%s is in the way of what is kept there: moved to %s", path, aside.name)
    path.rename(aside)


def write_text_atomically(path: Path, text: str) -> None:
    """Write beside `path`, flush to disk, rename into place, flush the folder that now names it."""
    make_way(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        # mkstemp makes files for the owner's eyes only; a report is for those whom the umask lets read.
        os.fchmod(handle, 0o666 & ~_umask())
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
        fsync(path.parent)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def fsync_tree(directory: Path) -> None:
    """Flush every file and folder below `directory`, and the folder itself, to disk."""
    for path in [*directory.rglob("*"), directory]:
        if path.is_file() or path.is_dir():  # opening a pipe would wait for its other end
            fsync(path)


def fsync(path: Path) -> None:
    """Flush one file's content, or a folder's entries, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    """The process's umask, which can only be read by setting it; from /proc, so that no other thread sees it change."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o077
