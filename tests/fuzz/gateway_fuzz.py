"""Bytes against a gateway: of clients, of servers, and of answers that the observer reads.

What holds for all of them: it answers or hangs up in time, each answer is HTTP, each error is of OpenAI's shape and
none is a fault of the gateway's, nothing of it stays behind, and whoever asks next has an answer of his own.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from itertools import count
from typing import Any

from aiohttp import web
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from registry.contracts.reply import Reply
from registry.contracts.serving import Endpoint
from serving_checks.gateway.app import Gateway, listening
from serving_checks.gateway.asked import CHAT, COMPLETIONS, Asked
from serving_checks.gateway.config import ListenConfig, PatienceConfig
from serving_checks.gateway.observed import Observed
from serving_checks.gateway.replies import reply_of
from serving_checks.gateway.upstream import Answered, Upstream
from serving_checks.server import free_port
from tests.fuzz.mutations import broken, in_parts
from tests.raw_http import answer, ask, chunked, request
from tests.unit.serving_checks.test_gateway import ASKED, Behind

_FUZZED = b'"fuzzed"'
_OK = json.dumps(ASKED).encode()
REQUESTS = (
    request(_OK, "Content-Type: application/json", "X-Request-Id: a"),
    request(chunked(_OK), "Transfer-Encoding: chunked", length=False),
    request(_OK, "Expect: 100-continue"),
    request(_OK) + request(_OK, path="/v1/chat/completions"),
    request(b"", method="GET", path="/v1/models", length=False),
    request(b'{"model": "other"}'),
)
_WHOLE = (
    b'{"choices": [{"text": "one", "finish_reason": "stop"}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}'
)
_EVENTS = (
    b'data: {"choices": [{"text": "o", "finish_reason": null}]}\n\n'
    b'data: {"choices": [{"text": "ne", "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
)
_CHAT_EVENTS = (
    b'data: {"choices": [{"delta": {"role": "assistant", "tool_calls": [{"index": 0, "id": "c",'
    b' "function": {"name": "f", "arguments": "{}"}}]}}]}\r\n\r\n'
    b'data: {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}\r\n\r\n'
)
_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
ANSWERS = (
    answer(_WHOLE),
    _STREAM + chunked(_EVENTS, 30),
    answer(b'{"error": {"message": "slow"}}', "429 Slow", "Retry-After: 7"),
    b"HTTP/1.1 100 Continue\r\n\r\n" + answer(_WHOLE),
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + _WHOLE,
)
BODIES = (_WHOLE, _EVENTS, _CHAT_EVENTS, _EVENTS.replace(b"\n", b"\r\n"))


def _held(examples: int, number: int) -> Callable[[Any], Any]:
    """Settings of a run: so many examples, chosen by `number`."""
    phases = (Phase.explicit, Phase.generate, Phase.shrink)
    chosen = settings(
        max_examples=examples, deadline=None, database=None, phases=phases, suppress_health_check=list(HealthCheck)
    )
    return lambda test: seed(number)(chosen(test))


class _Front:
    """A gateway, and what it observed."""

    def __init__(self, gateway: Gateway, port: int, seen: list[Observed]) -> None:
        self.gateway, self.port, self.seen = gateway, port, seen
        self._numbers = count()

    async def check_next(self) -> None:
        """Whoever asks now has an answer of his own, and nothing is left of who asked before."""
        word = f"word {next(self._numbers)}"
        found = await ask(self.port, request(json.dumps(ASKED | {"prompt": word}).encode()), seconds=20)
        assert (found.status, found.body) == (200, json.dumps(word).encode())
        for _ in range(200):
            if not self.gateway.champion.in_flight:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("a request stays behind")


@asynccontextmanager
async def _front(endpoint: Endpoint) -> AsyncIterator[_Front]:
    config = ListenConfig(port=free_port(None), body_mib=1, body_seconds=0.1, idle_seconds=0.2, reading_seconds=1)
    seen: list[Observed] = []
    async with Upstream("1", endpoint, PatienceConfig(connect_seconds=1, silence_seconds=0.1)) as upstream:
        gateway = Gateway("demo", config, upstream, seen.append)
        async with listening(gateway, config):
            yield _Front(gateway, config.port, seen)


@contextmanager
def _running(opened: AsyncExitStack) -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        try:
            yield runner
        finally:
            runner.run(opened.aclose())


def clients(examples: int, number: int) -> None:
    """What clients may send."""

    async def echo(asked: web.BaseRequest) -> web.StreamResponse:
        body = json.loads(await asked.read())
        assert body["model"] == "demo", "the server sees only what the gateway has understood"
        return web.Response(body=json.dumps(body.get("prompt")).encode())

    stack = AsyncExitStack()

    async def set_up() -> _Front:
        return await stack.enter_async_context(_front(await stack.enter_async_context(Behind(echo).answering())))

    with _running(stack) as runner:
        front = runner.run(set_up())

        @_held(examples, number)
        @given(in_parts(broken(REQUESTS)))
        def holds(parts: list[bytes]) -> None:
            runner.run(_sent(front, parts))

        holds()


async def _sent(front: _Front, parts: list[bytes]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    with suppress(ConnectionError):
        for part in parts:
            writer.write(part)
            await asyncio.sleep(0)
        async with asyncio.timeout(20):
            # All waiting ends: of heads and bodies that never come with their time.
            _check_answers(await reader.read())
    writer.close()
    await front.check_next()


def _check_answers(got: bytes) -> None:
    while got:
        head, found, rest = got.partition(b"\r\n\r\n")
        assert found, f"half a head: {head!r}"
        first, *lines = head.split(b"\r\n")
        protocol, status = first.split(b" ")[:2]
        assert protocol.startswith(b"HTTP/")
        assert int(status) in (100, 200, 400, 404, 405, 408, 413, 417), first
        lengths = [int(line.partition(b":")[2]) for line in lines if line.lower().startswith(b"content-length:")]
        length = lengths[0] if lengths else 0
        body, got = rest[:length], rest[length:]
        assert len(body) == length
        if int(status) >= 400 and body:
            assert json.loads(body)["error"].keys() == {"message", "type", "param", "code"}


def servers(examples: int, number: int) -> None:
    """What servers may answer; between them each asks the same server for an answer that is whole."""
    stack, fuzzed = AsyncExitStack(), list[list[bytes]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
                body = await reader.readexactly(int(length.partition(b":")[2]))
                if _FUZZED not in body:
                    writer.write(answer(json.dumps(json.loads(body)["prompt"]).encode()))
                    continue
                for part in fuzzed[-1]:
                    writer.write(part)
                    await asyncio.sleep(0.001)
        writer.close()

    async def set_up() -> _Front:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        stack.callback(server.close)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        endpoint = Endpoint(base_url=url, served_model_name="demo", model_path="", max_model_len=512)
        return await stack.enter_async_context(_front(endpoint))

    with _running(stack) as runner:
        front = runner.run(set_up())

        @_held(examples, number)
        @given(in_parts(broken(ANSWERS)))
        def holds(parts: list[bytes]) -> None:
            fuzzed.append(parts)
            runner.run(_answered(front))

        holds()


async def _answered(front: _Front) -> None:
    body = json.dumps(ASKED | {"prompt": "fuzzed"}).encode()
    found = await ask(front.port, request(body, "Connection: close"), seconds=20)
    assert 200 <= found.status < 300 or 400 <= found.status < 600
    if found.status in (502, 504):
        assert "the model's server" in json.loads(found.body)["error"]["message"]
    for observed in front.seen:
        assert isinstance(await reply_of(observed.asked, observed.answered), Reply)
    front.seen.clear()
    await front.check_next()


def answers(examples: int, number: int) -> None:
    """What the observer reads: whatever it is, it makes a reply, and a reply without an error has an end."""
    with asyncio.Runner() as runner:

        @_held(examples, number)
        @given(
            broken(BODIES) | st.binary(max_size=200),
            st.sampled_from(("text/event-stream", "application/json", "")),
            st.sampled_from(("", "gzip", "deflate", "br")),
            st.sampled_from((COMPLETIONS, CHAT)),
        )
        def holds(body: bytes, kind: str, encoding: str, path: str) -> None:
            asked = Asked("id", path, {}, _OK, ASKED)
            found = runner.run(reply_of(asked, Answered(200, kind, body, 1.0, 1.5, 2.0, encoding)))
            Reply.model_validate_json(found.model_dump_json())
            assert found.error or found.finish_reason or b"[DONE]" in body

        holds()


FUZZERS = {"clients": clients, "servers": servers, "answers": answers}
