"""Why a process ended that should not have: by signal, exit code, log, memory and the kernel's own counters."""

import re
import signal
from pathlib import Path
from typing import NamedTuple

from configs.errors import Blame
from registry.os_faults import is_full, refusal_in, told

_CGROUPS = Path("/sys/fs/cgroup")
_NEARLY = 0.9
"""Of the memory that there is: who held so much and got SIGKILL was most likely killed for it."""
_EXCEPTION = re.compile(
    r"^(?:\(.*?\) )?(?:\w+\.)*(?P<error>\w*(?:Error|Exception|Interrupt)): (?P<text>.+)$", re.MULTILINE
)
_INSTRUCTIONS = "this CPU does not know an instruction that the engine's program uses"
_COULD_NOT_START = 127


class Death(NamedTuple):
    """Why a process ended, as far as there is evidence."""

    reason: str
    remedy: str
    blame: Blame | None = None


class Ending(NamedTuple):
    """How a process ended, and what was seen of it."""

    exit_code: int
    """As a guard tells it: 128 + the signal of a command that was killed; below zero where the guard was."""
    log_tail: str
    place: Path
    """Where it wrote."""
    peak_memory_bytes: int | None = None
    """Of its whole tree."""
    oom_kills: int = 0
    """Processes that the kernel ended for want of memory meanwhile, here or in this container."""

    @property
    def signal(self) -> int:
        """What ended it; 0 where it ended by itself."""
        code = self.exit_code
        return -code if code < 0 else code - 128 if 128 < code < 128 + signal.NSIG else 0

    @property
    def how(self) -> str:
        """In words."""
        if not self.signal:
            return f"ended by itself with exit code {self.exit_code}"
        whose = "the guard of its process" if self.exit_code < 0 else "it"
        return f"ended: {whose} was killed by signal {self.signal} ({signal.Signals(self.signal).name})"


def death_of(ending: Ending) -> Death:
    """The likeliest reason why a process ended without doing what it was for, and what to change.

    Nothing that would go the same way again is told to be tried again.
    """
    refusal = refusal_in(ending.log_tail)
    if refusal is None and is_full(ending.place):
        refusal = refusal_in("[Errno 28]")
    # Abort is how C++ ends a program that finds no memory.
    if refusal and ending.signal in (0, signal.SIGABRT):
        error = told(refusal, "its log's end tells of it", ending.place)
        return Death(error.what, error.remedy, error.blame)
    if ending.signal == signal.SIGKILL:
        return _killed(ending)
    if ending.signal in _BY_SIGNAL:
        return _BY_SIGNAL[ending.signal]
    if ending.signal:
        return Death(f"signal {ending.signal} came from outside or from the engine", "read the log for which", None)
    if ending.exit_code == _COULD_NOT_START:
        return Death("its program could not be started", "mend what the log says: it would not start again", "machine")
    words = [*_EXCEPTION.finditer(ending.log_tail)]
    said = f": {words[-1]['error']}: {words[-1]['text'].strip()}" if words else ", and its log names no error"
    return Death(
        f"a library ended the process in the middle of its work{said}",
        "it would end the same way again: change what it was asked to do (method, parameters, dtype, device), or its"
        " version",
        "engine",
    )


_BY_SIGNAL: dict[int, Death] = {
    signal.SIGILL: Death(
        _INSTRUCTIONS,
        "run it on another CPU, or take a method or an engine whose programs do without (see `quantbench doctor`)",
        "machine",
    ),
    signal.SIGSEGV: Death(
        "the engine read memory that is not its own (a fault of its compiled code)",
        "it is likely to do so again: change method, dtype or threads, or the engine's version",
        "engine",
    ),
    signal.SIGABRT: Death(
        "the engine gave up in its compiled code (abort)",
        "it would do so again: the log's last lines say why; change method, dtype or the engine's version",
        "engine",
    ),
    signal.SIGFPE: Death(
        "the engine divided by zero in its compiled code",
        "it would do so again: change method or parameters, or the engine's version",
        "engine",
    ),
    signal.SIGBUS: Death(
        "a file that it had mapped could not be read or grow: a full disk, a full /dev/shm, or a file that was cut",
        "free space on the disk and in /dev/shm (`df -h`), and run `quantbench artifacts verify`",
        "machine",
    ),
    signal.SIGXFSZ: Death("a file grew beyond this shell's limit", "raise it: `ulimit -f unlimited`", "machine"),
    signal.SIGXCPU: Death("it used up this shell's CPU time", "raise the limit: `ulimit -t unlimited`", "machine"),
}
_BY_SIGNAL |= {
    number: Death("someone ended it", "see who did; then the same command goes on where this stopped", "machine")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
}


def _killed(ending: Ending) -> Death:
    """SIGKILL names no sender: the kernel's counters and the memory that was held tell whether it was the kernel."""
    limit, peak = memory_limit_bytes(), ending.peak_memory_bytes
    held = f"; it held {peak / 2**30:.1f} of {limit / 2**30:.1f} GiB at most" if peak and limit else ""
    less = "use less memory (fewer calibration rows, a smaller KV cache or batch, another method) or a larger machine"
    if ending.oom_kills:
        return Death(f"the kernel ended it for want of memory (it counts {ending.oom_kills}){held}", less, "machine")
    if peak and limit and peak > _NEARLY * limit:
        return Death(f"the kernel ended it, most likely for want of memory{held}", less, "machine")
    return Death(
        f"someone sent SIGKILL, and the kernel counts no lack of memory{held}",
        "see who ends processes here (a scheduler, another user); then the same command goes on where this stopped",
        "machine",
    )


def oom_kills() -> int:
    """How many processes the kernel has ended for want of memory so far, in this container or on this machine."""
    files = [*_own_cgroup("memory.events"), *_own_cgroup("memory.oom_control")]
    return max(_counter(file, "oom_kill") for file in files or [Path("/proc/vmstat")])


def memory_limit_bytes() -> int | None:
    """What this container, or else the machine, has."""
    limits = [_number(file) for name in ("memory.max", "memory.limit_in_bytes") for file in _own_cgroup(name)]
    limits.append(1024 * _counter(Path("/proc/meminfo"), "MemTotal:"))
    return min((limit for limit in limits if limit), default=None)


def _own_cgroup(name: str) -> list[Path]:
    """Where this process's control group keeps `name` (cgroups(7)), as seen from the host and from a container."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            root = _CGROUPS / controllers
            found += [file for file in (root / path.lstrip("/") / name, root / name) if file.is_file()][:1]
    return found


def _counter(file: Path, name: str) -> int:
    try:
        lines = (line.split() for line in file.read_text().splitlines())
        return next((int(fields[1]) for fields in lines if len(fields) > 1 and fields[0] == name), 0)
    except (OSError, ValueError):
        return 0


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None  # "max"
