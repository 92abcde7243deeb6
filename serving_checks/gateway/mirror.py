"""The shadow's copy of the traffic: asked once the client has its answer, dropped where there is no room."""

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from serving_checks.gateway.config import MirrorConfig
from serving_checks.gateway.observed import Observed
from serving_checks.gateway.split import drawn

_log = logging.getLogger(__name__)


class Mirror:
    """A bounded queue and who works it off; use as an async context manager.

    Args:
        config: Its bounds.
        ask_other: Asks the other side and keeps the pair, within a time of its own; what goes wrong is counted here and
            never seen by a client.
    """

    def __init__(self, config: MirrorConfig, ask_other: Callable[[Observed], Awaitable[None]]) -> None:
        self._config, self._ask_other = config, ask_other
        self._waiting: asyncio.Queue[Observed] = asyncio.Queue(config.queue)
        self._bytes = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._told: set[str] = set()
        self.dropped = self.failed = self.done = 0

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self._config.concurrency)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._waiting.qsize()

    def takes(self, request_id: str) -> bool:
        """Whether a request is one of the share: the same id, the same answer, on every gateway."""
        return drawn(request_id) < self._config.share

    def offer(self, observed: Observed) -> None:
        """Put a request of the share into the queue, or count it as dropped."""
        if not self.takes(observed.asked.id):
            return
        if self._bytes + observed.size_bytes > self._config.queue_mib * 2**20:
            self.dropped += 1
            return
        try:
            self._waiting.put_nowait(observed)
        except asyncio.QueueFull:
            self.dropped += 1
            return
        self._bytes += observed.size_bytes

    async def settled(self) -> None:
        """Wait until all that was offered has been asked."""
        await self._waiting.join()

    async def _work(self) -> None:
        while True:
            observed = await self._waiting.get()
            try:
                await self._ask_other(observed)
                self.done += 1
            except Exception as error:
                self.failed += 1
                self._tell_once(error)
            finally:
                self._bytes -= observed.size_bytes
                self._waiting.task_done()

    def _tell_once(self, error: Exception) -> None:
        """Where it was raised, for the first of its kind: its words may hold some of a prompt."""
        raised = traceback.extract_tb(error.__traceback__)[-1]
        fault = f"{type(error).__name__} at {Path(raised.filename).name}:{raised.lineno}"
        if fault not in self._told:
            self._told.add(fault)
            _log.warning("a copy was not compared: %s; more of these are counted and not told", fault)
