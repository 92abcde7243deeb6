"""Writing files so that a reader sees the old content or the new, never half of either, and a power cut neither."""

import errno
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

logger = logging.getLogger(__name__)

# What file systems and kernels say that have no files without a name.
_NO_NAMELESS_FILES = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL)


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
    """Write `text` as UTF-8 to `path` (see `written_atomically`)."""
    with written_atomically(path) as file:
        file.write(text.encode("utf-8"))


@contextmanager
def written_atomically(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that becomes `path` when the block has ended, and is gone where it ends with an error.

    It has no name until it is whole and on disk (O_TMPFILE, open(2)), so a process that is killed amid the writing
    leaves nothing. Where there was a file before, it has a hidden name beside `path` between two system calls; where
    the file system knows no files without a name (NFS), from the beginning.
    """
    make_way(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    hidden = f".{path.name}.{secrets.token_hex(4)}"
    try:
        handle, nameless = _open_new(path.parent, hidden)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(handle)
            if not nameless or not _named(handle, path.name, hidden, folder):
                os.replace(hidden, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)
    except BaseException:
        (path.parent / hidden).unlink(missing_ok=True)
        raise
    finally:
        os.close(folder)


def _open_new(folder: Path, hidden: str) -> tuple[int, bool]:
    """A new, empty file in `folder`, and whether it has no name; else its name is `hidden`."""
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666), True
    except OSError as error:
        if error.errno not in _NO_NAMELESS_FILES:
            raise
    return os.open(folder / hidden, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o666), False


def _named(handle: int, name: str, hidden: str, folder: int) -> bool:
    """Name a nameless file; whether its name is `name`, else that was taken and it is `hidden`."""
    file = f"/proc/self/fd/{handle}"
    # With a folder's handle it is linkat(2) that is called, which follows /proc's link to the file; link(2) does not.
    try:
        os.link(file, name, dst_dir_fd=folder)
    except FileExistsError:
        os.link(file, hidden, dst_dir_fd=folder)
        return False
    return True


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
