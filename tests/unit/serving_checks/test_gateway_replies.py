"""Answers that passed the gateway, read for their pairs: whole or streamed, chat or not, and what is none."""

import asyncio
import json
from typing import Any

import pytest

from registry.contracts.reply import Reply
from serving_checks.gateway.asked import CHAT, COMPLETIONS, Asked
from serving_checks.gateway.replies import pairs, prompt_of, reply_of
from serving_checks.gateway.upstream import Answered
from serving_checks.replay.log_formats import NoRequest

CALL = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}


def asked(path: str = COMPLETIONS, **fields: Any) -> Asked:
    body = {"model": "demo", "prompt": "one"} | fields
    return Asked("id", path, {}, json.dumps(body).encode(), body)


def replied(one: Asked, body: bytes, kind: str = "application/json", status: int = 200) -> Reply:
    answered = Answered(status, kind, body, 10.0, 10.25, 11.5)
    return asyncio.run(reply_of(one, answered))


def test_a_whole_answer() -> None:
    body = {
        "choices": [{"text": " two", "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1},
    }
    found = replied(asked(), json.dumps(body).encode())
    assert (found.text, found.finish_reason, found.prompt_tokens, found.completion_tokens) == (" two", "stop", 3, 1)
    assert (found.seconds, found.first_token_seconds, found.error) == (1.5, None, "")


def test_a_whole_conversation_with_tools() -> None:
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [CALL, CALL | {"function": {"name": "b", "arguments": "{}"}}],
    }
    body = {"choices": [{"message": message, "finish_reason": "tool_calls"}]}
    found = replied(asked(CHAT, messages=[{"role": "user", "content": "add"}]), json.dumps(body).encode())
    assert [(call.name, call.arguments) for call in found.tool_calls] == [("add", '{"a": 1}'), ("b", "{}")]


def test_a_stream_is_the_same_answer() -> None:
    events = [{"choices": [{"delta": {"content": piece}, "finish_reason": None}]} for piece in ("two", " three")]
    events.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    body = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"
    found = replied(asked(CHAT, stream=True), body, "text/event-stream; charset=utf-8")
    assert (found.text, found.first_token_seconds, found.error) == ("two three", 0.25, "")


@pytest.mark.parametrize(
    ("body", "kind", "status", "said"),
    [
        (b"{}", "application/json", 500, "HTTP 500"),
        (b"not json", "application/json", 200, "JSON"),
        (b"[1]", "application/json", 200, "no JSON object"),
        (b'{"choices": [1]}', "application/json", 200, "not that of an OpenAI-compatible server"),
        (b'{"choices": [{"text": "half"}]}', "application/json", 200, "broke off"),
        (b'data: {"choices": [{"text": "half"}]}\n\n', "text/event-stream", 200, "broke off"),
        (b'data: {"choices": [{"te', "text/event-stream", 200, "JSON"),
        (b"", "application/json", 200, "JSON"),
    ],
)
def test_what_is_no_answer_is_an_error(body: bytes, kind: str, status: int, said: str) -> None:
    found = replied(asked(), body, kind, status)
    assert said in found.error
    assert found.text == ""


def test_what_pairs() -> None:
    assert pairs(asked())
    assert pairs(asked(n=1))
    assert not pairs(asked(n=2))
    assert not pairs(asked(best_of=3))
    assert prompt_of(asked(temperature=0.5)).body == {"prompt": "one", "temperature": 0.5}
    with pytest.raises(NoRequest):
        prompt_of(asked(prompt=[[1, 2], [3]]))
