"""Streamed completions with the time at which each token came: what the checks see of a server.

Every check is one coroutine that `run_check` runs to its end or to its deadline; no task and no socket outlives it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Coroutine, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from configs.errors import StageError
from configs.reading.json_text import parse_json
from configs.reading.text import gathered
from registry.contracts.serving import CheckRecord, Endpoint
from serving_checks.transport.http_json import authorization, refusal

Prompt = str | list[int]
"""A text, or token ids."""

_REMEDY = "see the end of the server's log for what happened to it"
_T = TypeVar("_T")


class StreamedAnswer(NamedTuple):
    """One completion; times are of `time.perf_counter`."""

    sent_at: float
    arrivals: list[float]
    """Of each piece of the answer, at least one; engines send a token a piece, or a few when the client is slow."""
    output_tokens: int
    """By the server's own count where it gives one, else the number of pieces."""

    @property
    def ttft_seconds(self) -> float:
        """From sending the request to its first token."""
        return self.arrivals[0] - self.sent_at

    @property
    def ended_at(self) -> float:
        """When the last token came."""
        return self.arrivals[-1]


class Stream(NamedTuple):
    """What a completion's stream held."""

    arrivals: list[float]
    """Of each piece, by `time.perf_counter`."""
    text: str
    prompt_tokens: int | None
    """As the server counted; None where it told no usage."""
    output_tokens: int | None


class StreamingClient:
    """Sends completions to one server, as many at once as are asked for.

    Args:
        endpoint: An OpenAI-compatible server's.
        fixed_length: Fields added to each request so that answers are as long as asked (`Engine.fixed_length`).
    """

    def __init__(self, endpoint: Endpoint, fixed_length: Mapping[str, Any] = {}) -> None:
        self._endpoint, self._fixed_length = endpoint, dict(fixed_length)

    async def __aenter__(self) -> Self:
        import aiohttp

        # No limit and no environment: requests must not queue in the client, and loopback is behind no proxy.
        self._headers = authorization(self._endpoint.api_key_variable)
        connector = aiohttp.TCPConnector(limit=0, force_close=not self._endpoint.keeps_connections)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=None), trust_env=False
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def complete(self, prompt: Prompt, max_tokens: int, started: asyncio.Event | None = None) -> StreamedAnswer:
        """Stream the greedy completion of `prompt`.

        Args:
            started: Set when the first token comes.

        Raises:
            StageError: The server cannot be reached, refuses, breaks off, or answers without a token.
        """
        import aiohttp

        url = f"{self._endpoint.base_url}/v1/completions"
        body = {
            "model": self._endpoint.served_model_name,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self._fixed_length,
        }
        try:
            sent_at = time.perf_counter()
            # A redirect is not followed: the key is for this address alone.
            async with self._session.post(url, json=body, headers=self._headers, allow_redirects=False) as response:
                if response.status != 200:
                    told = refusal(
                        response.status,
                        response.reason,
                        (await gathered(response.content.iter_any())).decode(errors="replace"),
                        self._headers,
                    )
                    raise StageError(f"{url} answered {told}", remedy=_REMEDY)
                stream = await read_stream(response.content, started)
        except (aiohttp.ClientError, OSError, ValueError, LookupError, TypeError) as error:
            raise StageError(f"the server broke off: {url}: {error!r}", remedy=_REMEDY) from error
        if not stream.arrivals or stream.output_tokens == 0:
            raise StageError(f"{url} answered without a token", remedy=_REMEDY)
        counted = len(stream.arrivals) if stream.output_tokens is None else stream.output_tokens
        return StreamedAnswer(sent_at, stream.arrivals, counted)

    async def get_text(self, path: str) -> str | None:
        """The body under `path`; None where the server has nothing there or cannot be reached."""
        import aiohttp

        try:
            url = self._endpoint.base_url + path
            async with self._session.get(url, headers=self._headers, allow_redirects=False) as response:
                if response.status != 200:
                    return None
                return (await gathered(response.content.iter_any())).decode(errors="replace")
        except (aiohttp.ClientError, OSError, ValueError):
            return None


async def read_stream(lines: AsyncIterable[bytes], started: asyncio.Event | None = None) -> Stream:
    """Read a streamed completion to its end.

    Server-sent events as in the WHATWG HTML standard, section 9.2, one `data:` line an event, which is all that
    OpenAI-compatible servers use.

    Args:
        lines: Of the response's body.
        started: Set when the first piece comes.

    Raises:
        ValueError: The stream tells an error, breaks off or is no JSON. So are LookupError and TypeError.
    """
    arrivals: list[float] = []
    texts: list[str] = []
    usage: dict[str, Any] = {}
    ended = only_ends = tells_usage = False
    async for line in lines:
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            ended = True
            break
        message = parse_json(data, of_model=True)
        if "error" in message:
            raise ValueError(str(message["error"])[:300])
        for choice in message["choices"]:
            arrivals.append(time.perf_counter())
            texts.append(choice.get("text") or "")
            # Not every engine sends [DONE].
            ended = choice.get("finish_reason") is not None
            only_ends, tells_usage = ended and not texts[-1], bool(message.get("usage"))
            if started is not None:
                started.set()
        usage = message.get("usage") or usage
    if not ended:
        raise ValueError("the stream broke off before the answer's end")
    counted = None if usage.get("completion_tokens") is None else int(usage["completion_tokens"])
    # Some engines tell the end in a piece of its own. A token may be no text, though: half of a character.
    if only_ends and len(arrivals) > (1 if counted is None or tells_usage else counted):
        arrivals.pop()
    asked = usage.get("prompt_tokens")
    return Stream(arrivals, "".join(texts), None if asked is None else int(asked), counted)


def run_check(work: Coroutine[Any, Any, _T], deadline_seconds: float) -> _T | None:
    """Run a check's coroutine; None when it was not done in time. Its task groups have then been cancelled.

    Raises:
        StageError: What the coroutine or one of its task groups raised first.
    """

    async def within() -> _T | None:
        try:
            async with asyncio.timeout(deadline_seconds):
                return await work
        except TimeoutError:
            return None

    try:
        return asyncio.run(within())
    except BaseExceptionGroup as group:
        raise first_of(group) from group


def not_done(check: str, deadline_seconds: float) -> CheckRecord:
    """The record of a check that ran out of time."""
    return CheckRecord.model_validate(
        {
            "check": check,
            "outcome": "not_run",
            "reason": f"not done within {deadline_seconds:g} s: the server is too slow for this load, or hangs; "
            "raise `deadline_seconds` if it was only slow",
        }
    )


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What a task group's first task raised."""
    first = group.exceptions[0]
    return first_of(first) if isinstance(first, BaseExceptionGroup) else first
