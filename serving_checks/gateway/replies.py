"""What was answered, read from the very bytes: off the client's way, for the pair that the shadow's copy makes."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from time import perf_counter

from configs.reading.json_text import parse_json
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


async def _read(answered: Answered) -> StreamedReply:
    body = answered.body or b""
    if "event-stream" in answered.content_type:
        return await read_answer(_lines(body))
    message = parse_json(body, of_model=True)
    if not isinstance(message, dict):
        raise ValueError("the answer is no JSON object")
    return whole_answer(message)


async def _lines(body: bytes) -> AsyncIterator[bytes]:
    for line in body.splitlines(keepends=True):
        yield line
