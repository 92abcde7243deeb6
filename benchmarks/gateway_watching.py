"""What watching costs: microseconds a request in the gateway's process, and an answer in the observer's.

    PYTHONPATH=. .venv/bin/python -P benchmarks/gateway_watching.py

Processor time of one thread. The gateway's number is all that counting and logging add to a client's request; reading
an answer is what the observer, which no client waits for, does with each.
"""

import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any, cast

from serving_checks.gateway.answer_reader import AnswerReader
from serving_checks.gateway.asked import CHAT, Asked
from serving_checks.gateway.config import LogConfig
from serving_checks.gateway.event_log import EventLog
from serving_checks.gateway.metrics import Metrics
from serving_checks.gateway.observed import Observed
from serving_checks.gateway.standing import Answering, Standing
from serving_checks.gateway.tally import Tally
from serving_checks.gateway.upstream import Answered
from serving_checks.readings.cost import DevicePrice

REQUESTS = 20_000
PRICE = DevicePrice.model_validate(
    {"device": "x", "currency": "USD", "per_hour": 1, "source": "made up", "read_on": "2026-01-01", "made_up": True}
)


def asked(stream: bool) -> Asked:
    """A request of the chat API."""
    fields = {"model": "demo", "messages": [{"role": "user", "content": "words"}], "stream": stream}
    return Asked("id", CHAT, {}, json.dumps(fields).encode(), fields)


def answered(tokens: int) -> Answered:
    """A streamed answer of so many tokens, an event each."""
    events: list[dict[str, Any]] = [{"choices": [{"delta": {"content": "word "}}]} for _ in range(tokens)]
    events.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    events.append({"choices": [], "usage": {"prompt_tokens": 50, "completion_tokens": tokens}})
    body = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"
    return Answered(200, "text/event-stream", body, 1.0, 1.5, 3.0)


def microseconds(what: str, times: int, started: float) -> None:
    """Print the processor time of each."""
    print(f"{what:<58}{1e6 * (time.thread_time() - started) / times:>10.1f} µs")


def in_the_gateway(log: EventLog | None) -> None:
    """Count answered and failed requests."""
    upstream = cast("Any", type("Upstream", (), {"version": "1", "in_flight": 0}))
    standing = Standing("demo", lambda: Answering(upstream, None, 0.0))
    standing.log = log
    metrics = Metrics("demo", standing)
    for name, request in (("whole", asked(False)), ("streamed", asked(True))):
        one = answered(1)
        started = time.thread_time()
        for _ in range(REQUESTS):
            metrics.answered("champion", "1", request, one)
        microseconds(f"gateway: an answer, {name}", REQUESTS, started)
    started = time.thread_time()
    for _ in range(REQUESTS):
        metrics.failed("champion", "1", asked(True), 502)
    microseconds(f"gateway: a failed request, {'with' if log else 'without'} a log", REQUESTS, started)
    started = time.thread_time()
    for _ in range(100):
        page = metrics.page()
    microseconds(f"gateway: its page of {len(page):,} bytes", 100, started)


async def in_the_observer(log: EventLog | None) -> None:
    """Read answers of several lengths."""
    tally = Tally("demo", PRICE)
    reader = AnswerReader(tally, log)
    for tokens in (1, 100):
        one = Observed(asked(True), answered(tokens), "champion", "1")
        times = REQUESTS // (10 * tokens)
        started = time.thread_time()
        for _ in range(times):
            await reader.client_answered(one)
        told = "with" if log else "without"
        microseconds(f"observer: an answer of {tokens} tokens, {told} a log", times, started)
    started = time.thread_time()
    for _ in range(100):
        page = tally.page()
    microseconds(f"observer: its page of {len(page):,} bytes", 100, started)


def main() -> None:
    """See above."""
    with tempfile.TemporaryDirectory() as folder, EventLog(Path(folder) / "events.jsonl", LogConfig()) as log:
        for one in (None, log):
            in_the_gateway(one)
            asyncio.run(in_the_observer(one))


if __name__ == "__main__":
    main()
