"""A thread that looks after a server while others use it, and ends what is left of one that has died.

A server may be gone and its socket not: a process that it forked holds it, and the kernel goes on taking connections
that nobody answers. Once the whole tree is ended, whoever waits for an answer is told so at once by the socket itself,
in whatever process he is. `Watch.over` then says what happened.
"""

import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

from serving_checks.processes.endings import Ending
from serving_checks.processes.pulse import Patience, Pulse, Stuck
from serving_checks.processes.supervisor import Supervised

_TICK_SECONDS = 0.2


class Watch:
    """For the length of a `with` block, in which nobody else waits for `child`.

    Args:
        child: Started.
        patience: With it; a tree that is suspended for longer is ended.
    """

    def __init__(self, child: Supervised, patience: Patience) -> None:
        self._child, self._pulse = child, Pulse(child.pid, patience)
        self._left, self._ended = threading.Event(), threading.Event()
        self._found: Ending | Stuck | None = None
        self._thread = threading.Thread(target=self._run, name="server-watch", daemon=True)

    @property
    def suspended_seconds(self) -> float:
        """How long one of its processes was stopped from outside so far."""
        return self._pulse.suspended_seconds

    def over(self, seconds: float) -> Ending | Stuck | None:
        """Why the child is no more; None where it still runs after `seconds`."""
        self._ended.wait(seconds)
        return self._found

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._left.is_set():
            exit_code = self._child.wait(_TICK_SECONDS)
            with suppress(OSError):  # of a look for which no file could be opened: the next one may see
                self._found = self._pulse.look() if exit_code is None else self._child.ending(exit_code)
            if self._found:
                self._child.stop()
                self._ended.set()
                return
