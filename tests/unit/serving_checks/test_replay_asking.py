"""One prompt at one server: what is sent, what is read of a stream, and what goes wrong."""

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import pytest

from configs.errors import RequestError
from registry.contracts import Endpoint, Reply
from serving_checks.engines.base import Engine
from serving_checks.engines.table import engine_type
from serving_checks.replay import asking
from serving_checks.replay.asking import EndpointGone, ForcedScore, ReplayClient
from serving_checks.replay.config import AskingConfig
from serving_checks.replay.prompts import Prompt
from tests.scripted_server import Scripted, echo, scripted_server, text_events

PLAIN = engine_type("openai")(
    engine_type("openai").config_type.model_validate(
        {"engine": "openai", "base_url": "http://127.0.0.1:9", "served_model_name": "model"}
    )
)
TELLING = engine_type("vllm")(engine_type("vllm").config_type.model_validate({}))
"""Takes token ids and gives log-probabilities."""
KEY = "a-key-that-must-not-be-seen"


def prompt(body: dict[str, Any] | None = None, number: int = 0) -> Prompt:
    body = body or {"prompt": "Once upon a time"}
    return Prompt(f"id-{number}", number, "messages" in body, body, str(body), "sha256:b", "", None)


def asked(endpoint: Endpoint, one: Prompt | None = None, engine: Engine = PLAIN, **config: Any) -> Reply:
    async def work() -> Reply:
        async with ReplayClient(endpoint, engine, AskingConfig.model_validate(config)) as client:
            return await client.ask(one or prompt())

    return asyncio.run(work())


def answered(scripted: Scripted, one: Prompt | None = None, engine: Engine = PLAIN, **config: Any) -> Reply:
    with scripted_server(lambda path, body: scripted) as (endpoint, _):
        return asked(endpoint, one, engine, **config)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(asking, "_PAUSES_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(asking, "_ALIVE_ATTEMPTS", 1)
    yield


def test_what_is_sent_is_the_body_and_what_makes_answers_comparable() -> None:
    chat = {"messages": [{"role": "user", "content": "hi"}], "temperature": 0.9, "seed": 5, "tools": [], "top_p": 0.5}
    with scripted_server() as (endpoint, script):
        asked(endpoint, prompt(chat), max_output_tokens=7)
        asked(endpoint, prompt(chat | {"max_completion_tokens": 3}), sampling="as logged", seed=11)
        asked(endpoint, prompt({"prompt": "a", "max_tokens": None}), TELLING)
        asked(
            endpoint, prompt({"prompt": "a", "max_tokens": 2, "repetition_penalty": 1.2}), TELLING, score_answers=True
        )
    common = {"model": "model", "stream": True, "stream_options": {"include_usage": True}}
    assert script.bodies == [
        chat | common | {"temperature": 0.0, "max_tokens": 7},
        chat | common | {"seed": 11, "max_completion_tokens": 3},
        common
        | {"prompt": "a", "max_tokens": 512, "temperature": 0.0, "repetition_penalty": 1.0, "return_token_ids": True},
        common
        | {"prompt": "a", "max_tokens": 2, "temperature": 0.0, "repetition_penalty": 1.2, "return_token_ids": True}
        | {"logprobs": 0},
    ]


def test_a_text_is_put_together_and_timed() -> None:
    events = text_events("Hel", "lo ", "you", prompt_tokens=5, completion_tokens=3)
    found = answered(Scripted(events, pause_seconds=0.01))
    assert (found.text, found.finish_reason, found.status, found.error) == ("Hello you", "stop", 200, "")
    assert (found.prompt_tokens, found.completion_tokens) == (5, 3)
    assert found.first_token_seconds is not None and found.seconds is not None
    assert 0 < found.first_token_seconds < found.seconds
    assert found.token_ids is None and found.logprobs is None


def test_tool_calls_are_put_together_from_their_pieces() -> None:
    pieces: list[dict[str, Any]] = [
        {"role": "assistant", "content": ""},
        {"tool_calls": [{"index": 0, "id": "x", "function": {"name": "weather", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"place": '}}]},
        {"tool_calls": [{"index": 1, "function": {"name": "time", "arguments": "{}"}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '"Rome"}'}}]},
    ]
    events = [{"choices": [{"delta": piece}]} for piece in pieces]
    events.append({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]})
    found = answered(Scripted(events), prompt({"messages": [{"role": "user", "content": "hi"}]}))
    assert found.error == "" and found.finish_reason == "tool_calls"
    assert [(call.name, call.arguments) for call in found.tool_calls] == [
        ("weather", '{"place": "Rome"}'),
        ("time", "{}"),
    ]


@pytest.mark.parametrize("chat", [False, True])
def test_tokens_and_log_probabilities_are_read_as_both_apis_tell_them(chat: bool) -> None:
    def choice(ids: list[int], values: list[float], **more: Any) -> dict[str, Any]:
        told = {"content": [{"logprob": value} for value in values]} if chat else {"token_logprobs": values}
        said = {"delta": {"content": "a" * len(ids)}} if chat else {"text": "a" * len(ids)}
        return said | {"token_ids": ids, "logprobs": told} | more

    first = {"prompt_token_ids": [1, 2]} if chat else {}
    of_choice = {} if chat else {"prompt_token_ids": [1, 2]}
    events = [
        {"choices": [choice([7], [-0.5], **of_choice)], **first},
        {"choices": [choice([8, 9], [-1.0, 0.0], finish_reason="length")]},
        {"choices": [], "usage": {"completion_tokens": 3, "prompt_tokens": 2}},
    ]
    body = {"messages": [{"role": "user", "content": "hi"}]} if chat else None
    found = answered(Scripted(events), prompt(body))
    assert (found.prompt_token_ids, found.token_ids, found.logprobs) == ([1, 2], [7, 8, 9], [-0.5, -1.0, 0.0])


@pytest.mark.parametrize("told", [True, "3", -1, 0, 2.5, None, {"a": 1}])
def test_a_usage_that_cannot_be_is_not_known(told: Any) -> None:
    found = answered(Scripted(text_events("a", "b", prompt_tokens=0, completion_tokens=told)))
    assert (found.text, found.completion_tokens, found.prompt_tokens) == ("ab", None, None)


def test_tokens_that_were_seen_are_more_than_a_usage_that_lies() -> None:
    events = text_events("a", "b", completion_tokens=99, prompt_tokens=1)
    events[0]["choices"][0]["token_ids"], events[1]["choices"][0]["token_ids"] = [5], [6]
    events[0]["choices"][0]["logprobs"] = {"token_logprobs": [-0.1]}
    found = answered(Scripted(events))
    assert (found.completion_tokens, found.token_ids) == (2, [5, 6])
    # One log-probability for two tokens is of neither.
    assert found.logprobs is None


def test_what_no_text_can_hold_is_replaced() -> None:
    assert answered(Scripted(text_events("a\ud800", "b"))).text == "a?b"


def test_an_answer_without_a_token_is_an_answer() -> None:
    found = answered(Scripted([{"choices": [{"text": "", "finish_reason": "stop"}]}], end="finish"))
    assert (found.error, found.text, found.first_token_seconds) == ("", "", None)


@pytest.mark.parametrize(
    ("scripted", "says"),
    [
        (Scripted(text_events("a", "b")[:1], end="break"), "Payload"),
        (Scripted(text_events("a", "b")[:1], end="finish"), "Payload|broke off before"),
        (Scripted([{"error": {"message": "out of memory"}}]), "out of memory"),
        (Scripted([{"choices": 3}]), "not that of an OpenAI-compatible server"),
        (Scripted([{"choices": [{"text": "a"}]}], end="hang"), "no end of the answer within 0.15 s"),
        (Scripted(end="hang"), "no end of the answer within 0.15 s"),
    ],
)
def test_a_broken_stream_is_an_error_of_its_answer(scripted: Scripted, says: str) -> None:
    found = answered(scripted, timeout_seconds=0.15)
    assert re.search(says, found.error), found.error
    assert (found.status, found.text) == (200, "")
    assert found.seconds is not None


def test_a_refusal_is_told_in_the_server_s_words_and_without_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_KEY", KEY)
    said = {"error": {"message": f"the prompt has 900 tokens, the context 512; your key is {KEY}"}}
    with scripted_server(lambda path, body: Scripted([said], status=400)) as (endpoint, script):
        found = asked(endpoint.model_copy(update={"api_key_variable": "SERVER_KEY"}))
    assert found.status == 400
    assert "900 tokens" in found.error and KEY not in found.error
    assert script.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert len(script.bodies) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again(status: int) -> None:
    left = [Scripted(status=status, headers={"Retry-After": "0"})] * 2

    def answering(path: str, body: dict[str, Any]) -> Scripted:
        return left.pop() if left else echo(path, body)

    with scripted_server(answering) as (endpoint, script):
        assert asked(endpoint).text == "length 16"
    assert len(script.bodies) == 3


def test_a_server_that_stays_busy_is_an_error_of_the_answer() -> None:
    found = answered(Scripted(status=429))
    assert found.status == 429 and "HTTP 429" in found.error


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_every_prompt_would_meet_stops_it(status: int) -> None:
    with pytest.raises(RequestError, match=f"HTTP {status}"):
        answered(Scripted(status=status))


def test_a_redirect_is_not_followed() -> None:
    found = answered(Scripted(status=307, headers={"Location": "http://127.0.0.1:9/"}))
    assert found.status == 307 and found.error


def test_a_server_that_is_gone_stops_it() -> None:
    with scripted_server() as (endpoint, _):
        pass
    with pytest.raises(EndpointGone, match="does not answer any more") as caught:
        asked(endpoint)
    assert "start it again" in caught.value.remedy


def scored(events: Any, engine: Engine = TELLING, status: int = 200) -> tuple[ForcedScore | None, list[dict[str, Any]]]:
    with scripted_server(lambda path, body: Scripted([events], status=status)) as (endpoint, script):

        async def work() -> ForcedScore | None:
            async with ReplayClient(endpoint, engine, AskingConfig(score_answers=True)) as client:
                return await client.score([1, 2], [7, 8])

        return asyncio.run(work()), script.bodies


def test_an_answer_of_another_model_is_scored() -> None:
    # A token that is exactly as likely as another is the likeliest too.
    likeliest = {"7": {"logprob": -0.5, "rank": 2}, "5": {"logprob": -0.5, "rank": 2}}
    other = {"8": {"logprob": -1.5, "rank": 3}, "5": {"logprob": -0.1, "rank": 1}}
    places = [None, {"2": {"logprob": -9.0, "rank": 4}}, likeliest, other]
    found, bodies = scored({"choices": [{"prompt_logprobs": places}]})
    assert found == ForcedScore(agreement=0.5, mean_logprob=-1.0)
    assert bodies[0]["prompt"] == [1, 2, 7, 8] and bodies[0]["prompt_logprobs"] == 1


@pytest.mark.parametrize(
    "events",
    [
        {"choices": []},
        {"choices": [{"prompt_logprobs": None}]},
        {"choices": [{"prompt_logprobs": [None, {}, {"7": {"rank": 1, "logprob": -1}}]}]},
        {"choices": [{"prompt_logprobs": [None, {}, {"9": {"rank": 1}}, {"8": {"rank": 1}}]}]},
        [],
    ],
)
def test_a_score_that_the_server_does_not_tell_is_not_known(events: Any) -> None:
    assert scored(events)[0] is None


def test_a_score_that_does_not_fit_the_context_is_not_known() -> None:
    assert scored({"error": "too long"}, status=400)[0] is None
