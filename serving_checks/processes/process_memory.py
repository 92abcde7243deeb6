"""How much memory a process tree takes, sampled from outside and cheaply.

PSS (proportional set size, proc(5) smaps_rollup) counts a page shared by n processes as 1/n in each, so the sum over
a tree is true; a sum of RSS counts shared libraries and shared weights once per process.
"""

import threading
from contextlib import suppress
from pathlib import Path

from serving_checks.processes.guard import descendants_of

_KIB = 1024


def pss_bytes(pid: int, *, inherited: bool = False) -> int:
    """PSS of one process; its RSS where the kernel does not let us read PSS; 0 when it is gone.

    Args:
        inherited: The process was forked from one that is not counted. Anonymous pages that they still share are
            counted whole, as they would be had it been started by itself.
    """
    with suppress(OSError, KeyError):
        kib = _fields(f"/proc/{pid}/smaps_rollup")
        return (kib["Pss"] - kib["Pss_Anon"] + kib["Anonymous"] if inherited else kib["Pss"]) * _KIB
    with suppress(OSError, KeyError):
        return _fields(f"/proc/{pid}/status")["VmRSS"] * _KIB
    return 0


def _fields(file: str) -> dict[str, int]:
    """The lines `Name:   number kB` of a file in /proc, in KiB."""
    lines = (line.split() for line in Path(file).read_text().splitlines() if line.endswith(" kB"))
    return {name.rstrip(":"): int(number) for name, number, _ in lines}


def began(pid: int) -> int:
    """When a process began, in ticks since the machine's start; with its id it names one process for good."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    return 0


def rss_pages(pid: int) -> int:
    """Resident pages of one process, shared ones included; a hundred times cheaper to read than PSS."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return 0


class PeakMemorySampler:
    """A thread that keeps the highest PSS that the descendants of a process had together.

    PSS makes the kernel walk a process's page tables under its memory lock, which the process feels. So it is read
    only when the resident pages, which cost next to nothing, have grown past those of the last reading.

    Args:
        root: The process whose descendants are counted (itself left out).
        inherited: See `pss_bytes`.
        interval_seconds: Between two samples.
    """

    growth = 1.01

    def __init__(self, root: int, *, inherited: bool = False, interval_seconds: float = 0.5) -> None:
        self._root, self._inherited, self._interval_seconds = root, inherited, interval_seconds
        self._highest_pages = 0
        self.seen: list[tuple[int, int]] = []
        """The processes of the last sample: id, and when it began."""
        self._peak_bytes = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory-sampler", daemon=True)
        self._thread.start()

    @property
    def peak_bytes(self) -> int | None:
        """Peak so far; None before the first sample."""
        return self._peak_bytes or None

    def stop(self) -> None:
        """End the thread; the peak stays readable."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._interval_seconds):
            self.sample()

    def sample(self) -> None:
        """Look once."""
        pids = descendants_of(self._root)
        self.seen = [(pid, began(pid)) for pid in pids] or self.seen
        pages = sum(map(rss_pages, pids))
        if pages > self._highest_pages * self.growth:
            self._highest_pages = pages
            self._peak_bytes = max(self._peak_bytes, sum(pss_bytes(pid, inherited=self._inherited) for pid in pids))
