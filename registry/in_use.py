"""Which things of a folder processes use, told by locks that the kernel drops at a process's end, however it ends.

All locks are on one file, a byte for each name (fcntl(2), open file description locks): a run that uses a hundred
objects holds one file open. Byte 0 is the gate that users go through one beside the other, and that `closed` shuts for
all.
"""

import errno
import fcntl
import hashlib
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from weakref import WeakValueDictionary, finalize

from configs.errors import StageError

_FLOCK = "hhqqi4x"
"""`struct flock`: type, whence, start, length, process."""
_GATE = 0
_POLL_SECONDS = 0.05
_PATIENCE_SECONDS = 120.0
"""Whoever shuts the gate looks through a workspace behind it, which takes seconds; or he is stopped, or the disk is."""
_LOCKED = (errno.EAGAIN, errno.EACCES)


class _File:
    """An open one, closed when nobody here refers to it any more."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        finalize(self, os.close, handle)


_files: WeakValueDictionary[tuple[int, int], _File] = WeakValueDictionary()
"""By device and inode, one for all of a process: what one part of it uses, another may take away."""


class InUse:
    """What this process and others use, as long as this is referred to.

    Args:
        path: The file; made where it is not there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: _File | None = None

    def hold(self, name: str) -> None:
        """Use `name` from now on; where files cannot be locked or made, nobody is told.

        Raises:
            StageError: The gate stays shut.
        """
        try:
            file = self._open()
            self._take(file, fcntl.F_RDLCK, _PATIENCE_SECONDS)
        except OSError:
            return
        try:
            with suppress(OSError):
                _lock(file, fcntl.F_RDLCK, _place_of(name))
        finally:
            _lock(file, fcntl.F_UNLCK, _GATE)

    def is_used(self, name: str) -> bool:
        """Whether another process uses it.

        Raises:
            StageError: The file system does not tell.
        """
        try:
            return _is_locked(self._open(), _place_of(name))
        except FileNotFoundError:
            return False  # nobody could make the file, so nobody holds anything
        except OSError as error:
            raise self._unlockable(error) from error

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Nobody begins to use anything for the length of the block.

        Raises:
            StageError: The file cannot be made or locked, or the gate is not free.
        """
        try:
            file = self._open()
            self._take(file, fcntl.F_WRLCK, _PATIENCE_SECONDS)
        except OSError as error:
            raise self._unlockable(error) from error
        try:
            yield
        finally:
            _lock(file, fcntl.F_UNLCK, _GATE)

    def _unlockable(self, error: OSError) -> StageError:
        return StageError(
            f"{self._path} cannot be locked, so nobody knows what others use: {error.strerror}",
            remedy="see who may write there, and that the file system knows locks (fcntl); nothing was deleted",
            blame="machine",
        )

    def _open(self) -> int:
        if self._file is not None and os.fstat(self._file.handle).st_nlink:
            return self._file.handle
        try:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError:
            handle = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)  # enough to be told of
        about = os.fstat(handle)
        known = _files.get((about.st_dev, about.st_ino))
        if known is not None:
            os.close(handle)
        self._file = known or _files.setdefault((about.st_dev, about.st_ino), _File(handle))
        return self._file.handle

    def _take(self, file: int, kind: int, patience_seconds: float) -> None:
        """The gate, shared or alone."""
        until = time.monotonic() + patience_seconds
        while True:
            try:
                _lock(file, kind, _GATE)
                return
            except OSError as error:
                if error.errno not in _LOCKED:
                    raise
            if time.monotonic() > until:
                raise StageError(
                    f"another process keeps {self._path} shut for {patience_seconds:.0f} s",
                    remedy="see whether a `quantbench workspace gc` is suspended, and let it go on or end it",
                    blame="machine",
                )
            time.sleep(_POLL_SECONDS)


def _place_of(name: str) -> int:
    return 1 + int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")


def _lock(file: int, kind: int, place: int) -> None:
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, kind, os.SEEK_SET, place, 1, 0))


def _is_locked(file: int, place: int) -> bool:
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0)
    return bool(struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_OFD_GETLK, asked))[0] != fcntl.F_UNLCK)
