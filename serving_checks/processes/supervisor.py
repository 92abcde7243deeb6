"""Child processes that leave nothing behind, however the parent ends."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from configs.errors import StageError
from serving_checks.processes import guard
from serving_checks.processes.endings import Ending, oom_kills
from serving_checks.processes.fork_server import ForkedCommand, launch
from serving_checks.processes.process_memory import PeakMemorySampler, began
from serving_checks.processes.pulse import UNBOUNDED, Patience, Pulse

_GUARD_FILE = str(Path(guard.__file__).resolve())
_TICK_SECONDS = 0.2
_LOG_PART_BYTES = 8 << 20
"""Of a log's beginning and end: a server that complains of every request may write gigabytes."""
_LINE_BYTES = 400
# The guard itself needs a moment after the grace to kill and reap.
_GUARD_SECONDS = 10.0


class Finished(NamedTuple):
    """How a supervised command ended."""

    ending: Ending
    launch_seconds: float
    """Until the command ran: next to nothing, or what a fork server's imports were still going to take."""
    duration_seconds: float
    """All in all."""


class Supervised:
    """One command under a guard (see `guard.py`): leaving the `with` block ends it with all its descendants.

    Args:
        argv: The command.
        env: Variables set on top of this process's own.
        log_file: Where stdout and stderr go together; its folder is made.
        cwd: Working directory; this process's own when None.
        grace_seconds: Between SIGTERM and SIGKILL when the command is stopped.
        fork_server: Address of a fork server to start the command from; it is executed where that does not answer.
        secrets: Further variables, which are shown nowhere.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        log_file: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        grace_seconds: float = 10.0,
        fork_server: Path | None = None,
        secrets: Mapping[str, str] | None = None,
    ) -> None:
        self.argv, self.env, self.log_file, self.cwd = list(argv), dict(env or {}), log_file, cwd
        self._grace_seconds = grace_seconds
        self._fork_server, self._secrets = fork_server, dict(secrets or {})
        self._process: subprocess.Popen[bytes] | ForkedCommand | None = None
        self._memory: PeakMemorySampler | None = None
        self._oom_kills = 0
        self.suspended_seconds = 0.0
        """How long one of its processes was stopped from outside while `attend` looked."""

    def start(self) -> Self:
        """Start the command and the sampling of its memory; whatever interrupts this leaves nothing running."""
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        self._oom_kills = oom_kills()
        try:
            with self.log_file.open("ab") as log:
                self._process = self._fork(log.fileno()) or subprocess.Popen(
                    [sys.executable, "-I", "-S", _GUARD_FILE, str(self._grace_seconds), *self.argv],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **self.env, **self._secrets},
                    cwd=self.cwd,
                    start_new_session=True,
                    bufsize=0,
                )
            # Its guard is known here now, so the command may begin.
            if self._process.stdin:
                with suppress(BrokenPipeError):  # the guard was killed; `wait` tells
                    self._process.stdin.write(guard.BEGIN)
            self._memory = PeakMemorySampler(self._process.pid, inherited=self.forked)
        except BaseException:
            self.stop()
            raise
        return self

    @property
    def forked(self) -> bool:
        """Whether a fork server started the command, its imports done."""
        return isinstance(self._process, ForkedCommand)

    @property
    def pid(self) -> int:
        """The guard's process id; the command and what it started are its descendants."""
        return self._running.pid

    @property
    def peak_memory_bytes(self) -> int | None:
        """Highest PSS of the whole tree so far; None when it was too short to be sampled."""
        return self._memory.peak_bytes if self._memory else None

    @property
    def command_line(self) -> str:
        """A shell command that runs the same by hand."""
        place = f"cd {shlex.quote(str(self.cwd))} && " if self.cwd else ""
        variables = [f"{name}={value}" for name, value in self.env.items()]
        return place + shlex.join([*(["env", *variables] if variables else []), *self.argv])

    def poll(self) -> int | None:
        """The exit code (128 + signal for a killed command), None while it runs."""
        return self._running.poll()

    def wait(self, deadline_seconds: float | None = None) -> int | None:
        """Wait for the end: the exit code, or None when the deadline comes first."""
        try:
            return self._running.wait(deadline_seconds)
        except subprocess.TimeoutExpired:
            return None

    def attend(
        self,
        patience: Patience,
        progress_file: Path | None = None,
        on_tick: Callable[[bool], None] | None = None,
    ) -> int:
        """Wait for the end, as long as there is hope for it; the exit code. See `run` for the arguments.

        Raises:
            StageError: The patience ended first; the command still has to be stopped.
        """
        files = [self.log_file, *([progress_file] if progress_file else [])]
        pulse = Pulse(self.pid, patience, lambda: [_changed(file) for file in files])
        while (exit_code := self.wait(_TICK_SECONDS)) is None:
            stuck, self.suspended_seconds = pulse.look(), pulse.suspended_seconds
            if stuck:
                what = f"{stuck.what}: {self.command_line}\n{quoted(self.log_tail())}"
                raise StageError(what, remedy=f"{stuck.remedy} ({self.log_file})", blame=stuck.blame)
            if on_tick:
                on_tick(pulse.suspended_now)
        return exit_code

    def ending(self, exit_code: int) -> Ending:
        """What is known of how it ended.

        Args:
            exit_code: As `poll` or `wait` told it.
        """
        killed = oom_kills() - self._oom_kills
        return Ending(exit_code, self.log_tail(), self.log_file.parent, self.peak_memory_bytes, killed)

    def stop(self) -> None:
        """End the command and everything it started; harmless when it has ended."""
        if self._process is None:
            return
        if self._process.stdin and not self._process.stdin.closed:
            self._process.stdin.close()
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGCONT)  # a guard that somebody stopped has to wake up for it
        try:
            exit_code = self.wait(self._grace_seconds + _GUARD_SECONDS)
            if exit_code is None or exit_code < 0:
                self._kill_session()
        finally:
            if self._memory:
                self._memory.stop()

    @property
    def log(self) -> str:
        """What it has printed so far; of a very long log its beginning and its end."""
        if not self.log_file.exists():
            return ""
        with self.log_file.open("rb") as log:
            begin = log.read(_LOG_PART_BYTES)
            left = os.fstat(log.fileno()).st_size - len(begin)
            log.seek(max(0, left - _LOG_PART_BYTES), os.SEEK_CUR)
            end = log.read(_LOG_PART_BYTES)
        cut = b"\n...\n" if left > _LOG_PART_BYTES else b""
        return (begin + cut + end).decode(errors="replace")

    def log_tail(self, lines: int = 20) -> str:
        """The log's last lines; empty where there is none."""
        return tail_of(self.log_file, lines)

    def __enter__(self) -> Self:
        return self.start() if self._process is None else self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _running(self) -> subprocess.Popen[bytes] | ForkedCommand:
        if self._process is None:
            raise RuntimeError("not started")
        return self._process

    def _fork(self, log: int) -> ForkedCommand | None:
        if self._fork_server is None:
            return None
        env = {**self.env, **self._secrets}
        return launch(self._fork_server, self.argv, env, self.cwd or Path.cwd(), log, self._grace_seconds)

    def _kill_session(self) -> None:
        """For a guard that hangs or was killed: its process group, and all that was last seen below it."""
        seen = {pid for pid, when in (self._memory.seen if self._memory else []) if began(pid) == when}
        left = seen | {below for pid in (*seen, self.pid) for below in guard.descendants_of(pid)}
        shared_memory = guard.shared_memory_of([*left])
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._running.wait()
        deadline = time.monotonic() + _GUARD_SECONDS
        while guard.alive(left) and time.monotonic() < deadline:
            time.sleep(0.02)
        guard.remove_shared_memory(shared_memory)


def run(
    argv: Sequence[str],
    *,
    log_file: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    patience: Patience = UNBOUNDED,
    progress_file: Path | None = None,
    on_tick: Callable[[bool], None] | None = None,
    fork_server: Path | None = None,
) -> Finished:
    """Run a command to its end.

    Args:
        argv: The command; see `Supervised` for `log_file`, `env`, `cwd` and `fork_server`.
        patience: When to give up.
        progress_file: Whose change is a sign of life, as the log's is.
        on_tick: Called a few times a second while the command runs, with whether it is suspended (to show progress).

    Raises:
        StageError: The patience ended first; the command and all it started were ended.
    """
    start = time.monotonic()
    with Supervised(argv, log_file=log_file, env=env, cwd=cwd, fork_server=fork_server) as child:
        launch_seconds = time.monotonic() - start
        exit_code = child.attend(patience, progress_file, on_tick)
        return Finished(child.ending(exit_code), launch_seconds, time.monotonic() - start)


def _changed(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def tail_of(log_file: Path, lines: int) -> str:
    """The last lines of a log, however long it is; empty where there is none."""
    if not log_file.exists():
        return ""
    with log_file.open("rb") as log:
        log.seek(max(0, os.fstat(log.fileno()).st_size - _LINE_BYTES * lines))
        return "\n".join(log.read(_LOG_PART_BYTES).decode(errors="replace").splitlines()[-lines:])


def quoted(log_tail: str) -> str:
    """The end of a log in a message: evidence, set in so that it is not taken for our own words."""
    return "\n".join("    " + line for line in log_tail.splitlines()) or "    (nothing)"
