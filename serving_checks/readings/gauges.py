"""What a server says about itself while it works: requests at work and requests that wait, sampled over time."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from serving_checks.engines.base import MetricNames
from serving_checks.transport.metrics import parse_metrics, total

if TYPE_CHECKING:
    from serving_checks.transport.streaming import StreamingClient


class GaugeNames(NamedTuple):
    """Under which names an engine's /metrics tells them."""

    running: str
    waiting: str

    @classmethod
    def of(cls, names: MetricNames) -> GaugeNames | None:
        """The engine's; None where it lacks one of them."""
        if names.requests_running is None or names.requests_waiting is None:
            return None
        return cls(names.requests_running, names.requests_waiting)


class GaugeSample(NamedTuple):
    """Both gauges at one moment."""

    running: int
    waiting: int


class GaugeSampler:
    """Reads both gauges again and again for the length of an `async with` block.

    Args:
        client: Of the server.
        names: Of the gauges; None for an engine without.
        seconds: Between two looks. A look reads the whole page, which is work for the server too.
    """

    def __init__(self, client: StreamingClient, names: GaugeNames | None, seconds: float) -> None:
        self._client, self._names, self._seconds = client, names, seconds
        self._task: asyncio.Task[None] | None = None
        self.samples: list[GaugeSample] = []
        """None where the server has no such gauges."""

    @property
    def together(self) -> GaugeSample | None:
        """The sample with most requests at work among those where others waited; None where nobody ever waited."""
        return max((sample for sample in self.samples if sample.waiting), default=None)

    async def __aenter__(self) -> Self:
        if self._names is not None:
            self._task = asyncio.create_task(self._sample(self._names))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _sample(self, names: GaugeNames) -> None:
        while True:
            page = await self._client.get_text("/metrics") or ""
            # The page has hundreds of lines of histograms; two of them are wanted.
            samples = parse_metrics("\n".join(line for line in page.splitlines() if line.startswith(names)))
            running, waiting = (total(samples, name) for name in names)
            if running is not None and waiting is not None:
                self.samples.append(GaugeSample(round(running), round(waiting)))
            await asyncio.sleep(self._seconds)
