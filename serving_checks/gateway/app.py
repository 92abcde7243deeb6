"""The gateway's HTTP surface: OpenAI's API in front of the champion, whose answers pass as they are."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Literal, NamedTuple

from aiohttp import web

from serving_checks.gateway.asked import CHAT, COMPLETIONS, Asked, check_key, read_asked, request_id_of
from serving_checks.gateway.config import ListenConfig
from serving_checks.gateway.connections import Connections, allow_open_files
from serving_checks.gateway.live_page import LIVE_PATHS, LivePage, page_response, status_response
from serving_checks.gateway.metrics import Metrics
from serving_checks.gateway.observed import Arm, Observed
from serving_checks.gateway.refusals import Refusal
from serving_checks.gateway.routing import Decision, Reason, Router, other_arm
from serving_checks.gateway.split import SplitConfig, drawn, routing_key
from serving_checks.gateway.standing import Answering, Standing
from serving_checks.gateway.upstream import Answered, Upstream

_READING = ("GET", "HEAD")
_HUNG_UP = 499
"""As nginx counts a client that did not wait for the answer."""
_ENDING_SECONDS = 30.0
"""For requests that are under way when the gateway is to end."""


class _Given(NamedTuple):
    """What a client got, from whom, and why."""

    response: web.StreamResponse
    answered: Answered | None
    """What `by` answered, which is an error where the champion helped out; None where it did not come to its end."""
    by: Arm
    upstream: Upstream
    reason: Reason | Literal[""]
    """Empty where nothing routed."""
    helped: bool = False
    """The champion answered in the candidate's place."""


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
        self.trial = ""
        """What the pairs of these two are evidence of."""
        self.verdict = b"{}"
        """JSON, as it was made when the pairs were judged last."""
        self.router: Router | None = None
        """Decides before the split does; None: nothing is routed."""
        self.standing = Standing(model, lambda: Answering(self.champion, self.candidate, self.split.share))
        self.metrics = Metrics(model, self.standing)
        self.live_page: LivePage | None = None
        """For people; None: none."""
        self._model, self._config, self._observe = model, config, observe
        self._created = int(time.time())

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        request_id = request_id_of(request)
        try:
            reading = request.method in _READING
            if reading and (open_to_all := self._open_to_all(request.path, request_id)):
                return open_to_all
            check_key(request, self._config.api_keys)
            if request.path in (COMPLETIONS, CHAT):
                return await self._complete(request, request_id)
            if reading and (shown := self._shown(request.path, request_id)):
                return shown
            raise Refusal(404, f"there is no {request.method} {request.path[:100]} here", "unknown_url")
        except Refusal as refusal:
            if refusal.asked_nobody:
                self.metrics.refused(request_id, refusal)
            return refusal.response(request_id)

    async def _complete(self, request: web.BaseRequest, request_id: str) -> web.StreamResponse:
        if request.method != "POST":
            raise Refusal(405, f"{request.path} is asked by POST")
        asked = await read_asked(request, request_id, self._model, self._config)
        began, trial, decision = time.perf_counter(), self.trial, self._decision(request, asked)
        given = await self._given(asked, request, decision)
        if given.reason:
            self.metrics.routed("champion" if given.helped else given.by, given.reason, time.perf_counter() - began)
        answered, of_candidate = given.answered, given.by == "candidate"
        if of_candidate:
            # Whatever it was: an error of the candidate's is one side of its pair.
            answered = answered or _no_answer(502, began)
        if answered is not None and answered.body is not None and (answered.status == 200 or of_candidate):
            version, why = given.upstream.version, given.reason
            self._observe(Observed(asked, answered, given.by, version, trial, None, why, decision.prompt_class))
        return given.response

    async def _given(self, asked: Asked, request: web.BaseRequest, decision: Decision) -> _Given:
        """The answer of who is to give it, or of the champion where that one has none."""
        by, reason = decision.arm or "champion", decision.reason
        if decision.cascade and self.router:
            upstream = self._upstream(by)
            try:
                tried = await self.router.tried(asked, upstream)
            except asyncio.CancelledError:
                self.metrics.failed(by, upstream.version, asked, _HUNG_UP)
                raise
            if tried.sure:
                self.metrics.answered(by, upstream.version, asked, tried.sure.answered)
                return _Given(*tried.sure, by, upstream, tried.reason)
            if tried.unsure:
                attempt = Observed(asked, tried.unsure, by, upstream.version, route=tried.reason, is_attempt=True)
                self._observe(attempt)
            by, reason = other_arm(by), tried.reason
        # Looked up only now: an alias may have moved meanwhile.
        upstream, sent_at = self._upstream(by), time.perf_counter()
        by = "champion" if upstream is self.champion else by
        try:
            return _Given(*await self._relayed(by, upstream, asked, request), by, upstream, reason)
        except Refusal as refusal:
            if by == "champion":
                raise
            # Whom the candidate was to answer has an answer all the same: nothing was sent yet.
            response, _ = await self._relayed("champion", self.champion, asked, request)
            answered = _no_answer(refusal.status, sent_at)
            return _Given(response, answered, by, upstream, reason and "failed", helped=True)

    def _upstream(self, arm: Arm) -> Upstream:
        """Who is that arm now; the champion where there is no candidate."""
        return self.candidate if arm == "candidate" and self.candidate else self.champion

    def _decision(self, request: web.BaseRequest, asked: Asked) -> Decision:
        """Who answers: as rules and the calibrated route say, else by the split."""
        if self.candidate is None:
            return Decision("champion")
        routed = self.router.decide(asked) if self.router else Decision(None)
        if routed.arm:
            return routed
        inside = drawn(routing_key(request, asked, self.split)) < self.split.share
        return routed._replace(arm="candidate" if inside else "champion")

    async def _relayed(
        self, by: Arm, upstream: Upstream, asked: Asked, request: web.BaseRequest
    ) -> tuple[web.StreamResponse, Answered | None]:
        """Relay, and count how it ended."""
        try:
            response, answered = await upstream.relay(asked, request)
        except Refusal as refusal:
            self.metrics.failed(by, upstream.version, asked, refusal.status)
            raise
        except (asyncio.CancelledError, ConnectionError):
            self.metrics.failed(by, upstream.version, asked, _HUNG_UP)
            raise
        if answered is None:
            self.metrics.failed(by, upstream.version, asked, 502)
        else:
            self.metrics.answered(by, upstream.version, asked, answered)
        return response, answered

    def _open_to_all(self, path: str, request_id: str) -> web.Response | None:
        """What holds no number, and so needs no key."""
        if path == "/health":
            return web.Response(headers={"x-request-id": request_id})
        if path in LIVE_PATHS and self.live_page is not None:
            return page_response(self.live_page, request_id)
        return None

    def _shown(self, path: str, request_id: str) -> web.Response | None:
        """What the gateway says of itself."""
        if path in ("/v1/models", f"/v1/models/{self._model}"):
            return self._models(path, request_id)
        if path == "/metrics":
            return web.Response(text=self.metrics.page(), headers={"x-request-id": request_id})
        if path == "/status":
            return status_response(self.standing, request_id)
        if path == "/verdict":
            headers = {"x-request-id": request_id}
            return web.Response(body=self.verdict, content_type="application/json", headers=headers)
        return None

    def _models(self, path: str, request_id: str) -> web.Response:
        one = {"id": self._model, "object": "model", "created": self._created, "owned_by": "quantbench"}
        body = {"object": "list", "data": [one]} if path == "/v1/models" else one
        return web.json_response(body, headers={"x-request-id": request_id})


def _no_answer(status: int, sent_at: float) -> Answered:
    now = time.perf_counter()
    return Answered(status, "", b"", sent_at, now, now)


@asynccontextmanager
async def listening(gateway: Gateway, config: ListenConfig) -> AsyncIterator[None]:
    """The gateway answers for the length of the block; what is under way at its end is answered.

    Raises:
        RequestError: This process may not open as many files.
    """
    allow_open_files(config.connections)
    runner = web.ServerRunner(Connections(gateway.handle, config), shutdown_timeout=_ENDING_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, config.host, config.port, backlog=1024).start()
        yield
    finally:
        await runner.cleanup()
