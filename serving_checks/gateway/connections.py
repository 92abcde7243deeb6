"""Clients' connections: how many there may be, how long one may say or take nothing, and what is told to whoever speaks
no HTTP.

aiohttp has the protocol. What it answers and logs by itself quotes the request, keys and prompts included, and it waits
for ever for a client that reads nothing.
"""

import asyncio
import logging
import resource
import traceback
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from configs.errors import RequestError
from serving_checks.gateway.config import ListenConfig
from serving_checks.gateway.refusals import Refusal

_OTHER_FILES = 256
"""Open files beside clients' connections and those to the servers: logs, the database, libraries."""
_TURNED_AWAY_SECONDS = 1.0
"""For reading that there is no room; who closes with bytes unread takes them from the client too."""
_NO_LOG: Any = {"access_log": None}
"""As aiohttp itself passes it; its type does not say so."""
_log = logging.getLogger(__name__)


class Connections(web.Server):
    """Makes a protocol for each connection.

    Args:
        handle: Answers a request.
        config: The bounds.
    """

    def __init__(
        self, handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], config: ListenConfig
    ) -> None:
        # A client that hangs up ends what is done for it, so that its server computes no answer that nobody reads.
        super().__init__(handle, handler_cancellation=True)
        self._config, self.open = config, 0

    def __call__(self) -> RequestHandler:
        """The protocol of a new connection."""
        return _Connection(self, self._config)


class _Connection(RequestHandler):
    __slots__ = ("_connections", "_most", "_reading_seconds", "_turned_away")

    def __init__(self, connections: Connections, config: ListenConfig) -> None:
        loop = asyncio.get_running_loop()
        # Counts from the connection's begin and from each answer: heads that come drop by drop end with it too.
        super().__init__(connections, loop=loop, keepalive_timeout=config.idle_seconds, **_NO_LOG)
        self._connections, self._most = connections, config.connections
        self._reading_seconds = config.reading_seconds
        self._turned_away = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._connections.open += 1
        if self._connections.open <= self._most:
            super().connection_made(transport)
            return
        self._turned_away = True
        told = cast(asyncio.Transport, transport)
        told.write(_answer(Refusal(503, "too many connections are open here; ask again later", "overloaded")))
        told.write_eof()
        self._loop.call_later(_TURNED_AWAY_SECONDS, told.abort)

    def connection_lost(self, exc: BaseException | None) -> None:
        """See `asyncio.Protocol`."""
        self._connections.open -= 1
        if not self._turned_away:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if not self._turned_away:
            super().data_received(data)

    async def _drain_helper(self) -> None:
        # Whoever reads nothing would hold a place at the model's server, and a swap would wait for it.
        if not self._paused:
            await super()._drain_helper()
            return
        try:
            async with asyncio.timeout(self._reading_seconds):
                await super()._drain_helper()
        except TimeoutError:
            if self.transport is not None:
                self.transport.abort()
            raise ConnectionResetError("the client takes nothing of its answer") from None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what is no HTTP, or to a fault of ours; the connection ends with it."""
        if request.writer.output_size or isinstance(exc, ConnectionError):
            raise ConnectionError("the client has half an answer, or is gone")
        if status == 400:
            refusal = Refusal(
                400, "this is no HTTP/1.1 request, or one whose head has 8 KiB in a line or 128 lines", "invalid_http"
            )
        else:
            self.log_exception("a request was not answered", exc_info=exc)
            refusal = Refusal(500, "the gateway failed; its log says where")
        response = refusal.response(uuid.uuid4().hex)
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Where an exception was raised, and not its words, nor aiohttp's: they may hold some of the request."""
        error = kw.get("exc_info")
        # What a client's body is wrong in it is told itself.
        if isinstance(error, BaseException) and not isinstance(error, web.RequestPayloadError):
            _log.error("%s in\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))


def allow_open_files(connections: int) -> None:
    """Have the kernel allow as many open files as the connections need, each with one to a server.

    Raises:
        RequestError: It may not.
    """
    wanted = 2 * connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise RequestError(
            f"{connections} connections need {wanted} open files, and this process may have {hard}",
            remedy=f"lower `listen.connections` to {max((hard - _OTHER_FILES) // 2, 1)}, or raise `ulimit -Hn`",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _answer(refusal: Refusal) -> bytes:
    """All of a response, for a connection that no request is read from."""
    body = refusal.text
    head = (
        f"HTTP/1.1 {refusal.status} Service Unavailable\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
