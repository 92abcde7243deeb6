"""Envoy's messages put together again: whole ones, broken ones, ones that are too much, and bytes that are none."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc.aio  # type: ignore[import-untyped]
import pytest

from serving_checks.gateway.external_processor import ExternalProcessor, processing, processing_request_type
from serving_checks.gateway.observed import Observed
from serving_checks.gateway.upstream import KEPT_BYTES
from serving_checks.server import free_port

VERSIONS = {"champion": "1", "candidate": "2"}
BODY = json.dumps({"model": "demo", "prompt": "one"}).encode()
ASKED = {":method": "POST", ":path": "/v1/completions", "x-request-id": "id-1", "content-type": "application/json"}
TOLD = {":status": "200", "content-type": "application/json"}
ANSWER = b'{"choices": [{"text": "two"}]}'


def message(kind: str, *, end: bool = False, arm: str | None = "champion", **parts: Any) -> Any:
    """A ProcessingRequest, its headers with or without raw values."""
    made = processing_request_type()()
    part = getattr(made, kind)
    part.SetInParent()
    part.end_of_stream = end
    if "body" in parts:
        part.body = parts["body"]
    for place, (name, value) in enumerate(parts.get("headers", {}).items()):
        header = part.headers.headers.add(key=name)
        # Envoy sends raw values; others may send text.
        if place % 2:
            header.value = value
        else:
            header.raw_value = value.encode()
    if kind == "response_headers" and arm is not None:
        made.attributes["envoy.filters.http.ext_proc"].fields["xds.cluster_name"].string_value = arm
    return made


def exchange(
    asked: dict[str, str] | None = None,
    told: dict[str, str] | None = None,
    body: bytes = BODY,
    answer: bytes = ANSWER,
    arm: str | None = "champion",
) -> list[Any]:
    """All messages of one request, bodies in two pieces."""
    half, half_answer = len(body) // 2, len(answer) // 2
    return [
        message("request_headers", headers=ASKED | (asked or {})),
        message("request_body", body=body[:half]),
        message("request_body", body=body[half:], end=True),
        message("response_headers", headers=TOLD | (told or {}), arm=arm),
        message("response_body", body=answer[:half_answer]),
        message("response_body", body=answer[half_answer:], end=True),
    ]


class Lab:
    """A processor with what it offered."""

    def __init__(self, most_bytes: int = 1 << 20, most_held_bytes: int = 64 << 20) -> None:
        self.offered: list[Observed] = []
        self.processor = ExternalProcessor(self.offered.append, VERSIONS, most_bytes, most_held_bytes)

    def passed(self, messages: Iterable[Any]) -> list[Observed]:
        """One stream."""

        async def sent() -> AsyncIterator[Any]:
            for one in messages:
                yield one

        async def run() -> list[bytes]:
            return [one async for one in self.processor.process(sent(), None)]

        assert asyncio.run(run()) == [], "Envoy is told nothing"
        assert self.processor.held_bytes == 0
        return self.offered


def test_a_request_and_its_answer() -> None:
    (observed,) = Lab().passed(exchange({"authorization": "Bearer mine", "user-agent": "a client"}))
    asked, answered = observed.asked, observed.answered
    assert (asked.id, asked.path, asked.body, asked.fields) == ("id-1", "/v1/completions", BODY, json.loads(BODY))
    assert asked.headers == {
        "content-type": "application/json",
        "user-agent": "a client",
        "x-request-id": "id-1",
        "accept-encoding": "identity",
    }
    assert (answered.status, answered.content_type, answered.body) == (200, "application/json", ANSWER)
    assert answered.sent_at <= answered.first_byte_at <= answered.ended_at
    assert (observed.by, observed.version) == ("champion", "1")


def test_the_candidate_s_answer_is_its_own() -> None:
    (observed,) = Lab().passed(exchange(arm="candidate"))
    assert (observed.by, observed.version) == ("candidate", "2")


def test_pieces_of_both_ways_may_cross() -> None:
    messages = exchange()
    (observed,) = Lab().passed([messages[place] for place in (0, 1, 3, 4, 5, 2)])
    assert (observed.asked.body, observed.answered.body) == (BODY, ANSWER)


def test_an_id_that_cannot_stand_in_a_header_is_given_anew() -> None:
    (observed,) = Lab().passed(exchange({"x-request-id": "with a space"}))
    assert observed.asked.id == observed.asked.headers["x-request-id"] != "with a space"


@pytest.mark.parametrize(
    "messages",
    [
        exchange({":method": "GET"}),
        exchange({":path": "/v1/models"}),
        exchange({":path": "/v1/completions/../x"}),
        exchange(told={":status": "500"}),
        exchange(told={"content-encoding": "gzip"}),
        exchange(arm="other"),
        exchange(arm=None),
        exchange(answer=b"x" * (KEPT_BYTES + 2)),
        exchange(body=b"x" * ((1 << 20) + 2)),
        exchange()[:-1],
        exchange()[3:],
        exchange()[:3],
        [],
        [processing_request_type()()],
        [message("response_headers", headers=TOLD, end=True)],
    ],
    ids=lambda messages: f"{len(messages)} messages",
)
def test_what_makes_no_pair_is_passed_over(messages: list[Any]) -> None:
    lab = Lab()
    assert lab.passed(messages) == []
    assert lab.passed(exchange()), "the next one is seen"


@pytest.mark.parametrize("body", [b"{", b"[1]", b"\xff\xfe", b'{"a": NaN}', b"[" * 5000])
def test_a_body_that_is_no_request_is_given_up_and_counted(body: bytes) -> None:
    lab = Lab()
    assert lab.passed(exchange(body=body)) == []
    assert (lab.processor.seen, lab.processor.given_up) == (1, 1)


def test_more_than_may_be_held_is_given_up_and_counted() -> None:
    lab = Lab(most_bytes=1 << 30, most_held_bytes=1000)
    assert lab.passed(exchange(body=b"x" * 4000)) == []
    assert lab.processor.given_up == 1
    assert lab.passed(exchange())


def test_what_is_under_way_counts_together() -> None:
    """Each is small enough, both are not."""
    lab = Lab(most_held_bytes=1500)

    async def run() -> None:
        going_on = asyncio.Event()

        async def slow() -> AsyncIterator[Any]:
            yield message("request_headers", headers=ASKED)
            yield message("request_body", body=b"x" * 1000)
            await going_on.wait()

        async def quick() -> AsyncIterator[Any]:
            for one in exchange(body=b"x" * 1000):
                yield one

        async def read(messages: AsyncIterator[Any]) -> None:
            async for _ in lab.processor.process(messages, None):
                raise AssertionError("Envoy is told nothing")

        task = asyncio.create_task(read(slow()))
        while lab.processor.held_bytes < 1000:
            await asyncio.sleep(0)
        await read(quick())
        assert lab.processor.given_up == 1
        going_on.set()
        await task
        assert lab.processor.held_bytes == 0

    asyncio.run(run())


def test_bytes_that_are_no_messages_end_their_stream_and_no_other() -> None:
    lab, port = Lab(), free_port(None)
    good = [one.SerializeToString() for one in exchange()]
    broken = [
        [bytes(range(1, 200))],
        [b"\xff" * 50],
        [good[0][: len(good[0]) // 2]],
        [good[0], bytes([*good[1][:3], 255, *good[1][4:]])],
        [b""] * 100,
        [good[5], good[4], good[3]],
    ]

    async def run() -> None:
        async with (
            processing(lab.processor, port, most_bytes=1 << 20),
            grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
            asyncio.timeout(60),
        ):
            call = channel.stream_stream("/envoy.service.ext_proc.v3.ExternalProcessor/Process")

            async def sent(messages: list[bytes]) -> grpc.StatusCode:
                stream = call(aiter_of(messages))
                try:
                    async for _ in stream:
                        raise AssertionError("Envoy is told nothing")
                except grpc.aio.AioRpcError as error:
                    return error.code()
                return await stream.code()

            for messages in broken * 20:
                await sent(messages)
            assert await sent([*good[:2], b"\0" * (4 << 20)]) == grpc.StatusCode.RESOURCE_EXHAUSTED
            offered = len(lab.offered)
            assert await sent(good) == grpc.StatusCode.OK
            assert len(lab.offered) == offered + 1
            with pytest.raises(OSError, match="cannot be listened on"):
                async with processing(lab.processor, port, most_bytes=1 << 20):
                    raise AssertionError("two would each hear of a part of the traffic")

    asyncio.run(run())


async def aiter_of(messages: list[bytes]) -> AsyncIterator[bytes]:
    for one in messages:
        yield one


def test_fields_that_are_not_known_are_passed_over() -> None:
    """A later Envoy may say more: field 15, and a field of 2 MiB."""
    unknown = b"\x7a\x03new" + b"\xaa\x06\x80\x80\x80\x01" + os.urandom(2 << 20)
    later = [processing_request_type().FromString(one.SerializeToString() + unknown) for one in exchange()]
    assert Lab().passed(later)
