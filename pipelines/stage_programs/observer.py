"""The observer: reads what clients were answered, asks the other side, and writes pairs. Started by a gateway as

    python -m pipelines.stage_programs.observer FD

with a socket that `serving_checks.gateway.observed` says the messages of. It ends with the gateway, however that ends.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from datetime import timedelta

import msgspec
import uvloop

from pipelines.stage_programs.live_pairs import LivePairs
from registry.contracts import Endpoint
from registry.pair_database import PairDatabase
from serving_checks.gateway.answer_reader import AnswerReader
from serving_checks.gateway.config import PatienceConfig
from serving_checks.gateway.event_log import REQUESTS_FILE, EventLog
from serving_checks.gateway.mirror import Mirror
from serving_checks.gateway.observed import (
    Arms,
    Begin,
    Counts,
    End,
    Observed,
    ObserverJob,
    Seen,
    Served,
    frame_of,
    messages,
)
from serving_checks.gateway.tally import Tally
from serving_checks.gateway.upstream import Upstream

_TOLD_EVERY_SECONDS = 0.02
_PAGE_EVERY_SECONDS = 1.0
"""It takes milliseconds to write."""
_NICENESS = 10
"""Clients go first where both want a core."""


class _Arms:
    """Connections to the servers that are asked; use as an async context manager."""

    def __init__(self, pairs: LivePairs, patience: PatienceConfig) -> None:
        self._pairs, self._patience = pairs, patience
        self._open: dict[Served, tuple[Upstream, AsyncExitStack]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def take(self, arms: Arms) -> None:
        """Ask these from now on; those that are left end what they were asked."""
        self._pairs.champion = await self._upstream(arms.champion)
        self._pairs.candidate = await self._upstream(arms.candidate)
        self._pairs.trial = arms.trial
        for served in [one for one in self._open if one not in (arms.champion, arms.candidate)]:
            task = asyncio.create_task(self._close(*self._open.pop(served)))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _upstream(self, served: Served | None) -> Upstream | None:
        if served is None:
            return None
        if served not in self._open:
            stack = AsyncExitStack()
            endpoint = Endpoint.model_validate_json(served.endpoint)
            upstream = await stack.enter_async_context(Upstream(served.version, endpoint, self._patience))
            self._open[served] = upstream, stack
        return self._open[served][0]

    async def _close(self, upstream: Upstream, stack: AsyncExitStack) -> None:
        await upstream.drained()
        await stack.aclose()

    async def close(self) -> None:
        """Hang up."""
        for _, stack in self._open.values():
            await stack.aclose()


class _Work:
    """What is done with each answer, and how far it came."""

    def __init__(self, tally: Tally, answers: AnswerReader, pairs: LivePairs, mirror: Mirror) -> None:
        self._tally, self._answers, self._pairs, self._mirror = tally, answers, pairs, mirror
        self._read = 0

    async def take(self, observed: Observed) -> None:
        """Read an answer, and put it into the mirror's queue where it makes a pair."""
        self._read += 1
        if observed.is_attempt:
            await self._answers.attempt_answered(observed)
            return
        if observed.answered.status == 200:
            observed = await self._answers.client_answered(observed)
        if self._pairs.wants(observed):
            self._mirror.offer(observed)

    def counts(self, database: PairDatabase) -> Counts:
        """What was done so far."""
        return Counts(
            read=self._read,
            mirrored=self._mirror.done,
            failed=self._mirror.failed,
            dropped=self._mirror.dropped,
            waiting=self._mirror.waiting,
            written=database.written,
            unwritten=database.dropped,
        )

    def all_of_it(self, database: PairDatabase) -> Counts:
        """The same with what was read in the answers."""
        answers = self._tally.read().model_dump_json()
        return msgspec.structs.replace(self.counts(database), page=self._tally.page(), answers=answers)


async def observe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Work until the gateway says that it ends, or is gone.

    Raises:
        ValueError: The other side is no gateway of this version.
    """
    told = messages(reader)
    begin = await anext(told)
    if not isinstance(begin, Begin):
        raise ValueError(f"a {type(begin).__name__} before Begin")
    job = ObserverJob.model_validate_json(begin.job)
    tally = Tally(job.model, job.price)
    with (
        EventLog(job.database.with_name(REQUESTS_FILE), job.log) as log,
        PairDatabase(job.database, timedelta(days=job.keep_days)) as database,
    ):
        answers = AnswerReader(tally, log if job.log.requests else None)
        pairs = LivePairs(database.offer, answers, job.mirror, keep_prompts=job.keep_prompts)
        arms = _Arms(pairs, job.patience)
        async with Mirror(job.mirror, pairs.ask_other) as mirror:
            work = _Work(tally, answers, pairs, mirror)
            tellers = [
                asyncio.create_task(_tell(writer, lambda: work.counts(database), _TOLD_EVERY_SECONDS)),
                asyncio.create_task(_tell(writer, lambda: work.all_of_it(database), _PAGE_EVERY_SECONDS)),
            ]
            try:
                async for message in told:
                    if isinstance(message, Seen):
                        await work.take(message.observed)
                    elif isinstance(message, Arms):
                        await arms.take(message)
                    elif isinstance(message, End):
                        await mirror.settled()
                        break
            finally:
                for teller in tellers:
                    teller.cancel()
                await arms.close()
    with suppress(ConnectionError):
        if not writer.is_closing():
            writer.write(frame_of(work.counts(database)))
        writer.close()
        await writer.wait_closed()


async def _tell(writer: asyncio.StreamWriter, counts: Callable[[], Counts], every_seconds: float) -> None:
    """Tell the gateway what is not as it was told before."""
    before = None
    while True:
        if (now := counts()) != before and not writer.is_closing():
            writer.write(frame_of(now))
            before = now
        await asyncio.sleep(every_seconds)


async def _main(fd: int) -> None:
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=fd))
    await observe(reader, writer)


if __name__ == "__main__":
    # Ctrl-C reaches the whole group, and systemd tells all of a service's: the gateway says when it is time.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.nice(_NICENESS)
    uvloop.run(_main(int(sys.argv[1])))
