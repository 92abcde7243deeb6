"""A disk that is full from the n-th write on: Python's audit events tell of every file that is opened for writing."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class FullDisk:
    """Counts what is made or opened for writing below `root`, and refuses it from the n-th on.

    Args:
        root: The disk.
        room: Writes that there is room for; None for as many as are wanted.
        for_ever: Also refuses what comes after; else there is room again for the next.
    """

    def __init__(self, root: Path, room: int | None, *, for_ever: bool = True) -> None:
        self._root, self._room, self._for_ever = str(root), room, for_ever
        self.writes = 0

    def look(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._writes(event, arguments) or not str(arguments[0]).startswith(self._root):
            return
        self.writes += 1
        if self._room is not None and (self.writes > self._room if self._for_ever else self.writes == self._room + 1):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))

    @staticmethod
    def _writes(event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "os.mkdir":
            return True
        return event == "open" and bool((arguments[2] or 0) & _WRITING)


_disks: list[FullDisk] = []
_hooked: list[bool] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _disks and event in ("open", "os.mkdir"):
        _disks[0].look(event, arguments)


@contextmanager
def full_disk(root: Path, room: int | None = None, *, for_ever: bool = True) -> Iterator[FullDisk]:
    """Such a disk for the length of the block. The hook itself cannot be taken out again; it is idle outside."""
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked.append(True)
    _disks.append(FullDisk(root, room, for_ever=for_ever))
    try:
        yield _disks[0]
    finally:
        _disks.clear()
