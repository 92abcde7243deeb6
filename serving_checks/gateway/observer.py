"""The gateway's side of the observer: a process beside it, fed without waiting, and started again when it ends."""

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from configs.errors import StageError
from registry.contracts.gateway_status import ObserverRead
from serving_checks.gateway.observed import Arms, Begin, Counts, End, Message, Observed, ObserverJob, frame_of, messages
from serving_checks.gateway.observed import seen as seen_of

_SUMMED = ("read", "mirrored", "failed", "dropped", "written", "unwritten")
_MOST_UNREAD = 4096
_LEAST_REST_SECONDS, _MOST_REST_SECONDS = 0.5, 30.0
"""Before an observer that ended is started again: twice as long each time."""
_STARTING_SECONDS, _ENDING_SECONDS = 60.0, 20.0
"""The latter for what still waits for the shadow."""


class Observer:
    """Takes what clients were answered, and counts what it has no room for; use as an async context manager.

    Args:
        argv: Starts the process; the number of its socket is added.
        job: What it is told first.
        log_file: Gets its output.
        tell: Is told when it ended and is started again.
    """

    def __init__(self, argv: Sequence[str], job: ObserverJob, log_file: Path, tell: Callable[[str], None]) -> None:
        self._argv, self._job, self._log_file, self._tell = argv, job, log_file, tell
        self._arms = Arms(None, None)
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None]
        self._ready, self._ending = asyncio.Event(), False
        self._unread: deque[int] = deque()
        """Sizes of what was sent and not taken over yet."""
        self._unread_bytes = 0
        self._before, self._now = Counts(), Counts()
        """Of the processes that have ended, and of the one that runs."""
        self._page = self._answers = ""
        self.unobserved = 0
        """Answered requests that found no room, or no process."""

    async def __aenter__(self) -> Self:
        """Raises StageError where it does not start."""
        self._task = asyncio.create_task(self._keep_running())
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ready.wait(), _STARTING_SECONDS)
        if not self._ready.is_set():
            await self._stopped()
            raise StageError(
                f"the observer, which records what is answered, did not start; {self._log_file} says why",
                remedy="mend what it says there, and start again",
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending = True
        self._send(End())
        await asyncio.wait([self._task], timeout=_ENDING_SECONDS)
        await self._stopped()

    async def _stopped(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    @property
    def counts(self) -> Counts:
        """What was done, by this process and by those before it."""
        before, now = self._before, self._now
        sums = {name: getattr(before, name) + getattr(now, name) for name in _SUMMED}
        return Counts(**sums, waiting=now.waiting, page=self._page)

    @property
    def read(self) -> ObserverRead:
        """What it read in the answers; nothing before the first ones."""
        return ObserverRead.model_validate_json(self._answers) if self._answers else ObserverRead()

    @property
    def is_up(self) -> bool:
        """Whether its process runs."""
        return self._writer is not None

    def ask(self, arms: Arms) -> None:
        """Who is asked from now on."""
        self._arms = arms
        self._send(arms)

    def offer(self, observed: Observed) -> None:
        """Hand over what was answered, or count it."""
        size = observed.size_bytes
        full = len(self._unread) >= _MOST_UNREAD or self._unread_bytes + size > self._job.mirror.queue_mib * 2**20
        if self._writer is None or full:
            self.unobserved += 1
            return
        try:
            self._send(seen_of(observed))
        except (ValueError, msgspec.MsgspecError):
            # A header of the server's that is no text: it costs nobody an answer.
            self.unobserved += 1
            return
        self._unread.append(size)
        self._unread_bytes += size

    def _send(self, message: Message) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(frame_of(message))

    async def _keep_running(self) -> None:
        rest = _LEAST_REST_SECONDS
        while not self._ending:
            read_before, why = self.counts.read, f"{self._log_file} says why"
            try:
                await self._run_once()
            except (OSError, ValueError, msgspec.MsgspecError) as error:
                # No more files, no room for its log, or it said what is no frame: clients go on.
                why = f"{type(error).__name__}: {error}"
            if self._ending:
                return
            rest = _LEAST_REST_SECONDS if self.counts.read > read_before else min(2 * rest, _MOST_REST_SECONDS)
            self._tell(f"the observer ended, and is started again in {rest:g} s; {why}")
            await asyncio.sleep(rest)

    async def _run_once(self) -> None:
        """One process, from its start to its end."""
        mine, others = socket.socketpair()
        with others, self._log_file.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *self._argv,
                str(others.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(others.fileno(),),
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        reader, self._writer = await asyncio.open_connection(sock=mine)
        try:
            self._send(Begin(self._job.model_dump_json()))
            self._send(self._arms)
            async for message in messages(reader):
                if isinstance(message, Counts):
                    self._take(message)
                    self._ready.set()
        finally:
            self._forget(self._writer)
            if process.returncode is None and not self._ending:
                with suppress(ProcessLookupError):
                    process.kill()
            await process.wait()

    def _take(self, now: Counts) -> None:
        for _ in range(now.read - self._now.read):
            self._unread_bytes -= self._unread.popleft()
        self._page, self._answers = now.page or self._page, now.answers or self._answers
        self._now = now

    def _forget(self, writer: asyncio.StreamWriter) -> None:
        """The process is gone, with what it had not taken over or not worked off."""
        writer.close()
        self._writer = None
        self.unobserved += len(self._unread)
        self._unread.clear()
        self._unread_bytes = 0
        counts = self.counts
        self._before = msgspec.structs.replace(
            counts, failed=counts.failed + counts.waiting, waiting=0, page="", answers=""
        )
        self._now = Counts()
