"""What clients may send, down to bytes that are no HTTP: refused in OpenAI's shape, kept from the server and the log,
and never in the way of others."""

import asyncio
import gzip
import hashlib
import json
import logging
import re
import resource
import socket
import struct
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from configs.errors import RequestError
from serving_checks.gateway import connections
from serving_checks.gateway.connections import allow_open_files
from tests.raw_http import Raw, ask, chunked, request
from tests.unit.serving_checks.test_gateway import ASKED, Behind, Lab, lab, told, whole

OK = json.dumps(ASKED).encode()
SECRET = "Bearer sk-never-told"  # noqa: S105


def port_of(one: Lab) -> int:
    return int(one.base.rpartition(":")[2])


def refusal(found: Raw) -> str:
    assert found.headers["content-type"].startswith("application/json")
    assert found.headers["x-request-id"]
    return told(found.body)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"\x00\x01\x02\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (request(OK).replace(b"HTTP/1.1", b"HTTP/9"), 400),
        (request(OK).replace(b"\r\n", b"\n"), 400),
        (request(OK).replace(b"Host: here\r\n", b""), 400),
        (request(OK, "Host: elsewhere"), 400),
        (request(OK, "Content-Length: 3"), 400),
        (request(OK, f"Content-Length: {len(OK)}"), 400),
        (request(OK, "Content-Length: -1", length=False), 400),
        (request(OK, "Content-Length: 99999999999999999999", length=False), 400),
        (request(chunked(OK), "Transfer-Encoding: chunked"), 400),
        (request(OK, "Transfer-Encoding: xchunked", length=False), 400),
        (request(b"zz\r\nabc", "Transfer-Encoding: chunked", length=False), 400),
        (request(b"-5\r\nabc", "Transfer-Encoding: chunked", length=False), 400),
        (request(OK, "Content-Encoding: gzip"), 400),
        (request(OK, "Content-Encoding: br"), 400),
        (request(OK, "X-A: a\0b"), 400),
        (request(OK, "X A: b"), 400),
        (request(OK, "X-A: a\r\n folded"), 400),
        (request(OK, "X-A: " + "a" * 9000), 400),
        (request(OK, *[f"X-{number}: a" for number in range(200)]), 400),
        (request(OK, path="/" + "a" * 9000), 400),
        (request(OK, path="/\xff"), 400),
        (request(OK, "Expect: chocolate"), 417),
        (request(gzip.compress(b"a" * (4 << 20)), "Content-Encoding: gzip"), 413),
        (request(chunked(b"a" * (2 << 20), 1 << 16), "Transfer-Encoding: chunked", length=False), 413),
        (request(b"", "Content-Length: 104857600", length=False), 413),
        (request(OK, method="TRACE"), 405),
        (request(b"", method="OPTIONS", length=False), 405),
        (request(b"", method="CONNECT", path="elsewhere:80", length=False), 404),
        (request(OK, path="/v1/completions/"), 404),
        (request(OK, path="//v1/completions"), 404),
        (request(OK, path="/v1/../v1/completions"), 404),
        (request(OK, path="/v1/embeddings"), 404),
        (request(b'{"model": ["demo"]}'), 404),
        (request(b'{"model": {"demo": 1}}'), 404),
        (request(b'{"model": true}'), 404),
        (request(b'{"model": "demo", "model": "demo"}'), 400),
        (request(b'{"model": "demo", "prompt": "\\ud800"}'), 400),
        (request(b'{"model": "demo", "prompt": "\\u0000"}'), 400),
        (request(b'{"model": "demo", "temperature": 1e999}'), 400),
        (request(b'{"model": "demo", "seed": ' + b"9" * 5000 + b"}"), 400),
        (request(b'{"model": "demo", "a": ' + b"[" * 200 + b"]" * 200 + b"}"), 400),
        (request(b'{"model": "demo"} {"model": "demo"}'), 400),
        (request(b""), 400),
    ],
    ids=lambda value: repr(value[:60]) if isinstance(value, bytes) else None,
)
def test_what_cannot_be_asked_is_told_so_and_nothing_of_it_is_logged(
    sent: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        champion = Behind(whole)
        async with lab(champion, body_mib=1) as one:
            found = await ask(
                port_of(one), sent.replace(b"\r\n", b"\r\nAuthorization: " + SECRET.encode() + b"\r\n", 1)
            )
            assert found.status == status
            assert refusal(found)
            assert b"never-told" not in found.body
            assert not champion.seen
            assert (await ask(port_of(one), request(OK))).status == 200, "it goes on"

    with caplog.at_level(logging.DEBUG):
        asyncio.run(run())
    # The server behind, which is the test's, logs what it was asked.
    assert not [record for record in caplog.records if record.name not in ("asyncio", "aiohttp.access")]


@pytest.mark.parametrize(
    "sent",
    [
        request(OK, path="http://evil.example/v1/completions"),
        request(OK, path="/v1/completions?url=http://evil.example"),
        request(OK, path="/v1/%63ompletions"),
        request(
            OK, "X-Forwarded-Host: evil.example", "X-Model: other", "X-Quantbench-Shadow: 1", "Forwarded: host=evil"
        ),
        request(OK, "Upgrade: websocket", "Connection: Upgrade"),
        request(OK, "Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMA"),
        request(OK, "User-Agent: \xff\xe4", "Traceparent: \xe9"),
        request(OK, "X-Request-Id: one", "X-Request-Id: two"),
        request(OK, "X-Request-Id: \xff"),
        request(chunked(OK), "Transfer-Encoding: chunked", length=False),
        request(gzip.compress(OK), "Content-Encoding: gzip"),
        b"\r\n\r\n" + request(OK),
    ],
    ids=lambda sent: repr(sent[:80]),
)
def test_what_is_odd_and_allowed_asks_the_champion_once(sent: bytes) -> None:
    async def run() -> None:
        champion = Behind(whole)
        async with lab(champion) as one:
            assert (await ask(port_of(one), sent)).status == 200
        ((headers, body),) = champion.seen
        assert body == OK
        known = {"accept", "accept-encoding", "content-length", "content-type", "host", "user-agent", "x-request-id"}
        assert headers.keys() <= known | {"traceparent"}
        assert all(value.isascii() for value in headers.values())
        assert headers["host"].startswith("127.0.0.1:")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("fields", "status"),
    [({"stream": "yes"}, 200), ({"stream": 1}, 200), ({"stream": None}, 200), ({"n": 3}, 200), ({"user": ["a"]}, 200)],
)
def test_fields_of_odd_types_are_the_server_s_to_judge(fields: dict[str, Any], status: int) -> None:
    async def run() -> None:
        champion = Behind(whole)
        async with lab(champion) as one:
            assert (await one.ask(ASKED | fields))[0] == status
        assert json.loads(champion.seen[0][1]) == ASKED | fields

    asyncio.run(run())


def test_who_waits_to_be_asked_for_a_body_is_asked() -> None:
    async def run() -> None:
        async with lab(Behind(whole)) as one:
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(one))
            writer.write(request(b"", "Expect: 100-continue", f"Content-Length: {len(OK)}", length=False))
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(OK)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.close()

    asyncio.run(run())


def test_requests_behind_one_another_are_answered_in_their_order() -> None:
    async def echoed(asked: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text=json.loads(await asked.read())["prompt"])

    async def run() -> None:
        async with lab(Behind(echoed)) as one:
            sent = [request(json.dumps(ASKED | {"prompt": f"word {number};"}).encode()) for number in range(5)]
            last = request(b"{", "Connection: close")
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(one))
            writer.write(b"".join([*sent, last]))
            got = await reader.read()
            writer.close()
            words = [part for part in got.decode().split("\r\n\r\n") if part.startswith("word")]
            assert [word.partition(";")[0] for word in words] == [f"word {number}" for number in range(5)]
            assert b"400 Bad Request" in got

    asyncio.run(run())


def test_a_head_or_a_body_that_comes_in_drops_is_not_waited_for() -> None:
    async def run() -> None:
        async with lab(Behind(whole), idle_seconds=0.3, body_seconds=0.3) as one:
            drops = [step for byte in request(OK)[:60] for step in (bytes([byte]), 0.01)]
            found = await ask(port_of(one), *drops, seconds=5)
            assert (found.status, found.ended) == (0, True)
            found = await ask(port_of(one), request(OK)[:-3], seconds=5)
            assert found.status == 408
            assert "was not there within" in refusal(found)
            assert (await ask(port_of(one), request(OK))).status == 200

    asyncio.run(run())


async def endless(asked: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(asked)
    while True:
        await response.write(b"data: " + b"a" * (1 << 16) + b"\n\n")


def test_a_client_that_takes_nothing_is_hung_up_on_and_holds_nobody_up() -> None:
    async def run() -> None:
        async with lab(Behind(endless), reading_seconds=0.3) as one, asyncio.timeout(20):
            _, writer = await asyncio.open_connection("127.0.0.1", port_of(one), limit=1024)
            writer.write(request(OK))
            while not one.gateway.champion.in_flight:
                await asyncio.sleep(0.01)
            await one.gateway.champion.drained()
            assert 'status="499"' in one.gateway.metrics.page()
            writer.close()

    asyncio.run(run())


@pytest.mark.parametrize("how", ["resets", "closes", "half closes"])
def test_who_hangs_up_is_no_fault_of_the_server_s(how: str) -> None:
    async def run() -> None:
        async with lab(Behind(endless)) as one, asyncio.timeout(20):
            for _ in range(10):
                client = socket.create_connection(("127.0.0.1", port_of(one)))
                client.sendall(request(OK))
                await asyncio.to_thread(client.recv, 1 << 16)
                if how == "resets":
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                if how == "half closes":
                    client.shutdown(socket.SHUT_WR)
                    await asyncio.sleep(0.02)
                client.close()
            while one.gateway.champion.in_flight:
                await asyncio.sleep(0.01)
            page = one.gateway.metrics.page()
            asked = r'quantbench_gateway_requests_total\{[^}]*status="%d"[^}]*version="1"\} (\S+)'
            assert re.findall(asked % 499, page) == ["10.0"]
            assert not re.findall(asked % 502, page)

    asyncio.run(run())


def test_more_connections_than_are_allowed_are_told_to_come_later() -> None:
    async def run() -> None:
        async with lab(Behind(whole), connections=3) as one:
            held = [await asyncio.open_connection("127.0.0.1", port_of(one)) for _ in range(3)]
            found = await ask(port_of(one), request(OK))
            assert found.status == 503
            assert "too many connections" in told(found.body)
            for _, writer in held:
                writer.close()
            async with asyncio.timeout(20):
                while (await ask(port_of(one), request(OK))).status != 200:
                    await asyncio.sleep(0.05)

    asyncio.run(run())


def test_what_the_connections_need_is_asked_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(connections.resource, "setrlimit", lambda _, limits: asked.append(limits))
    for found, wanted in (((1024, 4096), [(2256, 4096)]), ((4096, 4096), []), ((-1, -1), []), ((64, -1), [(2256, -1)])):
        asked.clear()
        monkeypatch.setattr(connections.resource, "getrlimit", lambda _, found=found: found)
        allow_open_files(1000)
        assert asked == wanted
    monkeypatch.setattr(connections.resource, "getrlimit", lambda _: (512, 1024))
    with pytest.raises(RequestError, match="need 2256 open files") as caught:
        allow_open_files(1000)
    assert "lower `listen.connections` to 384" in caught.value.remedy
    assert resource.RLIM_INFINITY == -1, "what the cases above stand for"


def test_a_fault_of_ours_is_told_without_words_of_the_request(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with lab(Behind(whole)) as one:
            monkeyed = one.gateway

            def broken(*_: object) -> None:
                raise KeyError(SECRET)

            monkeyed._observe = broken
            status, _, body = await one.ask()
            assert status == 500
            assert "its log says where" in told(body)

    asyncio.run(run())
    assert "KeyError in" in caplog.text
    assert "test_gateway_hostile_clients.py" in caplog.text
    assert SECRET not in caplog.text


def test_a_key_is_asked_before_anything_is_read() -> None:
    async def run() -> None:
        hashed = "sha256:" + hashlib.sha256(b"word").hexdigest()
        champion = Behind(whole)
        async with lab(champion, api_keys=[hashed]) as one:
            for path in ("/v1/completions", "/v1/models", "/metrics", "/nowhere"):
                found = await ask(port_of(one), request(b"{", "Authorization: Bearer \xff", path=path))
                assert (found.status, found.headers["www-authenticate"]) == (401, "Bearer")
            assert not champion.seen
            alive = request(b"", "Connection: close", method="HEAD", path="/health", length=False)
            assert (await ask(port_of(one), alive)).status == 200, "a balancer has no key"

    asyncio.run(run())


def test_a_hundred_megabytes_are_refused_while_they_come() -> None:
    async def run() -> None:
        async with lab(Behind(whole)) as one:

            async def body() -> Any:
                for _ in range(100):
                    yield b"a" * (1 << 20)

            async with aiohttp.ClientSession() as session:
                try:
                    async with session.post(f"{one.base}/v1/completions", data=body()) as response:
                        assert response.status == 413
                        assert "larger than 8 MiB" in told(await response.read())
                except aiohttp.ClientError:
                    pytest.fail("the refusal was not told")

    asyncio.run(run())
