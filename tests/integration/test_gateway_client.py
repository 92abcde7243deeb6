"""OpenAI's own client in front of a gateway: every refusal is the exception that its users catch."""

import asyncio
import hashlib
from typing import Any

import pytest
from aiohttp import web

from registry.contracts.serving import Endpoint
from serving_checks.gateway.config import PatienceConfig
from serving_checks.gateway.upstream import Upstream
from tests.unit.serving_checks.test_gateway import Behind, Lab, lab

openai = pytest.importorskip("openai", reason="OpenAI's client comes with the engines")

pytestmark = pytest.mark.slow

KEY = "word"
MESSAGES = [{"role": "user", "content": "one"}]


def client(one: Lab, key: str = KEY) -> Any:
    return openai.AsyncOpenAI(base_url=f"{one.base}/v1", api_key=key, max_retries=0, timeout=20)


async def answers(request: web.BaseRequest) -> web.StreamResponse:
    message = {"role": "assistant", "content": "two"}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return web.json_response({"id": "a", "object": "chat.completion", "created": 1, "model": "m", "choices": choices})


async def is_busy(request: web.BaseRequest) -> web.StreamResponse:
    return web.json_response({"error": {"message": "slow"}}, status=429, headers={"retry-after": "7"})


async def is_silent(request: web.BaseRequest) -> web.StreamResponse:
    await asyncio.sleep(30)
    raise AssertionError


async def breaks_off(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    await response.write(b'data: {"choices": [{"index": 0, "delta": {"content": "half"}}]}\n\n')
    await asyncio.sleep(0.05)
    assert request.transport is not None
    request.transport.abort()
    return response


def with_key(handler: Any, **more: Any) -> Any:
    hashed = "sha256:" + hashlib.sha256(KEY.encode()).hexdigest()
    return lab(Behind(handler), api_keys=[hashed], **more)


def test_an_answer_is_an_answer() -> None:
    async def run() -> None:
        async with with_key(answers) as one, client(one) as asking:
            found = await asking.chat.completions.create(model="demo", messages=MESSAGES)
            assert found.choices[0].message.content == "two"
            assert [model.id async for model in asking.models.list()] == ["demo"]
            assert (await asking.models.retrieve("demo")).id == "demo"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("raised", "key", "fields", "code"),
    [
        ("NotFoundError", KEY, {"model": "gpt-4"}, "model_not_found"),
        ("AuthenticationError", "other", {}, "invalid_api_key"),
        ("BadRequestError", KEY, {"extra_body": {"a": "\0"}}, "invalid_json"),
        ("APIStatusError", KEY, {"extra_body": {"a": "b" * (2 << 20)}}, "request_too_large"),
    ],
)
def test_a_wrong_request_is_the_client_s_own_exception(raised: str, key: str, fields: Any, code: str) -> None:
    async def run() -> None:
        async with with_key(answers, body_mib=1) as one, client(one, key) as asking:
            with pytest.raises(getattr(openai, raised)) as caught:
                await asking.chat.completions.create(**({"model": "demo", "messages": MESSAGES} | fields))
            assert caught.value.code == code
            assert caught.value.request_id

    asyncio.run(run())


def test_a_busy_server_is_a_rate_limit_with_its_time() -> None:
    async def run() -> None:
        async with with_key(is_busy) as one, client(one) as asking:
            with pytest.raises(openai.RateLimitError) as caught:
                await asking.chat.completions.create(model="demo", messages=MESSAGES)
            assert caught.value.response.headers["retry-after"] == "7"

    asyncio.run(run())


@pytest.mark.parametrize("how", ["silent", "dead", "both dead"])
def test_servers_that_are_away_are_an_error_of_the_server_s_that_says_what_to_do(how: str) -> None:
    async def run() -> None:
        patience = PatienceConfig(silence_seconds=0.3)
        gone = Endpoint(base_url="http://127.0.0.1:9", served_model_name="x", model_path="", max_model_len=1)
        async with (
            with_key(is_silent, patience=patience) as one,
            Upstream("2", gone, patience) as dead,
            client(one) as asking,
        ):
            if how != "silent":
                one.gateway.champion = dead
            if how == "both dead":
                one.gateway.candidate = dead
                one.gateway.split = one.gateway.split.model_copy(update={"share": 1.0})
            with pytest.raises(openai.InternalServerError, match="ask again later") as caught:
                await asking.chat.completions.create(model="demo", messages=MESSAGES)
            assert caught.value.status_code == (504 if how == "silent" else 502)

    asyncio.run(run())


def test_a_stream_that_breaks_off_raises_and_does_not_end_well() -> None:
    async def run() -> None:
        async with with_key(breaks_off) as one, client(one) as asking:
            stream = await asking.chat.completions.create(model="demo", messages=MESSAGES, stream=True)
            pieces = []
            with pytest.raises(openai.APIError, match="broke off amid its answer"):
                async for piece in stream:
                    pieces.append(piece.choices[0].delta.content)
            assert pieces == ["half"]

    asyncio.run(run())
