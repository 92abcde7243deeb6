"""`quantbench shadow replay` with real engines, real traces, and a process that is killed half-way."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from registry.contracts import Pair
from registry.pairs import read_pair_table
from serving_checks.replay.config import PromptsConfig
from serving_checks.replay.prompts import read_prompts
from tests.fake_servers import fake_server
from tests.scripted_server import Scripted, echo, scripted_server, text_events
from tests.tiny_llama import make_tiny_llama

SERVING = {"engine": "vllm", "max_model_len": 128, "max_num_seqs": 4, "kv_cache_gib": 0.25}
PROMPTS = [
    *({"prompt": f"The river runs {word}", "max_tokens": 12} for word in ("north", "south", "fast", "dry")),
    *({"messages": [{"role": "user", "content": f"Say {number}"}], "max_tokens": 12} for number in range(4)),
    {"prompt": "a river " * 200},
]


def started(folder: Path, lines: list[dict[str, Any]], **config: Any) -> subprocess.Popen[str]:
    log = folder / "log.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    known = {"version": 1, "name": "mine", "prompts": {"file": str(log)}, "device": "cpu"}
    (folder / "replay.yaml").write_text(yaml.safe_dump(known | config))
    argv = [sys.executable, "-P", "-m", "pipelines.cli", "shadow", "replay", str(folder / "replay.yaml")]
    return subprocess.Popen(
        [*argv, "--workspace", str(folder / "workspace")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def replayed(folder: Path, lines: list[dict[str, Any]], **config: Any) -> tuple[int, str]:
    """Exit code and stderr."""
    process = started(folder, lines, **config)
    _, err = process.communicate(timeout=600)
    return process.returncode, err


def pairs_of(folder: Path) -> list[Pair]:
    table = read_pair_table(folder / "workspace" / "shadow" / "mine")
    return [Pair.model_validate(row) for row in table.to_pylist()]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return make_tiny_llama(folder / "one"), make_tiny_llama(folder / "other", seed=1)


@pytest.mark.engine
def test_a_model_and_itself_answer_the_same(tmp_path: Path, models: tuple[Path, Path]) -> None:
    side = {"model": str(models[0])}
    code, err = replayed(
        tmp_path,
        PROMPTS,
        champion=side,
        candidate=side,
        serving=SERVING,
        asking={"score_answers": True, "max_output_tokens": 16},
    )
    assert code == 0, err
    assert "8 of 8 answers are the same (9 pairs)" in err
    assert "latencies do not compare: the candidate also scored" in err
    pairs = pairs_of(tmp_path)
    for pair in pairs:
        if pair.champion.error:
            # Longer than the context.
            assert pair.champion.status == pair.candidate.status == 400
            assert "128" in pair.champion.error and pair.same is None
            continue
        assert pair.same and pair.first_difference is None
        assert pair.champion.completion_tokens == pair.candidate.completion_tokens
        assert pair.agreement == 1.0
        assert pair.champion_logprob is not None and pair.candidate_logprob is not None
        assert abs(pair.champion_logprob - pair.candidate_logprob) < 1e-3
        assert pair.champion.first_token_seconds is not None
    assert sum(bool(pair.champion.error) for pair in pairs) == 1
    left = sorted(path.name for path in (tmp_path / "workspace" / "shadow" / "mine").iterdir())
    assert left == ["candidate-server.log", "champion-server.log", "pairs", "replay.json"]


@pytest.mark.engine
def test_two_models_part_and_it_is_known_where(tmp_path: Path, models: tuple[Path, Path]) -> None:
    one, other = ({"model": str(model)} for model in models)
    config = {"serving": SERVING, "asking": {"score_answers": True, "max_output_tokens": 16}, "keep_prompts": True}
    code, err = replayed(tmp_path, PROMPTS[:4], champion=one, candidate=other, **config)
    assert code == 0, err
    for pair in pairs_of(tmp_path):
        assert pair.same is False and pair.first_difference is not None
        assert pair.agreement is not None and pair.agreement < 1
        assert pair.champion_logprob is not None and pair.candidate_logprob is not None
        assert pair.candidate_logprob < pair.champion_logprob
        assert pair.champion.text != pair.candidate.text


@pytest.mark.engine
@pytest.mark.thorough
def test_another_engine_s_answers_are_compared_by_their_texts(tmp_path: Path, models: tuple[Path, Path]) -> None:
    side = {"model": str(models[0])}
    serving = {"engine": "transformers", "max_model_len": 128, "kv_cache_gib": 0.01}
    config = {"serving": serving, "asking": {"max_output_tokens": 16}}
    code, err = replayed(tmp_path, PROMPTS[:8], champion=side, candidate=side, **config)
    assert code == 0, err
    for pair in pairs_of(tmp_path):
        assert pair.same and pair.first_difference is None and pair.agreement is None
        assert pair.champion.error == "" and pair.champion.characters > 0


@pytest.mark.engine
def test_answers_are_scored_by_a_task_of_lm_eval_s(tmp_path: Path) -> None:
    def says(number: int) -> Any:
        return lambda path, body: Scripted(text_events(f" so it is {number}.\n#### {number}", completion_tokens=9))

    lines = [
        {"prompt": f"Question: 2 + {n}?\nAnswer:", "document": {"question": f"2 + {n}?", "answer": f"#### {2 + n}"}}
        for n in range(6)
    ]
    with scripted_server(says(5)) as (one, _), scripted_server(says(7)) as (other, _):
        champion, candidate = (
            {"serving": {"engine": "openai", "base_url": endpoint.base_url, "served_model_name": "model"}}
            for endpoint in (one, other)
        )
        scorer = {"task": "gsm8k", "filter": "strict-match"}
        code, err = replayed(
            tmp_path, lines, champion=champion, candidate=candidate, answers={"field": "document", "scorer": scorer}
        )
    assert code == 0, err
    assert sum(pair.champion.score or 0 for pair in pairs_of(tmp_path)) == 1, "2 + 3"
    assert sum(pair.candidate.score or 0 for pair in pairs_of(tmp_path)) == 1, "2 + 5"
    # The document is no part of what was asked.
    assert all(pair.champion.score is not None for pair in pairs_of(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("together", [True, False])
def test_a_killed_replay_is_gone_on_with(tmp_path: Path, together: bool) -> None:
    lines = [{"prompt": f"number {number}"} for number in range(120)]

    def slowly(path: str, body: dict[str, Any]) -> Scripted:
        return echo(path, body)._replace(pause_seconds=0.03)

    with scripted_server(slowly) as (one, champion), scripted_server(slowly) as (other, candidate):
        sides = [
            {"serving": {"engine": "openai", "base_url": endpoint.base_url, "served_model_name": "model"}}
            for endpoint in (one, other)
        ]
        config = {"champion": sides[0], "candidate": sides[1], "together": together, "asking": {"concurrency": 4}}
        killed = started(tmp_path, lines, **config)
        until = time.monotonic() + 120
        while len(candidate.bodies) < 50 and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        seen = -1
        while seen != (seen := len(candidate.bodies) + len(champion.bodies)):
            time.sleep(0.5)  # the stage is ended by its guard
        there = len(pairs_of(tmp_path))
        assert 40 <= there < 120
        code, err = replayed(tmp_path, lines, **config)
    assert code == 0, err
    pairs = pairs_of(tmp_path)
    assert [pair.number for pair in pairs] == list(range(120))
    assert all(pair.same for pair in pairs)
    for script in (champion, candidate):
        asked = Counter(body["prompt"] for body in script.bodies)
        assert len(asked) == 120
        # What was in flight when it was killed has no answer.
        assert sum(asked.values()) - 120 <= 4


@pytest.mark.slow
def test_mlflow_s_traces_of_openai_s_client_are_read(tmp_path: Path) -> None:
    """What a user has: calls of the client, traced by MLflow, exported one a line."""
    program = f"""
import json, mlflow, openai
mlflow.set_tracking_uri("sqlite:///{tmp_path}/mlflow.db")
mlflow.openai.autolog()
import sys
client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="x")
client.chat.completions.create(model="model", messages=[{{"role": "user", "content": "Hello there"}}],
    temperature=0.3, max_tokens=5, extra_body={{"top_k": 3}}, extra_headers={{"x-key": "secret"}})
client.completions.create(model="model", prompt="Once upon a time", max_tokens=4)
traces = mlflow.search_traces(return_type="list", flush=True)
with open("{tmp_path}/traces.jsonl", "w") as file:
    file.writelines(trace.to_json() + "\\n" for trace in traces)
rows = mlflow.search_traces(return_type="pandas")
rows.to_json("{tmp_path}/rows.jsonl", orient="records", lines=True)
"""
    with fake_server(tmp_path) as endpoint:
        done = subprocess.run(
            [sys.executable, "-P", "-c", program, endpoint.base_url],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
    assert done.returncode == 0, done.stderr
    for name in ("traces", "rows"):
        read = read_prompts(PromptsConfig(file=tmp_path / f"{name}.jsonl"), None, None)
        assert (read.record.format, read.record.broken) == ("mlflow", 0)
        chat, completion = sorted(read.prompts, key=lambda prompt: not prompt.chat)
        assert chat.body["messages"] == [{"role": "user", "content": "Hello there"}]
        assert (chat.body["temperature"], chat.body["max_tokens"], chat.body["top_k"]) == (0.3, 5, 3)
        assert "secret" not in str(chat.body) and "model" not in chat.body
        assert completion.body == {"prompt": "Once upon a time", "max_tokens": 4}
