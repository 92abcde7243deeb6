"""The fake server from outside: what it answers, how it schedules, what it tells, how it fails."""

import asyncio
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.error import HTTPError

import pytest

from configs.errors import StageError
from serving_checks.engines.vllm import VllmEngine, VllmServerConfig
from serving_checks.fake.fake_engine import EngineSettings, FakeEngine
from serving_checks.fake.fake_server import main
from serving_checks.transport.http_json import get_text, post_json
from serving_checks.transport.metrics import number, parse_metrics, total
from serving_checks.transport.streaming import StreamingClient
from tests.fake_servers import fake_server


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    with fake_server(tmp_path_factory.mktemp("fake"), "--max-model-len", "64") as endpoint:
        yield endpoint


def complete(endpoint, **body):
    return post_json(f"{endpoint.base_url}/v1/completions", {"model": "model", "max_tokens": 3} | body)


def counters(endpoint):
    samples = parse_metrics(get_text(f"{endpoint.base_url}/metrics"))
    names = ("prompt_tokens_total", "generation_tokens_total", "request_success_total", "num_requests_running")
    return tuple(total(samples, f"vllm:{name}") for name in names)


def streamed(endpoint, path, body):
    import http.client

    host, port = endpoint.base_url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    connection.request("POST", path, json.dumps(body | {"stream": True}), {"Content-Type": "application/json"})
    lines = [line.removeprefix("data: ") for line in connection.getresponse().read().decode().split("\n\n") if line]
    connection.close()
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_a_completion_is_words_as_many_as_asked_for(endpoint):
    answer = complete(endpoint, prompt="one two", logprobs=1)
    choice = answer["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (" w0 w1 w2", "length")
    assert choice["logprobs"]["token_logprobs"] == [-1.0] * 3
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}


def test_echo_gives_the_prompt_s_tokens_too(endpoint):
    choice = complete(endpoint, prompt=[7, 8], max_tokens=0, echo=True, logprobs=0)["choices"][0]
    assert choice["logprobs"]["tokens"] == ["7", "8"]


def test_a_stream_has_an_event_a_token_and_usage_when_asked(endpoint):
    body = {"prompt": "one", "max_tokens": 2}
    events = streamed(endpoint, "/v1/completions", body)
    assert [event["choices"][0]["text"] for event in events] == [" w0", " w1"]
    assert [event["choices"][0]["finish_reason"] for event in events] == [None, "length"]
    last = streamed(endpoint, "/v1/completions", body | {"stream_options": {"include_usage": True}})[-1]
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 2)


def test_chat(endpoint):
    body = {"messages": [{"role": "user", "content": "how are you"}], "max_tokens": 2}
    answer = post_json(f"{endpoint.base_url}/v1/chat/completions", body)
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": " w0 w1"}
    assert answer["usage"]["prompt_tokens"] == 3
    events = streamed(endpoint, "/v1/chat/completions", body)
    assert "".join(event["choices"][0]["delta"]["content"] for event in events) == " w0 w1"


def test_counters_are_true(endpoint):
    before = counters(endpoint)
    complete(endpoint, prompt="one two three", max_tokens=5)
    after = counters(endpoint)
    assert tuple(b - a for a, b in zip(before, after, strict=True)) == (3, 5, 1, 0)
    capacity = VllmEngine(VllmServerConfig()).metrics.kv_cache_tokens
    assert number(parse_metrics(get_text(f"{endpoint.base_url}/metrics")), capacity) == 4096


def test_what_vllm_answers_for_its_developers(endpoint):
    ranks = post_json(f"{endpoint.base_url}/collective_rpc", {"method": "rank_facts"})["results"]
    assert [(rank["rank"], sum(rank["tensor_bytes"].values())) for rank in ranks] == [(0, 1000), (1, 1000)]
    with pytest.raises(ValueError, match="Expecting value"):
        post_json(f"{endpoint.base_url}/reset_prefix_cache", {})  # status 200 and no body
    assert json.loads(get_text(f"{endpoint.base_url}/v1/models"))["data"][0]["max_model_len"] == 64


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"prompt": {"text": "x"}},
        {"prompt": ["two", "prompts"]},
        {"prompt": "x", "max_tokens": "many"},
        {"prompt": "x", "max_tokens": -1},
        {"prompt": "x", "max_tokens": 64},
    ],
)
def test_bad_bodies_are_refused(endpoint, bad):
    with pytest.raises(HTTPError, match="400"):
        complete(endpoint, **bad)


def test_no_json_and_unknown_paths_are_refused(endpoint):
    with pytest.raises(HTTPError, match="404"):
        post_json(f"{endpoint.base_url}/tokenize", {})
    with pytest.raises(HTTPError, match="400"):
        post_json(f"{endpoint.base_url}/v1/completions", [])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "bad",
    [["--scheduling", "random"], ["--max-num-seqs", "0"], ["--tpot-seconds", "-1"], ["--mode", "sulk"]],
)
def test_bad_arguments_are_refused(bad):
    with pytest.raises(SystemExit):
        main(["--port", "1", *bad])


def test_a_taken_port_is_told_in_a_line(endpoint):
    port = endpoint.base_url.rpartition(":")[2]
    argv = [sys.executable, "-P", "-m", "serving_checks.fake.fake_server", "--port", port]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert f"'127.0.0.1', {port}" in ended.stderr


def test_who_goes_away_gives_up_the_place(tmp_path):
    with fake_server(tmp_path, "--max-num-seqs", "1", "--ttft-seconds", "60") as endpoint:

        async def leave() -> None:
            async with StreamingClient(endpoint) as client, asyncio.timeout(1.0):
                await asyncio.gather(client.complete("one", 1), client.complete("two", 1))

        with pytest.raises(TimeoutError):
            asyncio.run(leave())
        samples = parse_metrics(get_text(f"{endpoint.base_url}/metrics"))
        deadline = time.monotonic() + 20
        while total(samples, "vllm:num_requests_running") and time.monotonic() < deadline:
            samples = parse_metrics(get_text(f"{endpoint.base_url}/metrics"))
        gauges = [total(samples, f"vllm:num_requests_{state}") for state in ("running", "waiting")]
    assert gauges == [0, 0]


def test_a_silent_server_takes_requests_and_is_ended_all_the_same(tmp_path):
    with fake_server(tmp_path, "--mode", "silent") as endpoint, ThreadPoolExecutor(1) as pool:
        with pytest.raises(OSError):
            post_json(f"{endpoint.base_url}/v1/completions", {"prompt": "x"}, timeout_seconds=0.5)
        waiting = pool.submit(post_json, f"{endpoint.base_url}/health", {}, 5.0)
        assert isinstance(waiting.exception(), HTTPError)  # POST is not for /health; the server is alive


@pytest.mark.parametrize(("mode", "words"), [("errors", "answered HTTP 500"), ("empty", "without a token")])
def test_streams_that_fail_are_stage_errors(tmp_path, mode, words):
    with fake_server(tmp_path, "--mode", mode) as endpoint:

        async def ask() -> None:
            async with StreamingClient(endpoint) as client:
                await client.complete("one", 2)

        with pytest.raises(StageError, match=words):
            asyncio.run(ask())


def order_of_ends(settings, lengths):
    """Numbers of the sequences in the order in which they ended; all come at once."""

    async def run() -> list[int]:
        engine, ended = FakeEngine(settings), list[int]()
        work = asyncio.create_task(engine.run())

        async def one(number: int, tokens: int) -> None:
            places = [place async for new in engine.generate(2, tokens) for place in new]
            assert places == list(range(tokens))
            ended.append(number)

        await asyncio.gather(*(one(number, tokens) for number, tokens in enumerate(lengths)))
        work.cancel()
        assert (engine.requests_running, engine.requests_waiting, engine.kv_cache_usage) == (0, 0, 0)
        assert engine.counters.generation_tokens == sum(lengths)
        return ended

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("scheduling", "order"),
    [
        ("continuous", [1, 2, 3, 0]),  # 2 and 3 follow each other in the place of 1
        ("static", [1, 0, 2, 3]),  # 2 and 3 wait for the end of 0
        ("sequential", [0, 1, 2, 3]),
    ],
)
def test_scheduling_decides_who_ends_first(scheduling, order):
    assert order_of_ends(EngineSettings(scheduling, max_num_seqs=2), [20, 2, 3, 3]) == order


def test_a_long_prompt_holds_up_short_ones_unless_it_is_read_in_chunks():
    def ttft_of_short(*, chunked: bool) -> tuple[int, int]:
        """Prompt tokens of the long one that were read before the short one's first token."""

        async def run() -> tuple[int, int]:
            settings = EngineSettings(
                prefill_tokens_per_second=1e6, chunked_prefill=chunked, prefill_chunk_tokens=10, max_num_seqs=2
            )
            engine = FakeEngine(settings)
            work = asyncio.create_task(engine.run())

            async def first(tokens: int) -> int:
                async for _ in engine.generate(tokens, 1):
                    return engine.counters.prompt_tokens
                return 0

            long, short = await asyncio.gather(first(1000), first(5))
            work.cancel()
            return long, short

        return asyncio.run(run())

    assert ttft_of_short(chunked=False) == (1000, 1005)
    assert ttft_of_short(chunked=True) == (1005, 5)
