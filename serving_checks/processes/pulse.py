"""Whether a process tree still works: it may be suspended, silent, or simply too late."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import NamedTuple

from configs.errors import Blame
from serving_checks.processes.guard import descendants_of

_LOOK_SECONDS = 1.0
"""A look reads the state of every process of the machine."""
_GAP_SECONDS = 10.0
"""Between two looks that should be a second apart: whoever looks was stopped himself, and likely all else too."""
_LEAST_SHARE = 0.05
"""Of one core: who computes less than this on the average only waits. Threads that poll take a percent or two."""
_TICKS = os.sysconf("SC_CLK_TCK")


class Patience(NamedTuple):
    """How long to wait for a process, in seconds; None for as long as it takes."""

    deadline_seconds: float | None = None
    """All in all."""
    silent_seconds: float | None = None
    """Without progress, output or computation."""
    suspended_seconds: float | None = None
    """While one of its processes is stopped (SIGSTOP), which a process never is by itself."""
    given_up: Event | None = None
    """Set when nobody waits any more."""


UNBOUNDED = Patience()
"""For commands that end by themselves."""


class Stuck(NamedTuple):
    """Why nothing more is to be expected of a process."""

    what: str
    remedy: str
    blame: Blame | None


class Vitals(NamedTuple):
    """What the kernel says of a process tree."""

    cpu_seconds: float
    """Used by the processes that live."""
    suspended: list[int]
    """Processes that are stopped (state T of proc(5), stat)."""


def vitals_of(root: int) -> Vitals:
    """Of `root` and its descendants; processes that are gone count for nothing."""
    cpu_ticks, suspended = 0, []
    for pid in (root, *descendants_of(root)):
        try:
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue
        cpu_ticks += int(fields[11]) + int(fields[12])
        if fields[0] == b"T":
            suspended.append(pid)
    return Vitals(cpu_ticks / _TICKS, suspended)


class Pulse:
    """Is asked again and again whether a process tree still works.

    Args:
        root: Its first process.
        patience: With it.
        sign: Anything that differs when it has got on: what it told, the size of its log.
        clock: In seconds.
        vitals: Looks at the tree.
    """

    def __init__(
        self,
        root: int,
        patience: Patience,
        sign: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        vitals: Callable[[int], Vitals] = vitals_of,
    ) -> None:
        self._root, self._patience, self._sign, self._clock, self._vitals = root, patience, sign, clock, vitals
        self._start = self._looked_at = clock()
        self._sign_at, self._last_sign = self._start, sign()
        self._cpu_seconds = self._computed = 0.0
        self._suspended_since: float | None = None
        self._suspended: list[int] = []
        self.suspended_seconds = 0.0
        """All in all, as far as it was seen."""

    @property
    def suspended_now(self) -> bool:
        """Whether one of its processes is stopped."""
        return self._suspended_since is not None

    def look(self) -> Stuck | None:
        """Look, unless that was just done; why to wait no longer, or None."""
        if self._patience.given_up is not None and self._patience.given_up.is_set():
            return Stuck("nobody waits for it any more", "nothing is to be done", None)
        now = self._clock()
        if now - self._looked_at < _LOOK_SECONDS:
            return None
        vitals, before = self._vitals(self._root), self._looked_at
        self._looked_at, self._suspended = now, vitals.suspended
        if vitals.suspended or now - before > _GAP_SECONDS:
            self.suspended_seconds += now - before
        if vitals.suspended:
            self._suspended_since = before if self._suspended_since is None else self._suspended_since
        else:
            self._suspended_since = None
        # Less than before means that a process ended, whose time is not told any more.
        self._computed += max(0.0, vitals.cpu_seconds - self._cpu_seconds)
        self._cpu_seconds = vitals.cpu_seconds
        return self._late(now) or self._held(now) or self._silent(now)

    def _late(self, now: float) -> Stuck | None:
        limit = self._patience.deadline_seconds
        if limit is None or now - self._start <= limit:
            return None
        held = f"; {self.suspended_seconds:.0f} s of that it was suspended" if self.suspended_seconds else ""
        return Stuck(
            f"no end after {_words(limit)}{held}",
            "see the log for what it was at; where it was only slow, raise its deadline under `deadlines`",
            None,
        )

    def _held(self, now: float) -> Stuck | None:
        limit = self._patience.suspended_seconds
        if limit is None or self._suspended_since is None or now - self._suspended_since <= limit:
            return None
        pids = ", ".join(map(str, self._suspended))
        return Stuck(
            f"suspended from outside for {_words(limit)}: process {pids} is stopped (state T)",
            "see who stops processes here (SIGSTOP, a debugger); then the same command goes on where this stopped",
            "machine",
        )

    def _silent(self, now: float) -> Stuck | None:
        limit, sign = self._patience.silent_seconds, self._sign()
        got_on = sign != self._last_sign
        if limit is None or got_on or now - self._sign_at <= limit:
            if got_on:
                self._sign_at, self._last_sign, self._computed = now, sign, 0.0
            return None
        computed = self._computed
        self._sign_at, self._computed = now, 0.0
        if computed >= _LEAST_SHARE * limit:
            return None
        return Stuck(
            f"no sign of life for {_words(limit)}: no progress, nothing in its log, {computed:.1f} s of computation",
            "see the log for what it waited for; where it was only slow, raise `silent_minutes` under `deadlines`",
            "engine",
        )


def _words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
