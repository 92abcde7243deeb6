"""The second real engine: `transformers serve` with continuous batching, through the same adapter as the first."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from configs.errors import StageError
from registry.contracts import Endpoint
from serving_checks.checks.smoke import smoke_answer
from serving_checks.engines.base import MetricNames, ServerRequest
from serving_checks.engines.transformers_serve import TransformersServerConfig
from serving_checks.processes.guard import descendants_of
from serving_checks.readings.memory import memory_record
from serving_checks.server import serve
from tests.tiny_llama import make_tiny_llama

PROMPTS = ["Paris is", "The sky is", "Two plus three is", "She opened the door and"]


def request(model: Path) -> ServerRequest:
    config = TransformersServerConfig(
        engine="transformers", max_model_len=128, kv_cache_gib=1 / 256, max_num_batched_tokens=64
    )
    return ServerRequest(config, model, "float32", "cpu", 1)


def streamed(endpoint: Endpoint) -> list[dict]:
    body = {"model": endpoint.served_model_name, "prompt": PROMPTS[0], "max_tokens": 8, "temperature": 0.0}
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    with httpx.stream("POST", f"{endpoint.base_url}/v1/completions", json=body, timeout=60) as answer:
        lines = list(answer.iter_lines())
    return [json.loads(line.removeprefix("data: ")) for line in lines if line]


@pytest.mark.engine
def test_tiny_llama_is_served_by_transformers_and_gone(tmp_path: Path) -> None:
    model = make_tiny_llama(tmp_path / "model")
    with serve(request(model), tmp_path / "server.log") as server:
        endpoint = server.endpoint
        alone = [smoke_answer(endpoint, prompt, 8, with_logprobs=False) for prompt in PROMPTS]
        with ThreadPoolExecutor(len(PROMPTS)) as pool:
            together = list(pool.map(lambda prompt: smoke_answer(endpoint, prompt, 8, with_logprobs=False), PROMPTS))
        events = streamed(endpoint)
        memory = memory_record(server, model, "cpu")
        facts, left = server.facts, descendants_of(server.pid or 0)
        assert server.engine.version()
    assert together == alone
    assert len(set(alone)) > 1
    assert "".join(event["choices"][0]["text"] for event in events) == alone[0]
    assert events[-1]["usage"]["completion_tokens"] == 8
    assert server.engine.metrics == MetricNames()
    assert server.start_seconds
    assert facts.kernel is None
    assert not [line for line in facts.warnings if "continuous batching" in line]
    assert memory.peak_process_bytes is not None
    assert memory.weights_bytes_by_rank is memory.kv_cache_tokens is None
    assert [note.partition(":")[0] for note in memory.notes] == ["resident weights", "KV cache"]
    assert left
    assert not [pid for pid in left if Path(f"/proc/{pid}").exists()]


@pytest.mark.engine
def test_a_model_without_weights_is_a_death_that_is_explained(tmp_path: Path) -> None:
    model = make_tiny_llama(tmp_path / "model")
    (model / "model.safetensors").unlink()
    with pytest.raises(StageError, match="died at start") as caught, serve(request(model), tmp_path / "server.log"):
        pass
    assert "safetensors" in caught.value.what
    assert "transformers.cli.transformers serve" in caught.value.what
