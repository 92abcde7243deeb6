"""A client's request, read and checked before anybody is asked."""

import asyncio
import hashlib
import hmac
import json
import re
import uuid
from collections.abc import Collection
from typing import Any, NamedTuple

from aiohttp import web
from aiohttp.http import HttpProcessingError, HttpVersion11

from configs.reading.json_text import parse_json
from serving_checks.gateway.config import ListenConfig
from serving_checks.gateway.refusals import Refusal

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
PASSED_ON = ("accept", "content-type", "traceparent", "tracestate", "user-agent")
"""Headers of a client that its server sees. Never its key, and nothing that could choose a server."""


class Asked(NamedTuple):
    """One request of either completions API."""

    id: str
    path: str
    headers: dict[str, str]
    """That are passed on."""
    body: bytes
    """As it came."""
    fields: dict[str, Any]
    """The body, read."""

    @property
    def streams(self) -> bool:
        """Whether the answer is wanted in pieces."""
        return self.fields.get("stream") is True

    def body_for(self, model: str) -> bytes:
        """The body with another name of the model; the very bytes where it is the same."""
        if self.fields.get("model") == model:
            return self.body
        return json.dumps({**self.fields, "model": model}, ensure_ascii=False).encode()


def request_id_of(request: web.BaseRequest) -> str:
    """The client's own, where it can stand in a log and a header; a new one else."""
    told = request.headers.get("x-request-id", "")
    return told if REQUEST_ID.fullmatch(told) else uuid.uuid4().hex


def check_key(request: web.BaseRequest, hashes: Collection[str]) -> None:
    """Raise Refusal for a client without a valid key."""
    if not hashes:
        return
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    mine = "sha256:" + hashlib.sha256(key.strip().encode(errors="surrogateescape")).hexdigest()
    # All are compared, each in constant time.
    known = [hmac.compare_digest(mine, one) for one in hashes]
    if scheme.casefold() != "bearer" or not any(known):
        raise Refusal(401, "the API key is missing or wrong: send it as `Authorization: Bearer KEY`", "invalid_api_key")


async def read_asked(request: web.BaseRequest, request_id: str, model: str, config: ListenConfig) -> Asked:
    """Read a request to its end.

    Args:
        model: The only one that clients may name.

    Raises:
        Refusal: It is too large, too slow, no JSON object, or names another model.
    """
    most = int(config.body_mib * 2**20)
    if (request.content_length or 0) > most:
        raise _too_large(config)
    await _expected(request)
    try:
        async with asyncio.timeout(config.body_seconds):
            body = await _gathered(request, most, config)
    except TimeoutError:
        raise Refusal(408, f"the request's body was not there within {config.body_seconds:g} s") from None
    except (web.RequestPayloadError, HttpProcessingError):
        raise Refusal(400, "the request's body is not in the encoding that its headers say", "invalid_http") from None
    try:
        fields = parse_json(body)
    except ValueError as error:
        raise Refusal(400, f"the request's body is no JSON that can be passed on: {error}", "invalid_json") from None
    if not isinstance(fields, dict):
        raise Refusal(400, "the request's body has to be a JSON object", "invalid_json")
    if fields.get("model") != model:
        raise Refusal(404, f"there is no such model here: name {model}", "model_not_found")
    # What is no ASCII could be written neither into a header nor into a frame.
    passed = {name: told for name in PASSED_ON if (told := request.headers.get(name)) and told.isascii()}
    # What is packed for the client could not be compared.
    passed |= {"x-request-id": request_id, "accept-encoding": "identity"}
    return Asked(request_id, request.path, passed, body, fields)


async def _expected(request: web.BaseRequest) -> None:
    """Ask for the body where the client waits to be asked (RFC 9110, section 10.1.1)."""
    expected = request.headers.get("expect")
    if expected is None or request.version < HttpVersion11:
        return
    if expected.lower() != "100-continue":
        raise Refusal(417, "this is not known here as an `Expect`")
    if request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


async def _gathered(request: web.BaseRequest, most: int, config: ListenConfig) -> bytes:
    parts, size = [], 0
    async for part in request.content.iter_any():
        size += len(part)
        if size > most:
            raise _too_large(config)
        parts.append(part)
    return b"".join(parts)


def _too_large(config: ListenConfig) -> Refusal:
    return Refusal(413, f"the request's body is larger than {config.body_mib:g} MiB", "request_too_large")
