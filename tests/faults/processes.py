"""What runs on this machine on a run's behalf: found in /proc by the log that a process writes to."""

import ctypes
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

Role = Literal["run", "stage", "stage guard", "server", "server guard", "load", "load guard", "recorder", "fork server"]

_PR_SET_CHILD_SUBREAPER = 36


class Seen(NamedTuple):
    """A living process below the campaign."""

    pid: int
    parent: int
    command: str
    log: str
    """What its standard output is."""


def adopt_orphans() -> None:
    """What loses its parent becomes a child of this process, so that nothing escapes the look below."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def below(root: int) -> list[Seen]:
    """All living descendants, parents first."""
    children: dict[int, list[int]] = {}
    for pid, parent, state in _states():
        if state not in "ZX":
            children.setdefault(parent, []).append(pid)
    order, found = [(root, pid) for pid in children.get(root, [])], []
    for parent, pid in order:
        order.extend((pid, child) for child in children.get(pid, []))
        found.append(_seen(pid, parent))
    return found


def by_role(seen: list[Seen]) -> dict[Role, list[int]]:
    """Who is who. A guard is the first process that writes to a log, what it guards the second."""
    found: dict[Role, list[int]] = {}
    logs = {one.pid: one.log for one in seen}
    for one in seen:
        role = _role_of(one.log)
        if role is None:
            continue
        guard = logs.get(one.parent) != one.log
        if role in ("stage", "server", "load"):
            found.setdefault(f"{role} guard" if guard else role, []).append(one.pid)  # type: ignore[arg-type]
        elif not guard:
            found.setdefault(role, []).append(one.pid)
    return found


def send(pid: int, number: signal.Signals) -> bool:
    """Whether the process was still there to get the signal."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def gone(root: int, allowed: set[int], seconds: float) -> list[Seen]:
    """Wait until only `allowed` are left below `root`; those that are left all the same.

    Adopted zombies are reaped on the way: no other child of this process may be waited for meanwhile.
    """
    deadline = time.monotonic() + seconds
    while True:
        for pid, parent, state in _states():
            if state == "Z" and parent == os.getpid() and pid not in allowed:
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
        left = [one for one in below(root) if one.pid not in allowed]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.05)


def kill_all(left: list[Seen]) -> None:
    """End what a fault has left behind, so that the next one starts clean."""
    for one in left:
        with suppress(ProcessLookupError):
            os.kill(one.pid, signal.SIGCONT)
            os.kill(one.pid, signal.SIGKILL)


def _states() -> Iterator[tuple[int, int, str]]:
    """(process id, parent's, state) of every process (proc(5), stat)."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
                yield int(entry.name), int(fields[1]), fields[0].decode()


def _role_of(log: str) -> Role | None:
    name = Path(log).name
    if name == "record.log":
        return "recorder"
    if name == "load.log":
        return "load"
    if name.endswith("+server.log"):
        return "server"
    if name.startswith("fork-server"):
        return "fork server"
    return "stage" if name.endswith(".log") and "/runs/" in log else None


def _seen(pid: int, parent: int) -> Seen:
    command = log = ""
    with suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        log = str(Path(f"/proc/{pid}/fd/1").readlink())
    return Seen(pid, parent, command, log)
