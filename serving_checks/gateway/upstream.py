"""A server behind the gateway: asked for clients, counted, and left only when all that it was asked is answered."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, NamedTuple, Self

import aiohttp
from aiohttp import web
from aiohttp.http import HttpProcessingError
from multidict import CIMultiDict

from configs.reading.text import too_long
from registry.contracts.serving import Endpoint
from serving_checks.gateway.asked import Asked
from serving_checks.gateway.config import PatienceConfig
from serving_checks.gateway.refusals import Refusal
from serving_checks.transport.http_json import authorization

_OF_THE_CONNECTION = frozenset(
    (
        "connection",
        "content-length",
        "keep-alive",
        "proxy-authenticate",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
"""Headers that are about one connection and not about the answer (RFC 9110, section 7.6.1)."""
KEPT_BYTES = 4 << 20
"""Of an answer, for its pair; of a longer one there is none."""
_KEPT_SECONDS = 4.0
"""Of a connection that nothing is asked on. Uvicorn, in which engines run, closes after 5: a request that is sent at
that moment would be lost."""
_DONE, _DONE_BYTES = re.compile(rb"[\r\n]data: ?\[DONE\]"), 13
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_BROKEN = (aiohttp.ClientError, HttpProcessingError)
"""What reading an answer may raise beside OSError: the latter is aiohttp's, of bytes that are no HTTP."""


class Answered(NamedTuple):
    """An answer that went to its client whole; times are of `time.perf_counter`."""

    status: int
    content_type: str
    body: bytes | None
    """None for one that is too long to be kept."""
    sent_at: float
    first_byte_at: float
    ended_at: float
    encoding: str = ""
    """In which the body is packed, as HTTP names it."""


class Upstream:
    """One server; use as an async context manager.

    Args:
        version: Of the registered model, that it serves.
        endpoint: Where it answers, and what it calls the model.
        patience: With it.
    """

    def __init__(self, version: str, endpoint: Endpoint, patience: PatienceConfig) -> None:
        self.version, self.endpoint = version, endpoint
        self._patience = patience
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def __aenter__(self) -> Self:
        # No limit: requests must not queue here. Bytes pass as they are, compressed or not.
        self._session = aiohttp.ClientSession(
            connector=_Connector(limit=0, keepalive_timeout=_KEPT_SECONDS)
            if self.endpoint.keeps_connections
            else aiohttp.TCPConnector(limit=0, force_close=True),
            # What a server has told one client to keep is not sent for another.
            cookie_jar=aiohttp.DummyCookieJar(),
            # Silence is timed below: aiohttp's own limit is not kept while a head comes in drops, nor after bytes that
            # are no HTTP amid an answer.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._patience.connect_seconds),
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers=("accept", "accept-encoding", "content-type", "user-agent"),
        )
        self._key = authorization(self.endpoint.api_key_variable)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    @property
    def in_flight(self) -> int:
        """Requests that it has not answered to their end."""
        return self._in_flight

    async def drained(self) -> None:
        """Wait until it has answered all that it was asked."""
        await self._idle.wait()

    @asynccontextmanager
    async def _counted(self) -> AsyncIterator[None]:
        self._in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    async def relay(self, asked: Asked, request: web.BaseRequest) -> tuple[web.StreamResponse, Answered | None]:
        """Ask, and answer the client with the very bytes.

        Returns:
            The response, begun where it is streamed, and what it was; None where it did not come to its end.

        Raises:
            Refusal: There is no answer; the client has been told nothing yet.
            ConnectionError: The client is gone.
        """
        sent_at = time.perf_counter()
        async with self._counted():
            with _REFUSING:
                answer = await self._asked(asked, {})
            async with answer:
                if not _is_final(answer.status):
                    raise Refusal(
                        502, f"the model's server answers {answer.status}, which is no answer to a completion"
                    )
                headers = _passed_back(answer.headers, asked.id)
                length = answer.content_length
                if length is not None and length <= KEPT_BYTES:
                    with _REFUSING:
                        return await self._whole(answer, headers, sent_at)
                return await self._in_pieces(answer, headers, sent_at, request)

    async def _asked(self, asked: Asked, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """The answer as soon as its head is there."""
        if self._session.closed:
            # Its server ended by itself, and none has taken its place yet.
            raise aiohttp.ClientConnectionError("closed")
        async with asyncio.timeout(self._patience.connect_seconds + self._patience.silence_seconds):
            return await self._session.post(
                self.endpoint.base_url + asked.path,
                data=asked.body_for(self.endpoint.served_model_name),
                headers={**asked.headers, **headers, **self._key},
                allow_redirects=False,
            )

    async def _whole(
        self, answer: aiohttp.ClientResponse, headers: CIMultiDict[str], sent_at: float
    ) -> tuple[web.StreamResponse, Answered]:
        first_byte_at = time.perf_counter()
        async with asyncio.timeout(self._patience.silence_seconds):
            body = await answer.read()
        response = web.Response(body=body, status=answer.status, headers=headers)
        return response, _answered(answer, body, sent_at, first_byte_at)

    async def _in_pieces(
        self, answer: aiohttp.ClientResponse, headers: CIMultiDict[str], sent_at: float, request: web.BaseRequest
    ) -> tuple[web.StreamResponse, Answered | None]:
        response = web.StreamResponse(status=answer.status, headers=headers)
        parts: list[bytes] | None = []
        size = 0
        # Before the first piece nothing is begun: an upstream that dies here is an error with a status of its own.
        with _REFUSING:
            piece = await self._piece(answer)
        first_byte_at = time.perf_counter()
        await response.prepare(request)
        last_event = _LastEvent()
        try:
            while piece:
                size += len(piece)
                if size > KEPT_BYTES:
                    parts = None
                if parts is not None:
                    parts.append(piece)
                await response.write(piece)
                last_event.look_in(piece)
                try:
                    piece = await self._piece(answer)
                except (*_BROKEN, OSError):
                    if last_event.said:
                        break
                    # The client sees an error and no end, and not a whole answer that is short.
                    if "event-stream" in answer.headers.get("content-type", ""):
                        await response.write(Refusal(502, "the model's server broke off amid its answer").event)
                    if request.transport is not None:
                        request.transport.close()
                    return response, None
            await response.write_eof()
        except (asyncio.CancelledError, ConnectionError):
            # OpenAI's client hangs up as soon as it has read the last event (openai 2.x, `Stream.__stream__`): often
            # before the body's end is there. It has all that it asked for.
            if not last_event.said:
                raise
        return response, _answered(answer, None if parts is None else b"".join(parts), sent_at, first_byte_at)

    async def _piece(self, answer: aiohttp.ClientResponse) -> bytes:
        """What has come; empty at the end."""
        async with asyncio.timeout(self._patience.silence_seconds):
            return await answer.content.readany()

    async def fetch(self, asked: Asked, headers: Mapping[str, str]) -> Answered:
        """Ask without a client, and read all of it.

        Raises:
            OSError, aiohttp.ClientError, ValueError: There is no answer, or one that is too long.
        """
        sent_at, first_byte_at = time.perf_counter(), None
        async with self._counted(), await self._asked(asked, headers) as answer:
            parts, size = [], 0
            async for part in answer.content.iter_any():
                first_byte_at = first_byte_at or time.perf_counter()
                size += len(part)
                if size > KEPT_BYTES:
                    raise too_long(KEPT_BYTES)
                parts.append(part)
            return _answered(answer, b"".join(parts), sent_at, first_byte_at or time.perf_counter())


class _LastEvent:
    """Whether a stream of OpenAI's events has come to its `[DONE]`, however it is cut into pieces."""

    def __init__(self) -> None:
        self._tail = b"\n"
        self.said = False

    def look_in(self, piece: bytes) -> None:
        """One more piece. A text that holds the word does not begin a line with it: JSON has no line's end."""
        if not self.said:
            read = self._tail + piece
            self.said = _DONE.search(read) is not None
            self._tail = read[-_DONE_BYTES:]


class _Refusing:
    """What goes wrong with a server, as what its client is told. Not for what goes wrong with the client."""

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, TimeoutError):
            raise Refusal(504, "the model's server did not answer in time; ask again later") from error
        if isinstance(error, aiohttp.ClientConnectionError | OSError):
            raise Refusal(502, "the model's server is not there; ask again later") from error
        if isinstance(error, _BROKEN):
            raise Refusal(502, "the model's server answered what is no whole answer; ask again later") from error


_REFUSING = _Refusing()


class _Connector(aiohttp.TCPConnector):
    """Keeps connections, but for those on which a server said something unasked, such as that it waited for too long:
    aiohttp would take it for the answer to the next request, of another client (3.14.5, `BaseConnector._get`)."""

    async def _get(self, key: Any, traces: list[aiohttp.tracing.Trace]) -> Any:
        while (kept := await super()._get(key, traces)) is not None:
            if kept.protocol is not None and not kept.protocol.should_close:
                return kept
            kept.close()
        return None


def _is_final(status: int) -> bool:
    """Whether it can end a completion: a redirect would send a client, and its key, to wherever it says."""
    return 200 <= status < 300 or 400 <= status < 600


def _answered(answer: aiohttp.ClientResponse, body: bytes | None, sent_at: float, first_byte_at: float) -> Answered:
    kind, encoding = (answer.headers.get(name, "") for name in ("content-type", "content-encoding"))
    return Answered(answer.status, kind, body, sent_at, first_byte_at, time.perf_counter(), encoding)


def _passed_back(headers: Mapping[str, str], request_id: str) -> CIMultiDict[str]:
    """All but those about the connection; what comes several times stays so.

    Raises:
        Refusal: One holds what no header may (RFC 9110, section 5.5), and what aiohttp reads but does not write.
    """
    if any(_CONTROL.search(value) for value in headers.values()):
        raise Refusal(502, "the model's server answered with a header that is none; ask again later")
    named = {name.strip().lower() for name in headers.get("connection", "").split(",")}
    passed = CIMultiDict(
        (name, value)
        for name, value in headers.items()
        if name.lower() not in _OF_THE_CONNECTION and name.lower() not in named
    )
    passed["x-request-id"] = request_id
    return passed
