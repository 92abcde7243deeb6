"""Runs one command and never lets anything that came of it outlive the process that asked for it.

A stand-alone script of the standard library, started as `python -I guard.py <grace_seconds> <command...>` in a session
of its own; `fork_server.py` uses its parts around a fork without an exec. Its stdin is the lifeline: a pipe whose other
end the caller holds. One byte in it says that the caller has the guard in hand, and only then the command begins: a
caller that is interrupted while it starts one has started nothing. The end of the caller, however it comes about (kill
-9 included), closes the pipe; so does the caller's wish to stop.

How orphans are avoided (prctl(2)): the guard is a child subreaper, so a descendant whose parent dies, or that left the
session by setsid, becomes the guard's child and is found by walking parents in /proc. Should the guard itself be
killed, the command gets SIGKILL through its parent-death signal. Files of shared memory, which nobody unlinks when
their owner is killed, are unlinked once no process maps them any more.

The run's folder for scratch is removed too, once its owner is gone (`scratch.py`): the last guard leaves nothing of it.

Ends with the command's exit code, or 128 + the signal that ended it.
"""

import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Iterable

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LIFELINE = 0
SHARED_MEMORY = "/dev/shm/"  # noqa: S108 - where Linux keeps it (shm_overview(7))
NOT_STARTED = 127
"""Exit code where the command never began."""
BEGIN = b"\n"
SCRATCH_VARIABLE = "QUANTBENCH_SCRATCH"
"""Names the run's folder for what its processes let lie."""
_LEFT_SECONDS = 1.0
"""For what a command leaves behind when it ends by itself. A listening socket may be among it, and whoever connects
there waits for an answer that nobody gives."""


def descendants_of(root: int) -> list[int]:
    """Process ids of all living descendants of `root`, parents before their children."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue  # it ended while we were looking
        if fields[0] not in (b"Z", b"X"):
            children.setdefault(int(fields[1]), []).append(int(name))
    found = children.get(root, [])[:]
    for pid in found:
        found.extend(children.get(pid, []))
    return found


def alive(pids: Iterable[int]) -> list[int]:
    """Those that still run; a process that waits to be reaped (state Z) does not."""
    found = []
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
                state = file.read().rpartition(b")")[2].split()[0]
        except OSError:
            continue
        if state not in (b"Z", b"X"):
            found.append(pid)
    return found


def shared_memory_of(pids: list[int]) -> set[str]:
    """Files in /dev/shm that these processes map (proc(5), maps); those of processes that are gone are left out."""
    found: set[str] = set()
    for pid in pids:
        try:
            with open(f"/proc/{pid}/maps") as file:  # noqa: PTH123
                found.update(line[line.index(SHARED_MEMORY) :].rstrip("\n") for line in file if SHARED_MEMORY in line)
        except OSError:
            continue
    return found


def remove_shared_memory(files: set[str]) -> None:
    """Unlink those of `files` that are there and that no process maps."""
    left = {file for file in files if os.path.exists(file)}  # noqa: PTH110
    if left:
        left -= shared_memory_of([int(name) for name in os.listdir("/proc") if name.isdigit()])  # noqa: PTH208
    for file in left:
        try:
            os.unlink(file)  # noqa: PTH108
        except OSError:
            continue


def begun() -> bool:
    """Wait for the caller's word to begin; False where it never comes."""
    return os.read(_LIFELINE, 1) != b""


def fork_command() -> int:
    """Fork the process that is to be guarded, and become the reaper of all that comes of it.

    Returns:
        The child's process id in the guard; 0 in the child, whose stdin is empty and which dies with the guard.
    """
    guard, prctl = os.getpid(), ctypes.CDLL(None, use_errno=True).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = os.fork()
    if child:
        return child
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != guard:  # it died before the line above
        os._exit(NOT_STARTED)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, _LIFELINE)
    os.close(nothing)
    return 0


class _Children:
    """Reaps whatever ends below the guard and remembers how the command ended."""

    def __init__(self, command_pid: int) -> None:
        self._command_pid = command_pid
        self.command_status: int | None = None

    def reap(self) -> bool:
        """Collect everything that ended; False when no child is left."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return True
                if pid == self._command_pid:
                    self.command_status = status
        except ChildProcessError:
            return False


def _end_all(children: _Children, grace_seconds: float) -> None:
    """SIGTERM to all descendants, SIGKILL to those left after the grace, until none is left."""
    shared_memory = shared_memory_of(descendants_of(os.getpid()))
    for number, seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, float("inf"))):
        deadline, told = time.monotonic() + seconds, set[int]()
        while children.reap() and time.monotonic() < deadline:
            # Looked for again each time: a process may have forked between the look and the signal.
            for pid in descendants_of(os.getpid()):
                if pid not in told:
                    told.add(pid)
                    try:
                        os.kill(pid, number)
                        os.kill(pid, signal.SIGCONT)  # who is stopped hears no SIGTERM
                    except ProcessLookupError:
                        continue
            time.sleep(0.02)
    remove_shared_memory(shared_memory)


def _remove_abandoned_scratch() -> None:
    folder = os.environ.get(SCRATCH_VARIABLE)
    if folder:
        sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))  # noqa: PTH100, PTH120
        from pathlib import Path

        from registry.owned_folders import remove_if_abandoned

        remove_if_abandoned(Path(folder))


def supervise(command_pid: int, grace_seconds: float) -> int:
    """Wait until the command ends or the lifeline does, end all that is left; return the exit code to end with."""
    waker, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    stop_signals = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    for number in (*stop_signals, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    # What ended before its signal could wake us is found by the first `reap`.
    children = _Children(command_pid)
    stopped = False
    while children.reap() and children.command_status is None:
        ready, _, _ = select.select([_LIFELINE, waker], [], [])
        if _LIFELINE in ready or stop_signals.intersection(os.read(waker, 4096)):
            stopped = True
            break
    _end_all(children, grace_seconds if children.command_status is None else min(grace_seconds, _LEFT_SECONDS))
    if stopped:
        _remove_abandoned_scratch()
    status = children.command_status
    if status is None:
        return NOT_STARTED
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def main(grace_seconds: float, command: list[str]) -> int:
    """Run `command` under guard; return its exit code."""
    if not begun():
        return NOT_STARTED
    command_pid = fork_command()
    if command_pid:
        return supervise(command_pid, grace_seconds)
    try:
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)  # Python ignores both; a program expects the system's default
        os.execvp(command[0], command)  # noqa: S606 - running the caller's command is the purpose
    except OSError as error:
        os.write(2, f"cannot start {command[0]}: {error}\n".encode())
    finally:
        os._exit(NOT_STARTED)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
