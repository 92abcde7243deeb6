"""Who measures speed or memory is alone on the machine for as long; other work goes on side by side.

Two files and flock(2), which the kernel drops at its holder's end, however that comes about. All who work hold `work`
together; who wants to be alone holds it against all. Whoever comes passes `door` first, and who waits to be alone keeps
that shut: work that began before ends, and none begins.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_POLL_SECONDS = 0.1


class MachineTurns:
    """The turns of one run's processes.

    Args:
        folder: Of the two files; it has to be there.
    """

    def __init__(self, folder: Path) -> None:
        self._door, self._work = folder / "door", folder / "work"

    @contextmanager
    def beside_others(self, on_wait: Callable[[], None]) -> Iterator[None]:
        """Work beside others for the length of the block, once nobody is alone or waits to be.

        Args:
            on_wait: Called ten times a second meanwhile; what it raises ends the waiting.
        """
        with _held(self._door, fcntl.LOCK_SH, on_wait) as door, _held(self._work, fcntl.LOCK_SH, on_wait):
            fcntl.flock(door, fcntl.LOCK_UN)
            yield

    @contextmanager
    def alone(self, on_wait: Callable[[], None]) -> Iterator[None]:
        """Be alone for the length of the block, once the work that goes on has ended; `on_wait` as above."""
        with _held(self._door, fcntl.LOCK_EX, on_wait), _held(self._work, fcntl.LOCK_EX, on_wait):
            yield

    def somebody_works(self) -> bool:
        """Whether somebody works beside others just now."""
        file = os.open(self._work, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(file)
        return False


@contextmanager
def _held(path: Path, kind: int, on_wait: Callable[[], None]) -> Iterator[int]:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                on_wait()
                time.sleep(_POLL_SECONDS)
        yield file
    finally:
        os.close(file)
