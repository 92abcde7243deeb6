"""A cascade between two real servers: what vLLM tells of its answers, and what is left of that for the client."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import pytest
from openai import AsyncOpenAI

from pipelines.stage_programs.live_pairs import LivePairs
from registry.contracts import Endpoint, Pair, RouteRecord
from serving_checks.engines.base import ServerRequest
from serving_checks.engines.vllm import VllmEngine, VllmServerConfig
from serving_checks.gateway.answer_reader import AnswerReader
from serving_checks.gateway.app import Gateway, listening
from serving_checks.gateway.asked import CHAT, COMPLETIONS, Asked
from serving_checks.gateway.cascade import with_logprobs, without_logprobs
from serving_checks.gateway.config import ListenConfig, MirrorConfig, PatienceConfig
from serving_checks.gateway.observed import Observed
from serving_checks.gateway.routing import Router
from serving_checks.gateway.tally import Tally
from serving_checks.gateway.upstream import Upstream
from serving_checks.processes.supervisor import Supervised
from serving_checks.server import free_port, serve
from serving_checks.transport.metrics import parse_metrics
from tests.tiny_llama import make_tiny_llama

pytestmark = pytest.mark.engine

PROMPTS = [f"The river runs {word}" for word in ("north", "south", "fast", "dry", "wild", "deep")]


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Endpoint, Endpoint]]:
    """Of the precise one and of the cheap one."""
    folder = tmp_path_factory.mktemp("cascade")
    config = VllmServerConfig(max_model_len=128, max_num_seqs=4, kv_cache_gib=0.25, enforce_eager=True)
    command = VllmEngine(config).fork_server("cpu", None, folder / "socket")
    assert command is not None
    with ExitStack() as servers:
        child = servers.enter_context(Supervised(command.argv, env=command.env, log_file=folder / "log"))
        while not (folder / "socket").exists():
            assert child.wait(0.05) is None, child.log_tail()
        found = []
        for seed in (0, 1):
            model = make_tiny_llama(folder / str(seed), seed=seed)
            request = ServerRequest(config, model, "float32", "cpu", None)
            found.append(
                servers.enter_context(serve(request, folder / f"{seed}.log", fork_server=folder / "socket")).endpoint
            )
        yield found[0], found[1]


def route(threshold: float) -> RouteRecord:
    fields: dict[str, Any] = {"source": "a test", "cheap": "sha256:c", "precise": "sha256:p", "quality": "score"}
    numbers = {"loss": 0.01, "alpha": 0.05, "least_share": 0.1, "items": 1, "left_out": {}, "items_digest": "sha256:i"}
    rule = {"outcomes": [], "chosen": "cascade", "cascade": {"threshold": threshold}, "made_at": datetime.now(UTC)}
    return RouteRecord.model_validate(fields | numbers | rule)


async def _asked(client: AsyncOpenAI, prompt: str, **more: Any) -> Any:
    return await client.completions.create(model="demo", prompt=prompt, max_tokens=8, temperature=0, **more)


async def _streamed(client: AsyncOpenAI, prompt: str) -> str:
    stream = await _asked(client, prompt, stream=True)
    return "".join([event.choices[0].text async for event in stream if event.choices])


def test_each_answer_is_that_of_one_model_and_says_nothing_more(endpoints: tuple[Endpoint, Endpoint]) -> None:
    async def run() -> None:
        precise, cheap = endpoints
        config, seen = ListenConfig(port=free_port(None)), list[Observed]()
        pairs: list[Pair] = []
        async with (
            Upstream("1", precise, PatienceConfig()) as champion,
            Upstream("2", cheap, PatienceConfig()) as candidate,
        ):
            gateway = Gateway("demo", config, champion, seen.append)
            async with (
                listening(gateway, config),
                AsyncOpenAI(base_url=f"http://127.0.0.1:{config.port}/v1", api_key="none", max_retries=0) as client,
            ):
                alone = [(await _asked(client, prompt)).choices[0] for prompt in PROMPTS]
                gateway.candidate, gateway.router = candidate, Router([], route(-1000.0))
                gateway.router.cheap = "candidate"
                sure = [(await _asked(client, prompt)).choices[0] for prompt in PROMPTS]
                told = [(await _asked(client, prompt, logprobs=0)).choices[0].logprobs for prompt in PROMPTS]
                pieces = [await _streamed(client, prompt) for prompt in PROMPTS]
                gateway.router = Router([], route(0.0))
                gateway.router.cheap = "candidate"
                unsure = [(await _asked(client, prompt)).choices[0] for prompt in PROMPTS]
                unsure_pieces = [await _streamed(client, prompt) for prompt in PROMPTS]
            tally = Tally("demo", None)
            reader, mirror = AnswerReader(tally), MirrorConfig(logprobs=True)
            live = LivePairs(lambda pair, trial: pairs.append(pair), reader, mirror, keep_prompts=False)
            live.champion, live.candidate = champion, candidate
            attempts = [one for one in seen if one.is_attempt]
            answers = [one for one in seen if not one.is_attempt]
            for one in answers[-12:]:
                await live.ask_other(one)
            for one in attempts:
                await reader.attempt_answered(one)
        assert [one.text for one in unsure] == unsure_pieces == [one.text for one in alone]
        assert [one.text for one in sure] == pieces != [one.text for one in alone]
        assert all(one.logprobs is None for one in (*alone, *sure, *unsure))
        means = [sum(one.token_logprobs) / len(one.token_logprobs) for one in told]
        assert all(-12 < mean < 0 for mean in means)
        routes = [one.route for one in answers]
        assert routes == [""] * 6 + ["confident"] * 18 + ["unsure"] * 12
        assert [pair.candidate.mean_logprob for pair in pairs[:6]] == pytest.approx(means, abs=1e-3)
        assert all(pair.candidate.least_logprob is not None for pair in pairs)
        assert {(one.by, one.version) for one in attempts} == {("candidate", "2")}
        assert len(attempts) == 12
        tokens = [
            one.value
            for one in parse_metrics(tally.page())
            if one.name == "gen_ai_client_token_usage_sum" and one.labels["traffic"] == "attempt"
        ]
        assert len(tokens) == 2 and all(tokens), "input and output"
        assert {pair.source for pair in pairs} == {"route"} and {pair.route for pair in pairs} == {"unsure"}

    asyncio.run(run())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_what_is_taken_out_of_an_answer_is_all_that_was_added(
    endpoints: tuple[Endpoint, Endpoint], path: str, stream: bool
) -> None:
    async def run() -> None:
        prompt = {"prompt": PROMPTS[0]} if path == COMPLETIONS else {"messages": [{"role": "user", "content": "hi"}]}
        fields = {"model": "demo", "max_tokens": 4, "temperature": 0, "stream": stream, **prompt}
        asked = Asked("one", path, {"content-type": "application/json"}, json.dumps(fields).encode(), fields)
        async with Upstream("2", endpoints[1], PatienceConfig()) as cheap:
            plain = await cheap.fetch(asked, {})
            more = await cheap.fetch(with_logprobs(asked), {})
        assert b'"logprob' in more.body and len(more.body) > len(plain.body)  # type: ignore[operator,arg-type]
        assert _said(without_logprobs(more)) == _said(plain.body or b"")

    asyncio.run(run())


def _said(body: bytes) -> tuple[str, list[Any]]:
    """What an answer says: its text, put together, and whatever else its events hold, each once, but for its id and its
    second. Where a stream is cut is not asked: vLLM sends two tokens as one event when its client is slow, and events
    of tokens that are no text yet only with log-probabilities."""
    lines = [line.removeprefix(b"data: ") for line in body.splitlines() if line.strip()]
    text, others = "", list[Any]()
    for event in [
        event for line in lines if line != b"[DONE]" for event in [json.loads(line)] if _says_something(event)
    ]:
        (choice,) = event["choices"]
        holder, name = (
            (choice, "text") if "text" in choice else (choice.get("delta") or choice.get("message"), "content")
        )
        text += (holder or {}).pop(name, None) or ""
        rest = {name: value for name, value in event.items() if name not in ("id", "created")}
        others += [] if rest in others else [rest]
    return text, others


def _says_something(event: dict[str, Any]) -> bool:
    (choice,) = event["choices"]
    return bool(choice.get("text") or choice.get("delta") or choice.get("message") or choice.get("finish_reason"))
