"""The third real engine: llama-server in an environment of its own, through the same adapter as the others."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from configs.errors import StageError
from evals.asking.client import Client
from evals.asking.request_plan import LogLikelihood, Score
from evals.asking.token_agreement import collect
from pipelines.stage_programs.engine_server import served
from quantizers.checkpoints.stored_model import GGUF_FILE
from quantizers.inspection.gguf_file import read_as_source
from registry.contracts import Endpoint, PromptLogprobs
from serving_checks.checks.smoke import smoke_answer
from serving_checks.engines.base import ServerRequest
from serving_checks.engines.llamacpp import LlamaCppServerConfig
from serving_checks.processes.guard import descendants_of
from serving_checks.readings.memory import memory_record
from tests.stage_in_environment import job_in, run
from tests.tiny_families import make_tiny_of
from tests.tiny_llama import make_tiny_llama

pytestmark = pytest.mark.environment

PROMPTS = ["Paris is", "The sky is", "Two plus three is", "She opened the door and"]


def request(model: Path) -> ServerRequest:
    config = LlamaCppServerConfig(engine="llamacpp", max_model_len=256, max_num_seqs=4)
    return ServerRequest(config, model, "float32", "cpu", 1)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def artifact(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    job = job_in(tmp_path_factory.mktemp("gguf"), source, [], {"method": "gguf", "type": "q8_0"})
    assert run(job).failure is None
    assert job.output_dir is not None
    return job.output_dir


def transformers_scores(folder: Path) -> Callable[[list[int]], torch.Tensor]:
    """Token ids -> log-probabilities [tokens, vocabulary] of what follows each, in float32."""
    return scores_of(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())


def scores_of(model: Any) -> Callable[[list[int]], torch.Tensor]:
    """The same of a model in memory."""

    def scores(ids: list[int]) -> torch.Tensor:
        with torch.inference_mode():
            return model(torch.tensor([ids])).logits[0].log_softmax(-1)

    return scores


def continued(scores: Callable[[list[int]], torch.Tensor], question: Score) -> tuple[torch.Tensor, list[float]]:
    """The log-probabilities at the continuation's places, and those of its tokens."""
    places = scores([*question.context, *question.continuation])[len(question.context) - 1 : -1]
    return places, [float(place[token]) for place, token in zip(places, question.continuation, strict=True)]


def streamed(endpoint: Endpoint) -> list[dict]:
    body = {"model": endpoint.served_model_name, "prompt": PROMPTS[0], "max_tokens": 8, "temperature": 0.0}
    body |= {"stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True}
    with httpx.stream("POST", f"{endpoint.base_url}/v1/completions", json=body, timeout=60) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def test_an_artifact_is_served_by_llama_cpp_and_gone(artifact: Path, tmp_path: Path) -> None:
    with served(request(artifact), tmp_path / "server.log") as server:
        endpoint = server.endpoint
        alone = [smoke_answer(endpoint, prompt, 8, with_logprobs=False) for prompt in PROMPTS]
        with ThreadPoolExecutor(len(PROMPTS)) as pool:
            together = list(pool.map(lambda prompt: smoke_answer(endpoint, prompt, 8, with_logprobs=False), PROMPTS))
        events = streamed(endpoint)
        while server.peak_memory_bytes() is None:
            time.sleep(0.05)  # it is sampled by the second, and the server was ready sooner
        memory = memory_record(server, artifact, "cpu")
        facts, left = server.facts, descendants_of(server.pid or 0)
    assert together == alone
    assert len(set(alone)) > 1
    assert events[-1]["usage"]["completion_tokens"] == 8
    assert facts.kernel == "ggml, Q8_0"
    assert facts.max_num_seqs == 4
    assert facts.warnings == []
    assert memory.artifact_bytes == (artifact / "model.gguf").stat().st_size
    assert memory.peak_process_bytes is not None
    assert left
    assert not [pid for pid in left if Path(f"/proc/{pid}").exists()]


def test_an_unquantized_folder_is_scored_as_transformers_scores_it(source: Path, tmp_path: Path) -> None:
    """To what is left by keys and values in float16. The file that it is served as goes with the server."""
    tokenizer, scores = AutoTokenizer.from_pretrained(source), transformers_scores(source)
    questions = [Score((0, 5, 9), (7,)), Score((0, 5, 9), (2,)), Score((0, 5), (9, 7, 300)), Score((8,), (2, 11))]
    with served(request(source), tmp_path / "server.log") as server:
        found = Client([server.endpoint], 8).ask(questions, lambda *_: None)
        texts = collect(server.endpoint, tmp_path / "texts.jsonl", tokenizer).read_text().splitlines()
        assert server.facts.kernel == "ggml, all F32"
    for question in questions:
        places, wanted = continued(scores, question)
        answer = found[question]
        assert isinstance(answer, LogLikelihood)
        assert answer.nats == pytest.approx(sum(wanted), abs=5e-3)
        assert answer.greedy == all(
            int(place.argmax()) == token for place, token in zip(places, question.continuation, strict=True)
        )
    text = PromptLogprobs.model_validate_json(texts[0])
    for place, ids, logprobs in zip(scores(text.tokens)[:-1], text.ids, text.logprobs, strict=True):
        assert logprobs == pytest.approx([float(place[token]) for token in ids], abs=5e-3)
    assert [*source.glob("*.gguf")] == []


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe"])
def test_a_quantized_mixture_is_served_and_scored_as_its_weights_are_in_transformers(
    model_type: str, tmp_path: Path
) -> None:
    source = make_tiny_of(model_type, tmp_path / "model")
    job = job_in(tmp_path / "work", source, [], {"method": "gguf", "type": "q4_k_m"})
    assert run(job).failure is None
    assert job.output_dir is not None
    model, made_up = read_as_source(job.output_dir / GGUF_FILE, source, "float32")
    assert made_up == []
    scores = scores_of(model)
    questions = [Score((0, 5, 9), (7,)), Score((0, 5), (9, 7, 300)), Score((8,), (2, 11))]
    with served(request(job.output_dir), tmp_path / "server.log") as server:
        found = Client([server.endpoint], 8).ask(questions, lambda *_: None)
    for question in questions:
        _, wanted = continued(scores, question)
        answer = found[question]
        assert isinstance(answer, LogLikelihood)
        # llama.cpp rounds what it multiplies 4-bit weights by to 8 bits.
        assert answer.nats == pytest.approx(sum(wanted), rel=0.03)


def test_a_broken_file_is_a_death_that_llama_cpp_explains(artifact: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((artifact / "config.json").read_bytes())
    (broken / "model.gguf").write_bytes((artifact / "model.gguf").read_bytes()[:5000])
    with (
        pytest.raises(StageError, match="died at start") as caught,
        served(request(broken), tmp_path / "server.log"),
    ):
        pass
    assert "llamacpp_program" in caught.value.what
    assert caught.value.blame == "engine"
