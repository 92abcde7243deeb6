"""The clock of a serving engine without its arithmetic: who is at work, who waits, and when each token comes out.

A loop of steps, as in vLLM: every step takes the decode time, the time of the prompt tokens that it reads, or both, and
then gives one token to each sequence that took part. `fake_server.py` puts HTTP before it.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Scheduling = Literal["continuous", "static", "sequential"]

# An event loop may wake a little before the time it was asked for.
_CLOCK_SECONDS = 1e-6


class EngineSettings(NamedTuple):
    """How requests are scheduled and how long the work takes."""

    scheduling: Scheduling = "continuous"
    """Continuous: a free place is taken at once by who waits longest. Static: a batch is filled with those who wait and
    runs to its longest end before the next one begins. Sequential: one request at a time."""
    max_num_seqs: int = 256
    """Requests at work at once."""
    ttft_seconds: float = 0.0
    """From being taken to work to the first token; holds up nobody else."""
    tpot_seconds: float = 0.0
    """Of a decode step, however many take part in it; no token comes sooner."""
    prefill_tokens_per_second: float | None = None
    """Reading prompts holds up everybody; None where it takes no time."""
    chunked_prefill: bool = False
    """Read `prefill_chunk_tokens` of each new prompt a step beside decoding, not one whole prompt instead of it."""
    prefill_chunk_tokens: int = 64
    kv_cache_tokens: int = 4096


@dataclass
class Counters:
    """What the engine has done since its start; prompts count when they were read, tokens as they come."""

    prompt_tokens: int = 0
    generation_tokens: int = 0
    requests_succeeded: int = 0


@dataclass(eq=False)
class _Sequence:
    prompt_tokens: int
    output_tokens: int
    prefill_left: int
    first_token_at: float = 0.0
    produced: int = 0
    started: bool = False
    done: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class FakeEngine:
    """Schedules sequences of known lengths; `run` has to be a task of the loop that calls `generate`."""

    def __init__(self, settings: EngineSettings) -> None:
        self.settings, self.counters = settings, Counters()
        self._places = 1 if settings.scheduling == "sequential" else settings.max_num_seqs
        self._waiting: deque[_Sequence] = deque()
        self._running: list[_Sequence] = []
        self._arrived = asyncio.Event()

    @property
    def requests_running(self) -> int:
        """Requests at work."""
        return len(self._running)

    @property
    def requests_waiting(self) -> int:
        """Requests that have no place yet."""
        return len(self._waiting)

    @property
    def kv_cache_usage(self) -> float:
        """Share of the KV cache that holds tokens of requests at work."""
        held = sum(one.prompt_tokens - one.prefill_left + one.produced for one in self._running)
        return held / self.settings.kv_cache_tokens

    async def generate(self, prompt_tokens: int, output_tokens: int) -> AsyncIterator[range]:
        """The places of the tokens that have come since the last look; a caller that goes away gives up its place."""
        prefill = prompt_tokens if self.settings.prefill_tokens_per_second else 0
        one = _Sequence(prompt_tokens, output_tokens, prefill)
        self._waiting.append(one)
        self._arrived.set()
        taken = 0
        try:
            while not (one.done and taken == one.produced):
                await one.changed.wait()
                one.changed.clear()
                yield range(taken, taken := one.produced)
        finally:
            if one in self._running:
                self._running.remove(one)
            elif not one.done:
                self._waiting.remove(one)

    async def run(self) -> None:
        """Work for ever."""
        while True:
            self._admit()
            if not self._running:
                await self._arrival(None)
            elif (idle := self._idle_seconds()) > 0:
                await self._arrival(idle)
            else:
                await self._step()

    def _admit(self) -> None:
        if self.settings.scheduling == "static" and self._running:
            return
        while self._waiting and len(self._running) < self._places:
            one = self._waiting.popleft()
            one.first_token_at = time.monotonic() + self.settings.ttft_seconds
            self._running.append(one)

    def _idle_seconds(self) -> float:
        """How long nothing can be done for those at work, all of whom wait for their first token."""
        if any(one.prefill_left for one in self._running):
            return 0.0
        first = min(one.first_token_at for one in self._running)
        return first - self.settings.tpot_seconds - time.monotonic()

    async def _arrival(self, timeout_seconds: float | None) -> None:
        self._arrived.clear()
        try:
            await asyncio.wait_for(self._arrived.wait(), timeout_seconds)
        except TimeoutError:
            return

    async def _step(self) -> None:
        seconds, batch = self._plan()
        await asyncio.sleep(seconds)
        now = time.monotonic() + _CLOCK_SECONDS
        for one in batch:
            if now >= one.first_token_at and one in self._running:
                self._advance(one)
        self._running = [one for one in self._running if not one.done]

    def _plan(self) -> tuple[float, list[_Sequence]]:
        """How long the next step takes, and who gets a token at its end."""
        settings = self.settings
        reading = [one for one in self._running if one.prefill_left]
        if not reading or not settings.prefill_tokens_per_second:
            return settings.tpot_seconds, list(self._running)
        if not settings.chunked_prefill:
            one = reading[0]
            tokens, one.prefill_left = one.prefill_left, 0
            return tokens / settings.prefill_tokens_per_second, [one]
        tokens = 0
        for one in reading:
            chunk = min(one.prefill_left, settings.prefill_chunk_tokens)
            one.prefill_left -= chunk
            tokens += chunk
        seconds = settings.tpot_seconds + tokens / settings.prefill_tokens_per_second
        return seconds, [one for one in self._running if not one.prefill_left]

    def _advance(self, one: _Sequence) -> None:
        if not one.started:
            one.started = True
            self.counters.prompt_tokens += one.prompt_tokens
        if one.produced < one.output_tokens:
            one.produced += 1
            self.counters.generation_tokens += 1
        if one.produced == one.output_tokens:
            one.done = True
            self.counters.requests_succeeded += 1
        one.changed.set()
