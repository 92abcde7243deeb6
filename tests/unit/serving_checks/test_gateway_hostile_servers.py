"""What servers may answer, down to bytes that are no HTTP: told in OpenAI's shape, never taken for a whole answer, nor
given to another client, nor waited for without end."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from registry.contracts.reply import Reply
from serving_checks.gateway.app import Gateway, listening
from serving_checks.gateway.config import ListenConfig, PatienceConfig
from serving_checks.gateway.observed import Observed
from serving_checks.gateway.replies import reply_of
from serving_checks.gateway.upstream import Upstream
from serving_checks.server import free_port
from tests.raw_http import Raw, Step, answer, ask, chunked, raw_server, request
from tests.unit.serving_checks.test_gateway import ASKED, Behind, lab, told

GOOD = b'{"choices": [{"text": "three", "finish_reason": "stop"}]}'
EVENTS = b'data: {"choices": [{"text": "a"}]}\n\ndata: {"choices": [{"text": "b", "finish_reason": "stop"}]}\n\n'
OK = json.dumps(ASKED).encode()


def stream(
    body: bytes = EVENTS, kind: str = "text/event-stream", end: bytes = b"0\r\n\r\n", *, size: int = 20
) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return head + chunked(body, size).removesuffix(b"0\r\n\r\n") + end


class Front:
    """A gateway in front of such a server."""

    def __init__(self, gateway: Gateway, port: int, seen: list[Observed]) -> None:
        self.gateway, self.port, self.seen = gateway, port, seen

    async def ask(self, *headers: str) -> Raw:
        return await ask(self.port, request(OK, *headers), seconds=10)

    @property
    def counted(self) -> list[str]:
        """Statuses under /metrics."""
        page = self.gateway.metrics.page().splitlines()
        return [line.split('status="')[1][:3] for line in page if line.startswith("quantbench_gateway_requests_total{")]


@asynccontextmanager
async def front(*steps: Step) -> AsyncIterator[Front]:
    config, seen = ListenConfig(port=free_port(None)), list[Observed]()
    patience = PatienceConfig(silence_seconds=0.15, connect_seconds=0.1)
    async with raw_server(*steps) as endpoint, Upstream("1", endpoint, patience) as upstream:
        gateway = Gateway("demo", config, upstream, seen.append)
        async with listening(gateway, config):
            yield Front(gateway, config.port, seen)


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize(
    ("steps", "status"),
    [
        (["close"], 502),
        (["hang"], 504),
        ([b"HTTP/1.1 200 OK\r\nConte", "hang"], 504),
        ([b"HTTP/1.1 200 OK\r\nConte", "close"], 502),
        ([step for byte in answer(GOOD)[:40] for step in (bytes([byte]), 0.05)], 504),
        ([CONTINUE, "hang"], 504),
        ([CONTINUE, "close"], 502),
        ([answer(b"", "199 Odd"), "hang"], 504),
        ([b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nabc", "hang"], 502),
        ([answer(b"", "302 Found", "Location: http://evil.example/")], 502),
        ([answer(b"", "307 Elsewhere", "Location: http://evil.example/")], 502),
        ([b"HTTP/1.1 304 Not Modified\r\n\r\n"], 502),
        ([answer(GOOD, "000 Nothing")], 502),
        ([answer(GOOD, "600 Odd")], 502),
        ([answer(GOOD, "abc")], 502),
        ([b"\x00\x01\x02\x03", "close"], 502),
        ([b"SSH-2.0-OpenSSH_9\r\n", "close"], 502),
        ([b"\x15\x03\x01\x00\x02\x02\x50", "close"], 502),
        ([GOOD, "close"], 502),
        ([answer(GOOD)[:-5], "close"], 502),
        ([answer(GOOD)[:-5], "hang"], 504),
        ([answer(GOOD) + b"garbage"], 502),
        ([answer(GOOD).replace(b"Content-Length: ", b"Content-Length: -")], 502),
        ([answer(GOOD, "200 OK", "Content-Length: 3")], 502),
        ([answer(GOOD, "200 OK", "X-A: a\0b")], 502),
        *(([answer(GOOD, "200 OK", f"X-A: a{chr(code)}b")], 502) for code in (0x01, 0x08, 0x0B, 0x1F, 0x7F)),
        ([answer(GOOD, "200 OK", "X-A: " + "a" * (5 << 20))], 502),
        ([answer(GOOD, "200 OK", *[f"X-{number}: a" for number in range(3000)])], 502),
        ([stream(b"", end=b"zz\r\n"), "hang"], 502),
        ([stream(b"", end=b""), "hang"], 504),
        ([stream(b"", end=b""), "close"], 502),
    ],
    ids=lambda value: repr(value)[:70],
)
def test_what_is_no_answer_is_told_with_a_status_of_its_own(steps: list[Step], status: int) -> None:
    async def run() -> None:
        async with front(*steps) as one:
            found = await one.ask("X-Request-Id: id-7")
            assert found.status == status
            assert "the model's server" in told(found.body)
            assert found.headers["x-request-id"] == "id-7"
            assert "location" not in found.headers
            assert (one.counted, one.seen, one.gateway.champion.in_flight) == ([str(status)], [], 0)

    asyncio.run(run())


@pytest.mark.parametrize(
    "steps",
    [
        [stream(end=b""), "close"],
        [stream(end=b"10\r\nabc"), "close"],
        [stream(end=b""), "hang"],
        [stream(end=b""), 0.05, b"zz\r\nabc", "hang"],
        [stream(end=b""), 0.05, b"-1\r\n", "hang"],
        [stream(end=b""), 0.05, b"ffffffffffffffffff\r\n", "hang"],
        [stream(kind="application/json", end=b""), "close"],
    ],
    ids=lambda value: repr(value[-2:]),
)
def test_an_answer_that_breaks_off_has_an_error_and_no_end(steps: list[Step]) -> None:
    async def run() -> None:
        async with front(*steps) as one:
            found = await one.ask()
            assert (found.status, found.ended) == (200, True)
            assert not found.body.endswith(b"0\r\n\r\n"), "whoever reads chunks knows that it is not whole"
            is_stream = "event-stream" in found.headers["content-type"]
            assert (b'data: {"error": {"message": "the model\'s server broke off' in found.body) == is_stream
            assert (one.counted, one.seen, one.gateway.champion.in_flight) == (["502"], [], 0)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (CONTINUE + answer(GOOD), 200),
        (b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + answer(GOOD), 200),
        (answer(GOOD, "200"), 200),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204),
        (answer(b'{"error": {}}', "400 Bad"), 400),
        (answer(b"<html>", "503 Away"), 503),
        (answer(b'{"detail": "slow"}', "429 Slow", "Retry-After: 7"), 429),
    ],
    ids=lambda value: repr(value[:50]) if isinstance(value, bytes) else None,
)
def test_what_the_server_says_passes_as_it_is(sent: bytes, status: int) -> None:
    async def run() -> None:
        async with front(sent) as one:
            config = (one.port, request(OK, "Connection: close"))
            found = await ask(*config)
            assert (found.status, found.body) == (status, sent.rpartition(b"\r\n\r\n")[2])
            assert found.headers.get("retry-after") == ("7" if status == 429 else None)
            assert len(one.seen) == (status == 200), "only a whole answer is observed"

    asyncio.run(run())


@pytest.mark.parametrize(
    "late",
    [answer(b'{"choices": [{"text": "another client s"}]}'), answer(b"{}", "408 Request Timeout"), b"garbage"],
    ids=lambda value: repr(value[:30]),
)
def test_what_a_server_says_unasked_is_nobody_s_answer(late: bytes) -> None:
    async def run() -> None:
        async with front(answer(GOOD), 0.02, late) as one:
            for _ in range(3):
                found = await one.ask()
                assert (found.status, found.body) == (200, GOOD)
                await asyncio.sleep(0.1)

    asyncio.run(run())


def test_headers_of_the_connection_stay_and_others_pass_as_often_as_they_came() -> None:
    sent = answer(GOOD, "200 OK", "Connection: X-Hop, close", "X-Hop: a", "Keep-Alive: b", "Set-Cookie: c", "X-Of: d")

    async def run() -> None:
        async with front(sent.replace(b"X-Of: d", b"Set-Cookie: e=f\r\nX-Of: d")) as one:
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
            writer.write(request(OK))
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            writer.close()
        assert head.count(b"set-cookie:") == 2
        assert b"x-of: d" in head
        assert b"x-hop" not in head
        assert b"keep-alive" not in head

    asyncio.run(run())


def test_a_cookie_for_one_client_is_not_sent_for_another() -> None:
    async def sets(asked: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=GOOD, headers={"set-cookie": "session=one; Domain=localhost"})

    async def run() -> None:
        champion = Behind(sets)
        async with lab(champion) as one:
            url = one.gateway.champion.endpoint.base_url.replace("127.0.0.1", "localhost")
            one.gateway.champion.endpoint = one.gateway.champion.endpoint.model_copy(update={"base_url": url})
            for _ in range(2):
                assert (await one.ask())[0] == 200
        assert not any("cookie" in headers for headers, _ in champion.seen)

    asyncio.run(run())


def read(*steps: Step) -> Reply:
    """What the observer makes of an answer."""

    async def run() -> Reply:
        async with front(*steps) as one:
            assert (await one.ask()).status == 200
            (observed,) = one.seen
            return await reply_of(observed.asked, observed.answered)

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ([stream()], "ab"),
        ([stream(EVENTS.replace(b"\n", b"\r\n"))], "ab"),
        ([stream(EVENTS.replace(b"\n", b"\r"))], "ab"),
        ([stream(b"\xef\xbb\xbf" + EVENTS)], "ab"),
        ([stream(b": ping\n\nevent: x\nid: 3\nretry: 5\n" + EVENTS)], "ab"),
        ([stream(EVENTS.replace(b"data: ", b"data:"))], "ab"),
        (
            [stream('data: {"choices": [{"text": "ä€😀\u2028", "finish_reason": "stop"}]}'.encode(), size=1)],
            "ä€😀\u2028",
        ),
        ([stream(EVENTS + b"data: [DONE]\n\n" + EVENTS)], "ab"),
        ([answer(gzip.compress(GOOD), "200 OK", "Content-Encoding: gzip")], "three"),
        ([answer(gzip.compress(GOOD), "200 OK", "Content-Encoding: GZIP")], "three"),
        ([answer(GOOD, "200 OK", "Content-Encoding: identity")], "three"),
        ([answer(GOOD).replace(b"Content-Length: 57\r\n", b""), "close"], "three"),
        ([answer(GOOD).replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"Content-Length: 57\r\n", b""), "close"], "three"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_answers_of_odd_form_are_read_for_their_pairs(steps: list[Step], text: str) -> None:
    found = read(*steps)
    assert (found.text, found.error) == (text, "")


@pytest.mark.parametrize(
    ("body", "headers", "said"),
    [
        (GOOD, ["Content-Encoding: gzip"], "not packed by gzip"),
        (gzip.compress(GOOD)[:-9], ["Content-Encoding: gzip"], "broke off"),
        (gzip.compress(b"a" * (70 << 20)), ["Content-Encoding: gzip"], "larger"),
        (GOOD, ["Content-Encoding: br"], "packed in a way"),
        (b'{"choices": [{"text": "half', [], "JSON"),
        (b'{"choices": [{"text": "\xff", "finish_reason": "stop"}]}', [], "UTF-8"),
    ],
    ids=["no gzip", "half of gzip", "bomb", "br", "half", "latin-1"],
)
def test_answers_that_cannot_be_read_are_errors_in_their_pairs(body: bytes, headers: list[str], said: str) -> None:
    found = read(answer(body, "200 OK", *headers))
    assert said in found.error
    assert (found.text, found.status) == ("", 200)


def test_an_answer_too_long_for_a_pair_passes_and_memory_stays() -> None:
    async def long(asked: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=b"a" * (5 << 20))

    async def run() -> None:
        async with lab(Behind(long)) as one:
            seen: list[Any] = []
            one.gateway._observe = seen.append
            status, headers, body = await one.ask()
            assert (status, len(body)) == (200, 5 << 20)
            assert headers["transfer-encoding"] == "chunked", "it was never held as a whole"
            assert not seen

    asyncio.run(run())
