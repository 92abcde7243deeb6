"""One real vLLM server: what the evaluation's client asks for cheaply is what plain log-probabilities say, and what
the engine's adapter reads is there."""

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from configs.errors import RequestError
from evals.asking.client import Client
from evals.asking.request_plan import Generate, Generating, Question, Score, plan
from evals.suites.generation import generation
from registry.contracts import Endpoint
from serving_checks.checks.smoke import smoke_answer
from serving_checks.engines.base import ServerRequest
from serving_checks.engines.openai_address import OpenAIServerConfig
from serving_checks.engines.vllm import VllmEngine, VllmServerConfig
from serving_checks.readings.memory import memory_record
from serving_checks.server import serve
from serving_checks.transport.http_json import post_json
from serving_checks.transport.metrics import number, read_metrics
from tests.tiny_llama import make_tiny_llama

BLOCK_TOKENS = 128
"""vLLM's on a CPU."""
TOLERANCE = 2e-4
"""Float32 sums in another order: a prompt computed in one piece, in blocks, or beside other prompts."""


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    folder = tmp_path_factory.mktemp("served")
    model_dir = make_tiny_llama(folder / "model")
    # vLLM takes it for the default of every request that names no penalty.
    (model_dir / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "repetition_penalty": 5.0}))
    config = VllmServerConfig(max_model_len=512, max_num_seqs=8, kv_cache_gib=0.25)
    with serve(ServerRequest(config, model_dir, "float32", "cpu", None), folder / "server.log") as server:
        yield server.endpoint


def plain(endpoint: Endpoint, question: Score) -> tuple[float, bool]:
    """As lm-eval's `local-completions` asks: the whole text echoed with its log-probabilities."""
    body = {
        "model": endpoint.served_model_name,
        "prompt": [*question.context, *question.continuation],
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": 1,
        "echo": True,
        "return_tokens_as_token_ids": True,
    }
    found: dict[str, Any] = post_json(f"{endpoint.base_url}/v1/completions", body)["choices"][0]["logprobs"]
    values = found["token_logprobs"][len(question.context) : -1]
    likeliest = found["top_logprobs"][len(question.context) : -1]
    return sum(values), all(value == max(top.values()) for value, top in zip(values, likeliest, strict=True))


def completed(endpoint: Endpoint, body: dict[str, Any]) -> dict[str, Any]:
    """The server's whole answer; greedy, and without the penalty of the model's own."""
    plainly = {"model": endpoint.served_model_name, "temperature": 0, "repetition_penalty": 1.0}
    return post_json(f"{endpoint.base_url}/v1/completions", plainly | body)


def tokens(draw: random.Random, count: int) -> tuple[int, ...]:
    return tuple(draw.randrange(4, 512) for _ in range(count))


def questions_of(kind: str) -> list[Question]:
    draw = random.Random(kind)  # noqa: S311 - a test's data
    lengths = {"letters": (30, 1), "short context": (20, 5), "long context": (300, 4), "whole blocks": (256, 3)}
    context_length, continuation_length = lengths[kind]
    contexts = [tokens(draw, context_length) for _ in range(6)]
    return [Score(context, tokens(draw, continuation_length)) for context in contexts for _ in range(4)]


@pytest.mark.engine
@pytest.mark.parametrize("kind", ["letters", "short context", "long context", "whole blocks"])
def test_cheap_log_likelihoods_are_the_plain_ones(endpoint: Endpoint, kind: str) -> None:
    questions = questions_of(kind)
    client = Client([endpoint], num_concurrent=8)
    answers = client.ask(questions, lambda done, total: None)
    assert client.counts.requests == sum(map(len, plan(questions, BLOCK_TOKENS)))
    for question in questions:
        assert isinstance(question, Score)
        expected, greedy = plain(endpoint, question)
        found = answers[question]
        assert found[0] == pytest.approx(expected, abs=TOLERANCE)
        assert found[1] is greedy


@pytest.mark.engine
def test_the_model_s_own_words_are_greedy(endpoint: Endpoint) -> None:
    """What it writes at temperature 0 is the likeliest continuation, at once and step by step."""
    draw = random.Random(5)  # noqa: S311 - a test's data
    for length in (20, 300):
        context = tokens(draw, length)
        body = {"prompt": context, "max_tokens": 4, "return_token_ids": True, "ignore_eos": True}
        written = tuple(completed(endpoint, body)["choices"][0]["token_ids"])
        likeliest, other = Score(context, written), Score(context, (*written[:-1], (written[-1] + 1) % 512))
        answers = Client([endpoint], num_concurrent=4).ask([likeliest, other], lambda done, total: None)
        assert answers[likeliest][1] is True
        assert answers[other][1] is False


@pytest.mark.engine
def test_texts_are_those_of_a_plain_request(endpoint: Endpoint) -> None:
    draw = random.Random(6)  # noqa: S311 - a test's data
    plain_sampling = generation("a task", {}).sampling
    questions: list[Question] = [
        Generate(tokens(draw, 40), max_tokens=8, stop=("\n",), options=json.dumps(plain_sampling)) for _ in range(3)
    ]
    answers = Client([endpoint], num_concurrent=4).ask(questions, lambda done, total: None)
    for question in questions:
        assert isinstance(question, Generate)
        body = {"prompt": question.prompt, "max_tokens": 8, "stop": ["\n"]}
        assert answers[question] == completed(endpoint, body)["choices"][0]["text"]


@pytest.mark.engine
def test_a_stop_sequence_that_is_a_special_token_stops(endpoint: Endpoint) -> None:
    """Told as text, as lm-eval's `vllm` asks; left out of the text, as is the server's default, it never stops."""
    special, wish = "<|im_start|>", json.dumps({"logit_bias": {"1": 100.0}})
    question = Generate(tokens(random.Random(7), 40), max_tokens=24, stop=(special,), options=wish)  # noqa: S311
    answer = completed(endpoint, Generating(question).body())
    assert (answer["choices"][0]["text"], answer["usage"]["completion_tokens"]) == ("", 1)
    unstopped = completed(endpoint, Generating(question).body() | {"skip_special_tokens": True})
    assert unstopped["usage"]["completion_tokens"] == 24
    going_on = completed(endpoint, Generating(replace(question, stop=())).body())
    assert going_on["choices"][0]["text"] == 24 * special


@pytest.mark.engine
def test_every_metric_that_the_adapter_names_is_on_the_page(endpoint: Endpoint) -> None:
    engine = VllmEngine(VllmServerConfig())
    before = {field: number(read_metrics(endpoint), name) for field, name in engine.metrics}
    assert None not in before.values()
    smoke_answer(endpoint, "one two three", max_tokens=5)
    assert engine.reset_caches(endpoint.base_url)
    after = {field: number(read_metrics(endpoint), name) for field, name in engine.metrics}
    grown = {field: (after[field] or 0) - (before[field] or 0) for field in after}
    assert (grown["generation_tokens"], grown["requests_succeeded"]) == (5, 1)
    assert grown["prompt_tokens"] > 0
    assert after["requests_running"] == after["requests_waiting"] == 0
    assert endpoint.prefix_block_tokens == BLOCK_TOKENS


@pytest.mark.engine
def test_the_same_server_as_one_that_somebody_else_runs(endpoint: Endpoint, tmp_path: Path) -> None:
    config = OpenAIServerConfig(
        engine="openai",
        base_url=endpoint.base_url,
        served_model_name=endpoint.served_model_name,
        max_model_len=512,
        metrics=VllmEngine(VllmServerConfig()).metrics,
    )
    request = ServerRequest(config, Path(endpoint.model_path), "float32", "cpu", None)
    with serve(request, tmp_path / "log") as server:
        assert smoke_answer(server.endpoint) == smoke_answer(endpoint)
        memory = memory_record(server, request.model_dir, "cpu")
    assert memory.kv_cache_tokens
    assert memory.weights_bytes_by_rank is memory.peak_process_bytes is None
    assert smoke_answer(endpoint), "it goes on"
    elsewhere = request._replace(config=config.model_copy(update={"served_model_name": "another"}))
    with pytest.raises(RequestError, match="does not serve 'another'"), serve(elsewhere, tmp_path / "log"):
        pass
