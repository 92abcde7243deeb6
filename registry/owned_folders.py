"""Folders that belong to a process for as long as it lives; the next process sweeps away those whose owner is gone.

The owner holds flock(2) on `<folder>.lock` beside the folder. The kernel drops it at the owner's end, however that
comes about. A process id would say less: it is used again after a while, and means another process in another pid
namespace.

A folder never stands without its lock file: the file is made before it and removed after it.
"""

import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_LOCK = ".lock"


@contextmanager
def owned_folder(parent: Path) -> Iterator[Path]:
    """A new, empty folder below `parent`, for this process alone; it goes with the block, `parent` stays."""
    parent.mkdir(parents=True, exist_ok=True)
    folder, lock = _lock_new(parent)
    try:
        folder.mkdir()
        yield folder
    finally:
        _remove(folder)
        os.close(lock)


def sweep_abandoned(parent: Path, before: Callable[[Path], None] | None = None) -> None:
    """Remove every folder below `parent` whose owner is gone. What cannot be removed stays for the next time.

    Args:
        before: Called with each of them, while it is still there.
    """
    for path in sorted(parent.glob("*")):
        if path.suffix == _LOCK:
            remove_if_abandoned(path.with_suffix(""), before)
        elif not _lock_of(path).exists():
            _remove(path)


def abandoned_below(parent: Path) -> list[Path]:
    """The folders that a sweep would remove."""
    return [
        path
        for path in sorted(parent.glob("*"))
        if path.suffix != _LOCK and (not _lock_of(path).exists() or not is_owned(path))
    ]


def is_owned(folder: Path) -> bool:
    """Whether the folder's owner lives."""
    try:
        lock = os.open(_lock_of(folder), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # not ours to look at
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(lock)


def remove_if_abandoned(folder: Path, before: Callable[[Path], None] | None = None) -> None:
    """Remove an owned folder if its owner is gone; harmless while the owner lives, and when there is no such folder."""
    try:
        lock = os.open(_lock_of(folder), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return  # it was removed just now, or is not ours to remove
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return  # its owner lives
    else:
        if before:
            before(folder)
        _remove(folder)
    finally:
        os.close(lock)


def _lock_new(parent: Path) -> tuple[Path, int]:
    """A name below `parent` that nobody has, and the open file whose lock makes it ours."""
    while True:
        folder = parent / secrets.token_hex(4)
        try:
            lock = os.open(_lock_of(folder), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # A sweep may have found the file before it was locked, and removed it.
            if os.fstat(lock).st_nlink:
                return folder, lock
        except BaseException:
            _lock_of(folder).unlink(missing_ok=True)
            os.close(lock)
            raise
        os.close(lock)


def _remove(folder: Path) -> None:
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)
    else:
        folder.unlink(missing_ok=True)
    if not folder.exists():
        _lock_of(folder).unlink(missing_ok=True)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(folder.name + _LOCK)
