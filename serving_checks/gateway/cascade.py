"""The cheap artifact's answer, asked with its log-probabilities, and given to the client only where it is sure enough.

Nothing of it can go to the client before it is whole. So a sure answer comes at once and not piece by piece, and an
unsure one costs its time. Of the gateway's process this takes the reading of an answer, which a relayed one does not.
"""

import asyncio
import json
import math
from typing import Any, Literal, NamedTuple

import aiohttp
from aiohttp import web

from configs.reading.json_text import parse_json
from serving_checks.gateway.asked import CHAT, Asked
from serving_checks.gateway.replies import reply_of
from serving_checks.gateway.upstream import Answered, Upstream


class Sure(NamedTuple):
    """An answer that a client gets."""

    response: web.Response
    """As the client asked for it."""
    answered: Answered
    """With its log-probabilities."""


class Tried(NamedTuple):
    """What came of asking the cheap one."""

    reason: Literal["confident", "unsure", "failed"]
    sure: Sure | None = None
    """Where it is confident."""
    unsure: Answered | None = None
    """What it answered where it is not: nobody gets it, and it was computed all the same."""


async def try_cheap(asked: Asked, cheap: Upstream, threshold: float, patience_seconds: float) -> Tried:
    """Ask the cheap one for the whole of its answer.

    Args:
        threshold: Least mean log-probability of a token, in nats, of a sure answer.
        patience_seconds: From sending to the answer's end.
    """
    try:
        async with asyncio.timeout(patience_seconds):
            answered = await cheap.fetch(with_logprobs(asked), {})
        reply = await reply_of(asked, answered)
        if reply.error:
            return Tried("failed")
        # An engine that tells none was not sure.
        if not reply.logprobs or not math.fsum(reply.logprobs) / len(reply.logprobs) >= threshold:
            return Tried("unsure", unsure=answered)
        return Tried("confident", Sure(_response_of(asked, answered), answered))
    except (OSError, TimeoutError, aiohttp.ClientError, ValueError):
        return Tried("failed")


def _response_of(asked: Asked, answered: Answered) -> web.Response:
    """Raises ValueError where what is behind the answer's end is no JSON."""
    body = (answered.body or b"") if _asks_logprobs(asked) else without_logprobs(answered)
    headers = {"content-type": answered.content_type or "application/json", "x-request-id": asked.id}
    return web.Response(body=body, headers=headers)


def with_logprobs(asked: Asked) -> Asked:
    """The request with the log-probability of each token of the answer asked for; as it is where it asks for more."""
    if _asks_logprobs(asked):
        return asked
    fields = asked.fields | ({"logprobs": True} if asked.path == CHAT else {"logprobs": 0})
    return asked._replace(fields=fields, body=json.dumps(fields, ensure_ascii=False).encode())


def without_logprobs(answered: Answered) -> bytes:
    """An answer's bytes as the same server gives them where no log-probabilities are asked for.

    Raises:
        ValueError: It is no JSON.
    """
    body = answered.body or b""
    if "event-stream" not in answered.content_type:
        return _written(_stripped(parse_json(body, of_model=True)))
    return b"".join(_event_without(line) for line in body.splitlines(keepends=True))


def _event_without(line: bytes) -> bytes:
    if not line.startswith(b"data:") or line[5:].strip() == b"[DONE]":
        return line
    ending = line[len(line.rstrip(b"\r\n")) :]
    return b"data: " + _written(_stripped(parse_json(line[5:], of_model=True))) + ending


def _stripped(message: Any) -> Any:
    """vLLM and OpenAI say `"logprobs": null` where none were asked for."""
    if isinstance(message, dict):
        for choice in message.get("choices") or []:
            if isinstance(choice, dict) and "logprobs" in choice:
                choice["logprobs"] = None
    return message


def _written(message: Any) -> bytes:
    # A model may have said half of a surrogate pair, which stands in JSON and in no bytes.
    return json.dumps(message, separators=(",", ":")).encode()


def _asks_logprobs(asked: Asked) -> bool:
    told = asked.fields.get("logprobs")
    return bool(told) if asked.path == CHAT else told is not None and told is not False
