"""What was answered, read from the very bytes: off the client's way, for the pair that the shadow's copy makes."""

import zlib
from codecs import BOM_UTF8
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from time import perf_counter

from configs.reading.json_text import parse_json
from configs.reading.text import ANSWER_BYTES, too_long
from registry.contracts.reply import Reply
from serving_checks.gateway.asked import Asked
from serving_checks.gateway.upstream import Answered
from serving_checks.replay.answer_stream import StreamedReply, read_answer, whole_answer
from serving_checks.replay.prompts import Prompt, prompt_of_body

SHADOW_HEADERS = {"x-quantbench-shadow": "1"}
"""By which a server, or what is behind it, knows a copy that nobody waits for."""


def pairs(asked: Asked) -> bool:
    """Whether its answer can be one side of a pair: several answers to one prompt are not compared."""
    return asked.fields.get("n") in (None, 1) and asked.fields.get("best_of") in (None, 1)


def prompt_of(asked: Asked) -> Prompt:
    """The request as replay knows it. Raises NoRequest for what holds no text."""
    return prompt_of_body(asked.id, asked.fields)


async def reply_of(asked: Asked, answered: Answered) -> Reply:
    """An answer as replay knows it; what is none is a reply with an error."""
    known = {
        "id": asked.id,
        "status": answered.status,
        "sent_at": datetime.now(UTC) - timedelta(seconds=perf_counter() - answered.sent_at),
        "seconds": answered.ended_at - answered.sent_at,
    }
    if answered.status != 200:
        return Reply(**known, error=f"HTTP {answered.status}")
    try:
        read = await _read(answered)
    except ValueError as error:
        return Reply(**known, error=" ".join(str(error).split())[:300])
    told = {name: getattr(read, name) for name in StreamedReply._fields if name in Reply.model_fields}
    streamed = {"first_token_seconds": answered.first_byte_at - answered.sent_at} if asked.streams else {}
    return Reply(**known, **told, **streamed)


def no_reply(asked: Asked, sent_at: float, error: str) -> Reply:
    """That nothing came.

    Args:
        sent_at: By `time.perf_counter`.
        error: Why, in a line.
    """
    seconds = perf_counter() - sent_at
    began = datetime.now(UTC) - timedelta(seconds=seconds)
    return Reply(id=asked.id, sent_at=began, seconds=seconds, error=error)


async def _read(answered: Answered) -> StreamedReply:
    body = _unpacked(answered.body or b"", answered.encoding.lower())
    if "event-stream" in answered.content_type:
        return await read_answer(_lines(body))
    message = parse_json(body, of_model=True)
    if not isinstance(message, dict):
        raise ValueError("the answer is no JSON object")
    return whole_answer(message)


def _unpacked(body: bytes, encoding: str) -> bytes:
    """A server was asked for plain bytes; what stands before it may pack them all the same."""
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise ValueError("the answer is packed in a way that is not read here")
    # Both, told apart by their first bytes (zlib.net/manual.html, inflateInit2).
    reader = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        plain = reader.decompress(body, ANSWER_BYTES)
    except zlib.error:
        raise ValueError(f"the answer is not packed by {encoding}, as its header says") from None
    if reader.unconsumed_tail:
        raise too_long(ANSWER_BYTES)
    if not reader.eof:
        raise ValueError("the packed answer broke off")
    return plain


async def _lines(body: bytes) -> AsyncIterator[bytes]:
    for line in body.removeprefix(BOM_UTF8).splitlines(keepends=True):
        yield line
