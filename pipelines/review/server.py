"""The live review page: HTML, data and reports for this machine's own browsers, and decisions where they are allowed.

Whoever asks has to name this very server (a name that was pointed at loopback, DNS rebinding, is refused); a decision
also needs a key, the token that only the page was given, and to come from the page itself.
"""

import asyncio
import hashlib
import hmac
import secrets
import time
from collections import deque
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

from aiohttp import web
from pydantic import Field, StringConstraints, ValidationError

from configs.base import StrictModel
from configs.errors import QuantbenchError, UnreadableError
from configs.reading.json_text import parse_json
from configs.reading.text import read_bytes
from pipelines.records.run_record import result_files
from pipelines.review.page_data import Deciding, PageData, RunDetail
from pipelines.review.short_json import short_json
from pipelines.review.workspace_runs import REPORT_FILE
from registry.contracts.base import Record
from registry.sealed import DamagedFile
from serving_checks.gateway.asked import check_key
from serving_checks.gateway.config import KeyHash, ListenConfig
from serving_checks.gateway.connections import Connections
from serving_checks.gateway.refusals import Refusal

_MOST_BODY_BYTES = 64 << 10
_BODY_SECONDS = 10.0
_MOST_REPORT_BYTES = 64 << 20
_WRONG_KEYS, _WRONG_KEY_SECONDS = 5, 60.0
"""So many wrong keys within so long, and none is looked at any more: nobody types faster, and programs guess."""
_OF_ALL = {
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
}
_OF_PAGE = "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
"""What a page cannot forbid by itself; the rest of its policy stands in it."""
_OF_REPORT = f"sandbox allow-scripts; {_OF_PAGE}"
"""An origin of its own: whatever a report holds cannot speak to this server."""

_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000)]
_Short = Annotated[str, Field(max_length=250)]


class Decision(StrictModel):
    """The body of `POST /decide`."""

    action: Literal["approve", "reject", "promote", "rollback"]
    run: _Short
    """Its id: the recipe in it says which registered model and which policy are meant."""
    name: _Short | None = None
    """Of the model in the run; None for a rollback."""
    alias: _Short | None = None
    """For promote and rollback."""
    why: _Text
    csrf_token: _Short
    seen: _Short | None
    """Digest of the ledger's newest row of the registered model, as the page showed it; None without any."""


class DecisionError(Exception):
    """Why a request gets no answer, for whoever reads the page.

    Args:
        status: Of HTTP.
        message: What is wrong.
        remedy: What to do next.
    """

    def __init__(self, status: int, message: str, remedy: str) -> None:
        super().__init__(message)
        self.status, self.message, self.remedy = status, message, remedy

    @property
    def response(self) -> web.Response:
        """The answer, as JSON."""
        told = {"message": self.message, "remedy": self.remedy}
        headers = {"www-authenticate": "Bearer"} if self.status == 401 else {}
        return web.json_response(told, status=self.status, headers={**_OF_ALL, **headers})


class Decider(NamedTuple):
    """Who may decide, and who does what was decided."""

    keys: Collection[KeyHash]
    offers: Callable[[str], Deciding]
    """What a reader may do, with the token that goes back with it."""
    decide: Callable[[Decision], Record]
    """Takes its time, in a thread; raises QuantbenchError."""


class _Shown(NamedTuple):
    """The page as it was made last."""

    mark: object
    """What it was made of."""
    html: bytes
    data: bytes
    etag: str


class ReviewServer:
    """Answers browsers.

    Args:
        root: The workspace's folder.
        port: That it listens on.
        mark: Of all that is shown, cheap to take; equal while nothing changed.
        collect: Makes the data anew.
        detail: Of one run; raises LookupError and DamagedFile.
        draw: The page of the data.
        decider: None: nothing can be decided.
    """

    def __init__(
        self,
        root: Path,
        port: int,
        mark: Callable[[], object],
        collect: Callable[[Deciding | None], PageData],
        detail: Callable[[str], RunDetail],
        draw: Callable[[PageData], str],
        decider: Decider | None = None,
    ) -> None:
        self._root, self._port = root, port
        self._mark, self._collect, self._detail, self._draw = mark, collect, detail, draw
        self._decider, self._token = decider, secrets.token_urlsafe(32)
        self._wrong_keys: deque[float] = deque(maxlen=_WRONG_KEYS)
        self._making, self._deciding = asyncio.Lock(), asyncio.Lock()
        self._shown: _Shown | None = None

    @property
    def listen(self) -> ListenConfig:
        """Where it answers."""
        return ListenConfig(port=self._port, connections=100)

    @property
    def connections(self) -> Connections:
        """What aiohttp serves."""
        return Connections(self.handle, self.listen)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        try:
            if not self._is_mine(f"//{request.headers.get('host', '')}"):
                remedy = f"open http://127.0.0.1:{self._port}/"
                raise DecisionError(421, "this is not a name by which the review page is reached", remedy)
            if request.path == "/decide":
                return await self._decide(request)
            if request.method not in ("GET", "HEAD"):
                raise DecisionError(405, f"{request.path[:100]} is only read", "use GET")
            return await self._read(request)
        except DecisionError as error:
            return error.response
        except QuantbenchError as error:
            return DecisionError(500, error.what, error.remedy).response

    def _is_mine(self, address: str) -> bool:
        try:
            place = urlsplit(address)
            return place.hostname in ("127.0.0.1", "localhost", "::1") and place.port == self._port
        except ValueError:
            return False

    async def _read(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path in ("/", "/index.html"):
            shown = await self._page()
            headers = {"content-type": "text/html; charset=utf-8", "content-security-policy": _OF_PAGE}
            return web.Response(body=shown.html, headers={**_OF_ALL, **headers})
        if request.path == "/data.json":
            return await self._data(request)
        if request.path == "/run.json":
            return await self._run(request.query.get("id", ""))
        parts = [unquote(part) for part in request.rel_url.raw_path.split("/")]
        if len(parts) == 4 and parts[1] == "runs" and parts[3] == REPORT_FILE:
            return await asyncio.to_thread(self._report, parts[2])
        raise DecisionError(404, f"there is no {request.path[:100]} here", "begin at /")

    async def _data(self, request: web.BaseRequest) -> web.Response:
        shown = await self._page()
        # A browser that asks again has to be told that nothing changed, so it may keep what it has.
        headers = {**_OF_ALL, "cache-control": "no-cache", "etag": shown.etag}
        if shown.etag in request.headers.get("if-none-match", ""):
            return web.Response(status=304, headers=headers)
        return web.Response(body=shown.data, content_type="application/json", headers=headers)

    async def _run(self, run_id: str) -> web.Response:
        try:
            found = await asyncio.to_thread(self._detail, run_id)
        except LookupError:
            raise DecisionError(404, f"no finished run is called {run_id[:100]}", "load the page again") from None
        except DamagedFile as error:
            raise DecisionError(500, str(error), "run its recipe again: what was measured is kept") from None
        return web.Response(text=short_json(found), content_type="application/json", headers=_OF_ALL)

    def _report(self, run_id: str) -> web.Response:
        """Of a run that is there: a name that is none of theirs leads nowhere."""
        known = {file.run_id: file.path for file in result_files(self._root)}
        try:
            report = known[run_id].with_name(REPORT_FILE)
            # A run writes a file; a link may lead anywhere.
            if report.is_symlink():
                raise OSError(f"{report} is a link")
            html = read_bytes(report, _MOST_REPORT_BYTES)
        except (KeyError, OSError, UnreadableError):
            raise DecisionError(404, f"run {run_id[:100]} has no report", "load the page again") from None
        headers = {"content-type": "text/html; charset=utf-8", "content-security-policy": _OF_REPORT}
        return web.Response(body=html, headers={**_OF_ALL, **headers})

    async def _page(self) -> _Shown:
        """Made anew where something changed."""
        async with self._making:
            self._shown = await asyncio.to_thread(self._made, self._shown)
            return self._shown

    def _made(self, before: _Shown | None) -> _Shown:
        mark = self._mark()
        if before is not None and before.mark == mark:
            return before
        data = self._collect(self._decider.offers(self._token) if self._decider else None)
        told = hashlib.sha256(data.model_dump_json(exclude={"written_at"}).encode()).hexdigest()
        return _Shown(mark, self._draw(data).encode(), short_json(data).encode(), f'"{told}"')

    async def _decide(self, request: web.BaseRequest) -> web.Response:
        if self._decider is None:
            raise DecisionError(403, "this page decides nothing", "start it with --decide, which needs a key")
        if request.method != "POST":
            raise DecisionError(405, "decisions are sent", "use POST")
        self._check_origin(request)
        self._check_key(request, self._decider)
        decision = await _read_decision(request)
        if not hmac.compare_digest(decision.csrf_token.encode(), self._token.encode()):
            raise DecisionError(403, "the page is of an earlier start of this server", "load the page again")
        # One after the other: the second sees what the first has written.
        async with self._deciding:
            try:
                written = await asyncio.to_thread(self._decider.decide, decision)
            except QuantbenchError as error:
                raise DecisionError(409, error.what, error.remedy) from error
        return web.Response(text=written.model_dump_json(), content_type="application/json", headers=_OF_ALL)

    def _check_origin(self, request: web.BaseRequest) -> None:
        """Raise DecisionError for what another site's page has sent."""
        origin = request.headers.get("origin")
        foreign = origin is not None and not self._is_mine(origin)
        if foreign or request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise DecisionError(403, "this was sent by another site's page", "decide on the review page itself")
        if request.content_type != "application/json":
            raise DecisionError(415, "a decision is JSON", "send it as application/json")

    def _check_key(self, request: web.BaseRequest, decider: Decider) -> None:
        now = time.monotonic()
        recent = [at for at in self._wrong_keys if now - at < _WRONG_KEY_SECONDS]
        if len(recent) >= _WRONG_KEYS:
            wait = f"wait {_WRONG_KEY_SECONDS:.0f} s; the key is the one that this server was started with"
            raise DecisionError(429, f"{_WRONG_KEYS} keys were wrong", wait)
        try:
            check_key(request, decider.keys)
        except Refusal:
            self._wrong_keys.append(now)
            remedy = "type the key that this server was started with"
            raise DecisionError(401, "the key is missing or wrong", remedy) from None


async def _read_decision(request: web.BaseRequest) -> Decision:
    too_large = DecisionError(413, "that is too large for a decision", "give a shorter reason")
    if (request.content_length or 0) > _MOST_BODY_BYTES:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for part in request.content.iter_any():
                body += part
                if len(body) > _MOST_BODY_BYTES:
                    raise too_large
        return Decision.model_validate(parse_json(bytes(body)))
    except TimeoutError:
        raise DecisionError(408, f"the decision was not there within {_BODY_SECONDS:g} s", "send it again") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise DecisionError(
            400, f"`{place}`: {first['msg']}", "load the page again, and say why in a sentence"
        ) from None
    except ValueError as error:
        raise DecisionError(400, f"this is no decision: {error}", "load the page again") from None
