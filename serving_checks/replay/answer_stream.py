"""A streamed answer of the chat or the completions API, put together from its pieces."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterable
from typing import Any, NamedTuple

from configs.reading.json_text import parse_json
from configs.reading.text import ANSWER_BYTES, too_long
from registry.contracts.reply import ToolCall

_SHOWN_CHARACTERS = 300
"""Of an error that comes amid an answer."""


class StreamedReply(NamedTuple):
    """What a stream held; times are of `time.perf_counter`."""

    first_piece_at: float | None
    """None where the answer is empty."""
    ended_at: float
    text: str
    tool_calls: list[ToolCall]
    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None
    prompt_token_ids: list[int] | None
    token_ids: list[int] | None
    logprobs: list[float] | None


class BrokenStream(ValueError):
    """The answer is not whole; the text says how."""


async def read_answer(lines: AsyncIterable[bytes]) -> StreamedReply:
    """Read a streamed answer to its end: server-sent events, one `data:` line each, as `transport.streaming` does.

    Args:
        lines: Of the response's body.

    Raises:
        BrokenStream: It tells an error, breaks off or is no such stream.
        ValueError: It is no JSON, or too large.
    """
    answer, size = _Answer(), 0
    async for line in lines:
        size += len(line)
        if size > ANSWER_BYTES:
            raise too_long(ANSWER_BYTES)
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            answer.ended = True
            break
        try:
            answer.take(parse_json(data, of_model=True))
        except (LookupError, TypeError, AttributeError) as error:
            raise BrokenStream(f"the stream is not that of an OpenAI-compatible server: {error!r}") from error
    return answer.complete()


def whole_answer(message: dict[str, Any]) -> StreamedReply:
    """An answer that came at once, as the same answer in pieces.

    Raises:
        BrokenStream: It tells an error, or is none.
    """
    answer = _Answer()
    try:
        choices = [choice | {"delta": _numbered(choice.get("message") or {})} for choice in message["choices"]]
        answer.take(message | {"choices": choices})
    except (LookupError, TypeError, AttributeError) as error:
        raise BrokenStream(f"the answer is not that of an OpenAI-compatible server: {error!r}") from error
    return answer.complete()


def _numbered(message: dict[str, Any]) -> dict[str, Any]:
    """Tool calls of a whole message stand in their order, those of pieces say which they belong to."""
    calls = message.get("tool_calls") or []
    return message | {"tool_calls": [call | {"index": place} for place, call in enumerate(calls)]}


class _Answer:
    """What has come so far."""

    def __init__(self) -> None:
        self.ended = False
        self._first_piece_at: float | None = None
        self._texts: list[str] = []
        self._calls: dict[int, list[str]] = {}
        """Place -> name, then the pieces of its arguments."""
        self._finish_reason = ""
        self._usage: dict[str, Any] = {}
        self._prompt_ids: list[int] | None = None
        self._ids: list[int] = []
        self._logprobs: list[float] = []

    def take(self, message: dict[str, Any]) -> None:
        """Add one event's message."""
        if "error" in message:
            raise BrokenStream(" ".join(str(message["error"]).split())[:_SHOWN_CHARACTERS])
        self._usage = message.get("usage") or self._usage
        # The chat API has them beside the choices, the completions API within (vLLM).
        self._prompt_ids = message.get("prompt_token_ids") or self._prompt_ids
        for choice in message["choices"]:
            self._take_choice(choice)

    def _take_choice(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta") or {}
        text, calls = choice.get("text") or delta.get("content") or "", delta.get("tool_calls") or []
        ids = choice.get("token_ids") or []
        # A reasoning model's thoughts are no part of its answer, and end its time to first token.
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if self._first_piece_at is None and (text or calls or ids or thought):
            self._first_piece_at = time.perf_counter()
        self._texts.append(text)
        self._ids += ids
        self._logprobs += _logprobs_of(choice.get("logprobs"))
        self._prompt_ids = choice.get("prompt_token_ids") or self._prompt_ids
        for call in calls:
            function = call.get("function") or {}
            parts = self._calls.setdefault(int(call.get("index", 0)), [""])
            parts[0] = parts[0] or function.get("name") or ""
            parts.append(function.get("arguments") or "")
        self._finish_reason = choice.get("finish_reason") or self._finish_reason
        # Not every engine sends [DONE].
        self.ended = self.ended or bool(self._finish_reason)

    def complete(self) -> StreamedReply:
        """All of it; raises BrokenStream where the end is missing."""
        ended_at = time.perf_counter()
        if not self.ended:
            raise BrokenStream("the stream broke off before the answer's end")
        text = "".join(self._texts)
        calls = [
            ToolCall(name=_readable(parts[0]), arguments=_readable("".join(parts[1:])))
            for _, parts in sorted(self._calls.items())
        ]
        told = _count(self._usage.get("completion_tokens"), least=int(bool(text or calls)))
        # One for each token, or they are not of this answer; servers that tell no ids may tell how many there are.
        tokens = len(self._ids) or told or len(self._logprobs)
        told_all = len(self._logprobs) == tokens and all(map(math.isfinite, self._logprobs))
        return StreamedReply(
            first_piece_at=self._first_piece_at,
            ended_at=ended_at,
            text=_readable(text),
            tool_calls=calls,
            finish_reason=_readable(self._finish_reason),
            prompt_tokens=_count(self._usage.get("prompt_tokens"), least=1),
            completion_tokens=len(self._ids) or told,
            prompt_token_ids=self._prompt_ids,
            token_ids=self._ids or None,
            logprobs=self._logprobs if self._logprobs and told_all else None,
        )


def _logprobs_of(told: dict[str, Any] | None) -> list[float]:
    """Of each token of a choice: `content` of the chat API, `token_logprobs` of the completions API."""
    if not told:
        return []
    values = told["token_logprobs"] if "token_logprobs" in told else [one["logprob"] for one in told["content"] or []]
    # The first token of a prompt that is told again has none.
    return [math.nan if value is None else float(value) for value in values]


def _count(told: Any, least: int) -> int | None:
    """A number of tokens that can be true; None for any other, since a wrong one would be summed up with others."""
    return told if type(told) is int and told >= least else None


def _readable(text: str) -> str:
    """A model's text as one that can be written down: half of a surrogate pair is none."""
    return text.encode(errors="replace").decode()
