"""The gateway's HTTP surface: OpenAI's API in front of the champion, whose answers pass as they are."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from serving_checks.gateway.asked import CHAT, COMPLETIONS, Asked, check_key, read_asked, request_id_of
from serving_checks.gateway.config import ListenConfig
from serving_checks.gateway.metrics import Metrics
from serving_checks.gateway.observed import Arm, Observed
from serving_checks.gateway.refusals import Refusal
from serving_checks.gateway.split import SplitConfig, drawn, routing_key
from serving_checks.gateway.upstream import Answered, Upstream

_HUNG_UP = 499
"""As nginx counts a client that did not wait for the answer."""
_ENDING_SECONDS = 30.0
"""For requests that are under way when the gateway is to end."""


class Gateway:
    """Answers clients.

    Args:
        model: The name that clients ask for.
        config: Who may ask, and how much.
        champion: Whose answers they get.
        observe: Gets each answer that a client has whole; returns at once.
        split: How clients are told apart.
    """

    def __init__(
        self,
        model: str,
        config: ListenConfig,
        champion: Upstream,
        observe: Callable[[Observed], object] = lambda observed: None,
        split: SplitConfig | None = None,
    ) -> None:
        self.champion = champion
        self.candidate: Upstream | None = None
        """Answers a share of the clients; None: none."""
        self.split = split or SplitConfig()
        self.metrics = Metrics(model)
        self._model, self._config, self._observe = model, config, observe
        self._created = int(time.time())

    async def swap(self, champion: Upstream) -> None:
        """Give all that comes from now on to another server, and wait for what the old one was asked."""
        old, self.champion = self.champion, champion
        await old.drained()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        request_id = request_id_of(request)
        try:
            if request.method == "GET" and request.path == "/health":
                return web.Response(headers={"x-request-id": request_id})
            check_key(request, self._config.api_keys)
            if request.path in (COMPLETIONS, CHAT):
                return await self._complete(request, request_id)
            if request.method == "GET" and request.path in ("/v1/models", f"/v1/models/{self._model}"):
                return self._models(request, request_id)
            if request.method == "GET" and request.path == "/metrics":
                return web.Response(text=self.metrics.page(), headers={"x-request-id": request_id})
            raise Refusal(404, f"there is no {request.method} {request.path[:100]} here", "unknown_url")
        except Refusal as refusal:
            return refusal.response(request_id)

    async def _complete(self, request: web.BaseRequest, request_id: str) -> web.StreamResponse:
        if request.method != "POST":
            raise Refusal(405, f"{request.path} is asked by POST")
        asked = await read_asked(request, request_id, self._model, self._config)
        champion, candidate = self.champion, self.candidate
        by: Arm = "champion"
        by_version = champion.version
        if candidate is not None and drawn(routing_key(request, asked, self.split)) < self.split.share:
            try:
                response, answered = await self._relayed(candidate, asked, request)
                by, by_version = "candidate", candidate.version
            except Refusal:
                # Whoever is in the candidate's share has an answer all the same: nothing was sent yet.
                response, answered = await self._relayed(champion, asked, request)
        else:
            response, answered = await self._relayed(champion, asked, request)
        if answered is not None and answered.body is not None and answered.status == 200:
            self._observe(Observed(asked, answered, by, by_version))
        return response

    async def _relayed(
        self, upstream: Upstream, asked: Asked, request: web.BaseRequest
    ) -> tuple[web.StreamResponse, Answered | None]:
        """Relay, and count how it ended."""
        try:
            response, answered = await upstream.relay(asked, request)
        except Refusal as refusal:
            self.metrics.refused(upstream.version, refusal.status)
            raise
        except asyncio.CancelledError:
            self.metrics.refused(upstream.version, _HUNG_UP)
            raise
        if answered is None:
            self.metrics.refused(upstream.version, 502)
        else:
            first = answered.first_byte_at - answered.sent_at if asked.streams else None
            self.metrics.answered(upstream.version, answered.status, answered.ended_at - answered.sent_at, first)
        return response, answered

    def _models(self, request: web.BaseRequest, request_id: str) -> web.Response:
        one = {"id": self._model, "object": "model", "created": self._created, "owned_by": "quantbench"}
        listed = request.path == "/v1/models"
        body = {"object": "list", "data": [one]} if listed else one
        return web.json_response(body, headers={"x-request-id": request_id})


@asynccontextmanager
async def listening(gateway: Gateway, config: ListenConfig) -> AsyncIterator[None]:
    """The gateway answers for the length of the block; what is under way at its end is answered."""
    # A client that hangs up ends what is done for it, so that its server computes no answer that nobody reads.
    server = web.Server(gateway.handle, handler_cancellation=True, access_log=None)
    runner = web.ServerRunner(server, shutdown_timeout=_ENDING_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, config.host, config.port, backlog=1024).start()
        yield
    finally:
        await runner.cleanup()


async def until_cancelled() -> None:
    """Wait for ever."""
    await asyncio.Event().wait()
