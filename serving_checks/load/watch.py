"""The server's own view of a load test: counters before and after, and gauges while it goes on."""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import urlencode

from registry.contracts.serving import Endpoint
from serving_checks.engines.base import MetricNames
from serving_checks.transport.http_json import get_text
from serving_checks.transport.metrics import parse_metrics, total

_SAMPLE_SECONDS = 0.2
_SAMPLING_SHARE = 0.01
"""Most of the time that is spent on reading gauges: a busy CPU server takes 15 ms and more for one answer."""
_SETTLE_SECONDS = 2.0
"""How long a server's counters may lag behind the last token that it sent."""
_POLL_SECONDS = 0.1


class Readings(NamedTuple):
    """One reading of the page; None where it does not tell."""

    prompt_tokens: float | None
    output_tokens: float | None
    running: float | None
    waiting: float | None


class ServerCounts(NamedTuple):
    """What the server counted during a load test; None where it does not tell."""

    prompt_tokens: int | None
    output_tokens: int | None
    running_peak: int | None
    waiting_peak: int | None


def read(endpoint: Endpoint, names: MetricNames) -> Readings:
    """The four numbers now.

    Only these are asked for (`name[]`, Prometheus' client library): rendering all of vLLM's page takes its server
    milliseconds of the core that it answers with. A server that knows no such question sends everything; where one
    sends nothing, as with several API servers, everything is asked for.
    """
    wanted = [names.prompt_tokens, names.generation_tokens, names.requests_running, names.requests_waiting]
    query = urlencode([("name[]", name) for name in wanted if name])
    page, key = f"{endpoint.base_url}/metrics", endpoint.api_key_variable
    try:
        samples = parse_metrics(get_text(f"{page}?{query}", api_key_variable=key)) if query else []
        if query and not samples:
            samples = parse_metrics(get_text(page, api_key_variable=key))
    except OSError:
        samples = []
    return Readings(*(total(samples, name) if name else None for name in wanted))


class ServerWatch:
    """Watches a server for the length of a `with` block.

    Args:
        endpoint: The server's.
        names: Of its metrics.
    """

    def __init__(self, endpoint: Endpoint, names: MetricNames) -> None:
        self._read: Callable[[], Readings] = lambda: read(endpoint, names)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._peaks: list[float | None] = [None, None]

    def __enter__(self) -> Self:
        self._before = self._read()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def counts(self, prompt_tokens: int, output_tokens: int) -> ServerCounts:
        """What was counted since the block began; to be asked when the block is over.

        Args:
            prompt_tokens: What the client counted; the server's counters are given two seconds to come to that.
            output_tokens: Likewise.
        """
        deadline = time.monotonic() + _SETTLE_SECONDS
        while True:
            after = self._read()
            prompt = _difference(after.prompt_tokens, self._before.prompt_tokens)
            output = _difference(after.output_tokens, self._before.output_tokens)
            arrived = (prompt is None or prompt >= prompt_tokens) and (output is None or output >= output_tokens)
            if arrived or time.monotonic() > deadline:
                break
            time.sleep(_POLL_SECONDS)
        running, waiting = (None if peak is None else int(peak) for peak in self._peaks)
        return ServerCounts(prompt, output, running, waiting)

    def _sample(self) -> None:
        pause = _SAMPLE_SECONDS
        while not self._stop.wait(pause):
            start = time.monotonic()
            now = self._read()
            pause = max(_SAMPLE_SECONDS, (time.monotonic() - start) / _SAMPLING_SHARE)
            for place, value in enumerate((now.running, now.waiting)):
                if value is not None:
                    self._peaks[place] = max(value, self._peaks[place] or 0.0)


def await_idle(endpoint: Endpoint, names: MetricNames, deadline_seconds: float) -> None:
    """Wait until the server works on nothing, as requests that were given up may go on for a while.

    Args:
        deadline_seconds: When to go on all the same.
    """
    deadline = time.monotonic() + deadline_seconds
    while time.monotonic() < deadline:
        now = read(endpoint, names)
        if not now.running and not now.waiting:
            return
        time.sleep(_POLL_SECONDS)


def _difference(after: float | None, before: float | None) -> int | None:
    return None if after is None or before is None else round(after - before)
