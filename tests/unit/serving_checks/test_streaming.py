"""Reading streams of several engines, and running a check to its end or its deadline."""

import asyncio
import json

import pytest

from configs.errors import RequestError, StageError
from serving_checks.checks.smoke import smoke_answer
from serving_checks.transport.streaming import StreamingClient, read_stream, run_check
from tests.fake_servers import fake_server


def read(*events):
    """Pieces and counted tokens of a stream of these events; a str is sent as it is."""

    async def lines():
        for event in events:
            yield (event if isinstance(event, str) else f"data: {json.dumps(event)}").encode() + b"\n"
            yield b"\n"

    started = asyncio.Event()
    stream = asyncio.run(read_stream(lines(), started))
    assert started.is_set() == bool(stream.arrivals)
    assert stream.arrivals == sorted(stream.arrivals)
    return len(stream.arrivals), stream.output_tokens


def piece(text, reason=None, **more):
    return {"choices": [{"index": 0, "text": text, "finish_reason": reason}], **more}


USAGE = {"completion_tokens": 5}


def test_vllm_tells_usage_in_an_event_of_its_own():
    assert read(piece("a"), piece("b", "length"), {"choices": [], "usage": USAGE}, "data: [DONE]") == (2, 5)


def test_transformers_tells_reason_and_usage_in_a_piece_without_text_and_no_end():
    assert read(piece("a"), piece("b"), piece("", "length", usage=USAGE)) == (2, 5)


def test_half_a_character_is_a_token():
    assert read(piece("", "length"), "data: [DONE]") == (1, None)
    assert read(piece(""), piece("b", "length"), "data: [DONE]") == (2, None)
    two = {"choices": [], "usage": {"completion_tokens": 2}}
    assert read(piece("a"), piece("", "length"), two, "data: [DONE]") == (2, 2)


def test_an_end_that_is_no_token_has_no_time():
    one = {"choices": [], "usage": {"completion_tokens": 1}}
    assert read(piece("a"), piece("", "stop"), one, "data: [DONE]") == (1, 1)
    assert read(piece("a"), piece("", "stop"), "data: [DONE]") == (1, None)


def test_comments_and_other_fields_are_passed_over():
    assert read(": ping", "event: message", piece("a", "stop"), "data:[DONE]") == (1, None)


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([piece("a")], "broke off"),
        ([], "broke off"),
        ([piece("a"), {"error": {"message": "out of memory"}}], "out of memory"),
        ([{"error": "gone"}], "gone"),
        (["data: {"], "Expecting"),
    ],
)
def test_streams_that_break_off_are_errors(events, words):
    with pytest.raises(ValueError, match=words):
        read(*events)


def test_a_message_of_another_kind_is_an_error():
    with pytest.raises(LookupError):
        read({"object": "list"})


def test_the_first_error_of_a_group_is_raised_and_the_others_are_ended():
    ended = []

    async def sleep():
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    async def fail():
        await asyncio.sleep(0)
        raise StageError("it broke", remedy="mend it")

    async def work():
        async with asyncio.TaskGroup() as outer:
            outer.create_task(sleep())
            async with asyncio.TaskGroup() as inner:
                inner.create_task(sleep())
                inner.create_task(fail())

    with pytest.raises(StageError, match="it broke"):
        run_check(work(), 30.0)
    assert ended == [True, True]


def test_a_deadline_ends_what_runs():
    ended = []

    async def work():
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    assert run_check(work(), 0.01) is None
    assert ended == [True]


KEY = "a-key-that-must-not-be-seen"


async def complete(endpoint, **fields):
    async with StreamingClient(endpoint, fields) as client:
        assert "num_requests" in (await client.get_text("/metrics") or "")
        return (await client.complete("one two", 3)).output_tokens


def test_the_key_goes_with_every_request_and_its_absence_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("SERVER_KEY", KEY)
    monkeypatch.setenv("OTHER_KEY", KEY + "-of-another")
    with fake_server(tmp_path, "--api-key-variable", "SERVER_KEY") as endpoint:
        mine, other = (endpoint.model_copy(update={"api_key_variable": f"{name}_KEY"}) for name in ("SERVER", "OTHER"))
        assert run_check(complete(mine), 30.0) == 3
        with pytest.raises(StageError, match=r"answered HTTP 401 Unauthorized: .*missing or wrong") as caught:
            run_check(ask(other), 30.0)
        assert KEY not in str(caught.value)
        smoke_answer(mine)
        with pytest.raises(RequestError, match="HTTP 401") as refused:
            smoke_answer(other, remedy_for=lambda status: f"after {status}, another key")
        assert refused.value.remedy == "after 401, another key"
        monkeypatch.delenv("SERVER_KEY")
        with pytest.raises(RequestError, match="SERVER_KEY is not set"):
            run_check(ask(mine), 30.0)


async def ask(endpoint, **fields):
    async with StreamingClient(endpoint, fields) as client:
        return await client.complete("one two", 3)


def test_a_field_that_the_server_refuses_is_told_by_its_name(tmp_path):
    with fake_server(tmp_path, "--refuse-field", "ignore_eos") as endpoint:
        with pytest.raises(StageError, match=r"HTTP 422 Unprocessable Entity: .*ignore_eos"):
            run_check(ask(endpoint, ignore_eos=True), 30.0)
        assert run_check(ask(endpoint, generation_config="{}"), 30.0).output_tokens == 3
