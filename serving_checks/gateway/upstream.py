"""A server behind the gateway: asked for clients, counted, and left only when all that it was asked is answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import NamedTuple, Self

import aiohttp
from aiohttp import web

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


class Answered(NamedTuple):
    """An answer that went to its client whole; times are of `time.perf_counter`."""

    status: int
    content_type: str
    body: bytes | None
    """None for one that is too long to be kept."""
    sent_at: float
    first_byte_at: float
    ended_at: float


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
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=self._patience.connect_seconds, sock_read=self._patience.silence_seconds
            ),
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
        """
        url = self.endpoint.base_url + asked.path
        sent_at = time.perf_counter()
        async with self._counted():
            try:
                async with self._session.post(
                    url,
                    data=asked.body_for(self.endpoint.served_model_name),
                    headers={**asked.headers, **self._key},
                    allow_redirects=False,
                ) as answer:
                    headers = _passed_back(answer.headers, asked.id)
                    if "content-length" in answer.headers:
                        return await _whole(answer, headers, sent_at)
                    return await _in_pieces(answer, headers, sent_at, request)
            except (TimeoutError, aiohttp.ServerTimeoutError):
                raise Refusal(504, "the model's server did not answer in time; ask again later") from None
            except (aiohttp.ClientError, OSError) as error:
                raise Refusal(
                    502, f"the model's server is not there ({type(error).__name__}); ask again later"
                ) from error

    async def fetch(self, asked: Asked, headers: Mapping[str, str]) -> Answered:
        """Ask without a client, and read all of it.

        Raises:
            OSError, aiohttp.ClientError, ValueError: There is no answer, or one that is too long.
        """
        sent_at, first_byte_at = time.perf_counter(), None
        async with (
            self._counted(),
            self._session.post(
                self.endpoint.base_url + asked.path,
                data=asked.body_for(self.endpoint.served_model_name),
                headers={**asked.headers, **headers, **self._key},
                allow_redirects=False,
            ) as answer,
        ):
            parts, size = [], 0
            async for part in answer.content.iter_any():
                first_byte_at = first_byte_at or time.perf_counter()
                size += len(part)
                if size > KEPT_BYTES:
                    raise too_long(KEPT_BYTES)
                parts.append(part)
            ended_at = time.perf_counter()
            return Answered(answer.status, _kind(answer), b"".join(parts), sent_at, first_byte_at or ended_at, ended_at)


async def _whole(
    answer: aiohttp.ClientResponse, headers: dict[str, str], sent_at: float
) -> tuple[web.StreamResponse, Answered]:
    first_byte_at = time.perf_counter()
    body = await answer.read()
    kept = body if len(body) <= KEPT_BYTES else None
    answered = Answered(answer.status, _kind(answer), kept, sent_at, first_byte_at, time.perf_counter())
    return web.Response(body=body, status=answer.status, headers=headers), answered


async def _in_pieces(
    answer: aiohttp.ClientResponse, headers: dict[str, str], sent_at: float, request: web.BaseRequest
) -> tuple[web.StreamResponse, Answered | None]:
    response = web.StreamResponse(status=answer.status, headers=headers)
    parts: list[bytes] | None = []
    size, first_byte_at = 0, 0.0
    pieces = answer.content.iter_any()
    # Before the first piece nothing is begun: an upstream that dies here is an error with a status of its own.
    first = await anext(pieces, b"")
    first_byte_at = time.perf_counter()
    await response.prepare(request)
    try:
        piece = first
        while piece:
            size += len(piece)
            if size > KEPT_BYTES:
                parts = None
            if parts is not None:
                parts.append(piece)
            await response.write(piece)
            piece = await anext(pieces, b"")
    except (aiohttp.ClientPayloadError, aiohttp.ServerTimeoutError, aiohttp.ClientConnectionError):
        # The client sees an error and no end, and not a whole answer that is short.
        await response.write(Refusal(502, "the model's server broke off amid its answer").event)
        if request.transport is not None:
            request.transport.close()
        return response, None
    await response.write_eof()
    body = None if parts is None else b"".join(parts)
    return response, Answered(answer.status, _kind(answer), body, sent_at, first_byte_at, time.perf_counter())


def _kind(answer: aiohttp.ClientResponse) -> str:
    return answer.headers.get("content-type", "")


def _passed_back(headers: Mapping[str, str], request_id: str) -> dict[str, str]:
    passed = {name: value for name, value in headers.items() if name.lower() not in _OF_THE_CONNECTION}
    return passed | {"x-request-id": request_id}
