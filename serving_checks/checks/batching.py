"""Does the server batch continuously? Judged by what it does, not by what it says of its settings.

Three signs, each of which a server that works otherwise cannot show:

- its gauges have several requests at work while others wait for a place (one at a time never has two at work);
- short requests that come late, when all places are taken, end before long ones that came early. A batch that runs to
  its longest end before the next begins cannot do that, whatever its gauges say;
- many requests at once give more tokens per second than one at a time.

The early requests are a few long ones and, for all other places, middling ones, whose places the late ones take over.

A busy machine can hide a sign: a client that is not let run for half a second sends its late requests, or reads
their answers, when the long ones are done. It cannot make one up, so a server that shows them once has shown them,
and one that did not is loaded again.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import Any, NamedTuple

from pydantic import Field

from configs.base import StrictModel
from configs.errors import RequestError
from configs.quantities import Count, Ratio, Seconds, Tokens
from registry.contracts.serving import CheckRecord, Endpoint
from serving_checks.readings.gauges import GaugeNames, GaugeSample, GaugeSampler
from serving_checks.transport.streaming import StreamedAnswer, StreamingClient, not_done, run_check

_PROMPT_TOKENS = 64
"""No prompt of this check has more, whatever the tokenizer."""


_ENOUGH_LOOKS = 10
"""With fewer, a server that had several requests at work may not have been looked at while others waited too."""


class BatchingConfig(StrictModel):
    """The load of the batching check, and what it has to show."""

    answer_tokens: Tokens = Field(default=16, ge=4)
    """Of a middling answer; late ones have half as many, long ones twice what the others take before them."""
    late_requests: Count = Field(default=4, ge=1)
    """Short requests that come when all places are taken."""
    concurrency: Count = Field(default=16, ge=2)
    """Requests at once whose throughput is compared with that of one at a time."""
    requests_alone: Count = Field(default=2, ge=1)
    """Requests one after the other."""
    min_speedup: Ratio = Field(default=1.5, gt=1)
    """Least throughput at `concurrency` over throughput at 1."""
    attempts: Count = Field(default=3, ge=1)
    """Loads at most, until one shows every sign."""
    sample_seconds: Seconds = Field(default=0.05, gt=0)
    """Between two looks at the server's gauges."""
    deadline_seconds: Seconds = Field(default=600.0, gt=0)
    """For the whole check, all attempts together."""

    def check_fits(self, max_model_len: int, max_num_seqs: int | None) -> None:
        """Refuse a context that is too short for the check.

        Raises:
            RequestError: Prompt and longest answer do not fit it.
        """
        needed = Crowd.of(self, max_num_seqs).long_tokens + _PROMPT_TOKENS
        if needed > max_model_len:
            raise RequestError(
                f"the batching check's longest answer needs {needed} tokens and the server's context has"
                f" {max_model_len}",
                remedy="lower `answer_tokens` or `late_requests`, raise `max_model_len`, or set `batching: null`",
            )


class Crowd(NamedTuple):
    """Who is sent to fill a server's places, and with answers of how many tokens."""

    long_requests: int
    long_tokens: int
    middling_requests: int
    middling_tokens: int
    late_requests: Count
    late_tokens: int

    @classmethod
    def of(cls, config: BatchingConfig, max_num_seqs: int | None) -> Crowd:
        """For a server that works on `max_num_seqs` requests at once; for any that takes two or more when None."""
        places = max_num_seqs or 2
        long = 2 if places >= 4 else 1
        # Three at least: a server of one or two places then has somebody waiting too.
        middling = max(places, 3) - long
        late_tokens = config.answer_tokens // 2
        free = max(places - long, 1)
        before_long = config.answer_tokens * ceil(middling / free) + late_tokens * ceil(config.late_requests / free)
        return cls(long, 2 * before_long, middling, config.answer_tokens, config.late_requests, late_tokens)


class Seen(NamedTuple):
    """What the check measured."""

    gauges: GaugeSample | None
    """Most requests at work while others waited; None where nobody was ever seen to wait."""
    gauge_samples: int
    """0 where the server has no such gauges."""
    running_peak: int
    late: list[StreamedAnswer]
    long: list[StreamedAnswer]
    tokens_per_second_alone: float
    tokens_per_second_together: float

    @property
    def speedup(self) -> float:
        """Throughput of many requests at once over that of one at a time."""
        return self.tokens_per_second_together / self.tokens_per_second_alone

    @property
    def overtaking(self) -> int:
        """Late requests that ended before every long one did."""
        first = min(answer.ended_at for answer in self.long)
        return sum(answer.ended_at < first for answer in self.late)


def check_batching(
    endpoint: Endpoint,
    config: BatchingConfig,
    max_num_seqs: int | None,
    *,
    gauges: GaugeNames | None,
    fixed_length: Mapping[str, Any] = {},
) -> CheckRecord:
    """Load the server until requests wait, and judge how it schedules them; again where it did not show it.

    Args:
        max_num_seqs: Requests that the server is to work on at once. None where it is not known: then nobody need be
            seen to wait.
        gauges: What the engine calls them in /metrics; None where it has none.
        fixed_length: See StreamingClient.

    Raises:
        RequestError: The answers do not fit the server's context.
        StageError: The server died, refused a request, or answered without a token.
    """
    config.check_fits(endpoint.max_model_len, max_num_seqs)
    crowd = Crowd.of(config, max_num_seqs)
    ends_at = time.monotonic() + config.deadline_seconds
    numbers = itertools.count(1)  # one row for all attempts: no prompt comes twice
    records: list[CheckRecord] = []
    while len(records) < config.attempts:
        load = _Load(StreamingClient(endpoint, fixed_length), config, crowd, numbers)
        seen = run_check(load.run(gauges), ends_at - time.monotonic())
        if seen is None:
            break
        record = judge(seen, config, max_num_seqs)
        if record.outcome == "pass":
            return record
        records.append(record)
    if not records:
        return not_done("batching", config.deadline_seconds)
    # A load that said nothing does not take back what another one showed.
    found = next((record for record in records if record.outcome == "fail"), records[0])
    if len(records) == 1:
        return found
    return found.model_copy(update={"reason": f"{found.reason}; none of {len(records)} attempts passed"})


def judge(seen: Seen, config: BatchingConfig, max_num_seqs: int | None) -> CheckRecord:
    """Pass if every sign that could be looked for was there; fail if one was not."""
    signs = [_gauge_sign(seen, max_num_seqs), _order_sign(seen), _speed_sign(seen, config)]
    failed = [said for good, said in signs if good is False]
    # Throughput alone does not tell static batching from continuous.
    decided = signs[1][0] is not None
    outcome = "fail" if failed else "pass" if decided else "not_run"
    numbers = {
        "gauge_samples": seen.gauge_samples,
        "late_requests": len(seen.late),
        "late_requests_before_long_ones": seen.overtaking,
        "last_late_end_to_first_long_end_seconds": min(answer.ended_at for answer in seen.long)
        - max(answer.ended_at for answer in seen.late),
        "tokens_per_second_at_1": seen.tokens_per_second_alone,
        f"tokens_per_second_at_{config.concurrency}": seen.tokens_per_second_together,
        "speedup": seen.speedup,
    }
    if seen.gauge_samples:
        numbers |= {
            "requests_running_peak": seen.running_peak,
            "requests_running_while_others_waited": seen.gauges.running if seen.gauges else 0,
            "requests_waiting_then": seen.gauges.waiting if seen.gauges else 0,
        }
    return CheckRecord(
        check="batching",
        outcome=outcome,
        reason="; ".join(failed or [said for _, said in signs]),
        numbers={name: float(value) for name, value in numbers.items()},
    )


_Sign = tuple[bool | None, str]
"""Whether it was there, None where it could not be looked for; and a sentence."""


def _gauge_sign(seen: Seen, max_num_seqs: int | None) -> _Sign:
    if not seen.gauge_samples:
        return None, "the server has no gauges of its requests, so timing alone was judged"
    if max_num_seqs is None:
        peak = f"at most {seen.running_peak} requests were at work at once"
        return seen.running_peak > 1, f"{peak}; how many it takes is not known, so nobody was made to wait"
    if seen.gauges is None:
        sign, said = False, f"at most {seen.running_peak} requests were at work and none was ever seen to wait"
    else:
        sign, said = (
            seen.gauges.running > 1,
            (f"at most {seen.gauges.running} requests were at work while {seen.gauges.waiting} waited"),
        )
    if not sign and seen.running_peak > 1 and seen.gauge_samples < _ENOUGH_LOOKS:
        return None, f"the server was done after {seen.gauge_samples} looks at its gauges, so timing alone was judged"
    return sign, said


def _order_sign(seen: Seen) -> _Sign:
    shortest_long = min(answer.output_tokens for answer in seen.long)
    longest_late = max(answer.output_tokens for answer in seen.late)
    if shortest_long < 4 * longest_late:
        return None, (
            f"the order of ends says nothing: a long answer ended after {shortest_long} tokens, "
            f"a late one after {longest_late}"
        )
    if min(answer.ended_at for answer in seen.long) < max(answer.sent_at for answer in seen.late):
        return None, "the order of ends says nothing: a long answer was done before the last late request was sent"
    every = len(seen.late)
    said = f"{seen.overtaking} of {every} late short requests ended before the long early ones"
    return seen.overtaking == every, said


def _speed_sign(seen: Seen, config: BatchingConfig) -> _Sign:
    said = (
        f"{config.concurrency} requests at once gave {seen.speedup:.1f} times the tokens per second of one at a time "
        f"({seen.tokens_per_second_together:.1f} and {seen.tokens_per_second_alone:.1f}; "
        f"asked for: {config.min_speedup:g} times)"
    )
    return seen.speedup >= config.min_speedup, said


class _Load:
    """The requests of the check, in their order."""

    def __init__(self, client: StreamingClient, config: BatchingConfig, crowd: Crowd, numbers: Iterator[int]) -> None:
        self._client, self._config, self._crowd = client, config, crowd
        self._numbers = numbers

    async def run(self, gauges: GaugeNames | None) -> Seen:
        tokens = self._config.answer_tokens
        async with self._client:
            await self._ask(tokens)  # what a server does at its first request is not measured
            alone = [await self._ask(tokens) for _ in range(self._config.requests_alone)]
            async with GaugeSampler(self._client, gauges, self._config.sample_seconds) as sampler:
                together = await self._at_once()
                long, late = await self._late_after_long()
        return Seen(
            gauges=sampler.together,
            gauge_samples=len(sampler.samples),
            running_peak=max((sample.running for sample in sampler.samples), default=0),
            late=late,
            long=long,
            tokens_per_second_alone=_tokens_per_second(alone),
            tokens_per_second_together=_tokens_per_second(together),
        )

    async def _ask(self, tokens: int, started: asyncio.Event | None = None) -> StreamedAnswer:
        # Different from the first word on, so that none is in the prefix cache.
        return await self._client.complete(f"{next(self._numbers)} apples and some more are", tokens, started)

    async def _at_once(self) -> list[StreamedAnswer]:
        config = self._config
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._ask(config.answer_tokens)) for _ in range(config.concurrency)]
        return [task.result() for task in tasks]

    async def _late_after_long(self) -> tuple[list[StreamedAnswer], list[StreamedAnswer]]:
        """Long requests, middling ones for all other places, then short ones once the first long one is at work."""
        crowd, started = self._crowd, asyncio.Event()
        async with asyncio.TaskGroup() as group:
            long = [group.create_task(self._ask(crowd.long_tokens, started)) for _ in range(crowd.long_requests)]
            for _ in range(crowd.middling_requests):
                group.create_task(self._ask(crowd.middling_tokens))
            await started.wait()
            late = [group.create_task(self._ask(crowd.late_tokens)) for _ in range(crowd.late_requests)]
        return [task.result() for task in long], [task.result() for task in late]


def _tokens_per_second(answers: Sequence[StreamedAnswer]) -> float:
    seconds = max(answer.ended_at for answer in answers) - min(answer.sent_at for answer in answers)
    return sum(answer.output_tokens for answer in answers) / seconds
