"""`quantbench bench` from its config to its page: real engines, and servers of others that fail to order."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from registry.contracts import ServingRecord
from serving_checks.load.requests import read_rows
from serving_checks.readings.bounds import decode_share, prefill_share
from tests.fake_servers import fake_server
from tests.tiny_llama import make_tiny_llama, make_tiny_tokenizer

pytestmark = pytest.mark.engine

KEY = "a-key-that-must-not-be-seen"
TOKENS = 6
LOAD = {
    "profiles": [{"kind": "concurrent", "levels": [1, 3]}],
    "prompts": {"short": 12},
    "requests": 4,
    "output_tokens": TOKENS,
    "warmup_output_tokens": 2,
}
CHECKS = {
    "batching": {"answer_tokens": 8, "late_requests": 2, "concurrency": 4, "min_speedup": 1.01},
    "starvation": {"short_requests": 3, "long_requests": 1, "short_prompt_tokens": 8, "long_prompt_tokens": 32},
}
VLLM_NAMES = {"requests_running": "vllm:num_requests_running", "requests_waiting": "vllm:num_requests_waiting"}
VLLM_NAMES |= {"prompt_tokens": "vllm:prompt_tokens_total", "generation_tokens": "vllm:generation_tokens_total"}


def started(folder: Path, model: Path, serving: dict[str, Any], *arguments: str, **more: Any) -> subprocess.Popen[str]:
    config = {"version": 1, "name": "mine", "model": str(model), "serving": serving, "load": LOAD, "checks": CHECKS}
    (folder / "bench.yaml").write_text(yaml.safe_dump(config | more))
    argv = [sys.executable, "-P", "-m", "pipelines.cli", "bench", str(folder / "bench.yaml"), *arguments]
    return subprocess.Popen(
        [*argv, "--workspace", str(folder / "workspace")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def benched(folder: Path, model: Path, serving: dict[str, Any], **more: Any) -> tuple[int, str, str, list[Path]]:
    """Exit code, stdout, stderr, and what is left below the bench's folder."""
    process = started(folder, model, serving, "--json", **more)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err, sorted((folder / "workspace" / "bench").glob("mine/*/*"))


def address(base_url: str, **config: Any) -> dict[str, Any]:
    known = {"engine": "openai", "base_url": base_url, "served_model_name": "model", "max_model_len": 256}
    return known | {"metrics": VLLM_NAMES} | config


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tiny_tokenizer(folder)
    return folder


@pytest.mark.thorough
def test_a_server_that_runs_already_is_benched_with_its_key(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_KEY", KEY)
    server = [
        "--api-key-variable",
        "SERVER_KEY",
        "--refuse-field",
        "repetition_penalty",
        "--refuse-field",
        "ignore_eos",
    ]
    times = ["--tpot-seconds", "0.02", "--max-num-seqs", "4"]
    with fake_server(tmp_path, *server, *times) as endpoint:
        serving = address(endpoint.base_url, api_key_variable="SERVER_KEY", max_num_seqs=4)
        code, _, err, left = benched(tmp_path, tokenizer, serving)
        assert code == 2, err
        assert "HTTP 422 Unprocessable Entity" in err and "ignore_eos" in err and "serving.fixed_length" in err
        code, out, err, left = benched(tmp_path, tokenizer, serving | {"fixed_length": {"min_tokens": TOKENS}})
    assert code == 0, err
    record = json.loads(out)
    done = [path for path in left if path.name == "record.json"]
    assert json.loads(done[0].read_text()) == record
    assert {path.name for path in done[0].parent.iterdir()} == {"load_requests.parquet", "record.json", "report.html"}
    for point in record["load_points"]:
        assert (point["completed"], point["output_tokens"], point["prompt_tokens"]) == (
            4,
            4 * TOKENS,
            point["server_prompt_tokens"],
        )
        assert point["server_output_tokens"] == 4 * TOKENS
    assert [(check["check"], check["outcome"]) for check in record["checks"]] == [
        ("batching", "pass"),
        ("starvation", "pass"),
    ]
    assert record["limits"] is None, "it runs on a machine of which nothing is known"
    assert record["memory"]["peak_process_bytes"] is None
    assert "peak: the server was not started here" in record["memory"]["notes"]
    assert KEY not in out + err
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_a_server_that_dies_leaves_what_was_measured(tmp_path: Path, tokenizer: Path) -> None:
    # The smoke test, a warm-up of one, four requests, a warm-up of three and one request come before.
    with fake_server(tmp_path, "--mode", "die-half-way", "--die-after", "10") as endpoint:
        code, _, err, left = benched(tmp_path, tokenizer, address(endpoint.base_url))
    assert code == 3
    assert "the server died during a load test (short prompts, concurrency 3)" in err
    assert [path.name for path in left] == ["bench.log", "load_requests.parquet"]
    outcomes = [(row.point, row.outcome) for row in read_rows(left[-1])]
    assert outcomes[:4] == [(0, "ok")] * 4
    assert {outcome for place, outcome in outcomes[4:] if place == 1} >= {"failed"}


def test_a_wrong_key_is_told(tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_KEY", KEY)
    monkeypatch.setenv("WRONG_KEY", "another")
    with fake_server(tmp_path, "--api-key-variable", "SERVER_KEY") as endpoint:
        code, _, err, left = benched(tmp_path, tokenizer, address(endpoint.base_url, api_key_variable="WRONG_KEY"))
    assert (code, left) == (2, [])
    assert "answers 401 Unauthorized" in err and "`api_key_variable`" in err


def test_an_interrupted_bench_leaves_no_process_and_no_folder(tmp_path: Path, tokenizer: Path) -> None:
    with fake_server(tmp_path, "--mode", "silent") as endpoint:
        process = started(tmp_path, tokenizer, address(endpoint.base_url))
        assert process.stderr is not None
        while "smoke" not in (line := process.stderr.readline()):
            assert line, "it ended"
        below = children_of(process.pid)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert below
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in below) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in below if Path(f"/proc/{pid}").exists()]
    assert not list((tmp_path / "workspace").glob("bench/*"))


def children_of(pid: int) -> list[int]:
    from serving_checks.processes.guard import descendants_of

    assert pid != os.getpid()
    return descendants_of(pid)


@pytest.mark.thorough
def test_transformers_serve_is_loaded_with_answers_of_full_length(tmp_path: Path) -> None:
    model = make_tiny_llama(tmp_path / "model")
    # By the model's own word every token is the end of an answer.
    generation = json.loads((model / "generation_config.json").read_text())
    (model / "generation_config.json").write_text(json.dumps(generation | {"eos_token_id": list(range(512))}))
    serving = {"engine": "transformers", "max_model_len": 256, "kv_cache_gib": 1 / 128, "max_num_batched_tokens": 64}
    code, out, err, left = benched(tmp_path, model, serving, dtype="float32")
    assert out, err
    record = json.loads(out)
    failed = [check["check"] for check in record["checks"] if check["outcome"] == "fail"]
    # How fast a busy machine schedules is no matter of this test; that answers came, and of which length, is.
    assert code == (1 if failed else 0)
    for point in record["load_points"]:
        assert (point["completed"], point["output_tokens"], point["invalid"]) == (4, 4 * TOKENS, None)
        assert point["prompt_tokens"] == 4 * 12
        assert point["ttft"]["p50_seconds"] > 0 and point["tpot"]["p50_seconds"] > 0
    assert [check["check"] for check in record["checks"]] == ["batching", "starvation"]
    assert record["memory"]["peak_process_bytes"] > 0
    assert record["limits"]["serving"]["memory_bytes_per_second"] > 0, "from a process that was not forked"
    assert not [line for line in record["warnings"] if "another length" in line]
    assert [path.name for path in left] == ["load_requests.parquet", "record.json", "report.html", "server.log"]
    assert {row.output_tokens for row in read_rows(left[0])} == {TOKENS}


def test_vllm_is_benched_from_one_fork_server(tmp_path: Path) -> None:
    model = make_tiny_llama(tmp_path / "model")
    serving = {"engine": "vllm", "max_model_len": 256, "max_num_seqs": 4, "kv_cache_gib": 0.25}
    code, out, err, left = benched(tmp_path, model, serving, checks={"batching": None, "starvation": None})
    assert code == 0, err
    record = json.loads(out)
    assert record["forked"]
    assert record["memory"]["weights_bytes_by_rank"]
    # The embedding table is apart from the output layer: 512 rows of 128 in the dtype that is served.
    assert record["memory"]["unread_weights_bytes"] == 512 * 128 * (4 if record["dtype"] == "float32" else 2)
    limits = record["limits"]
    assert limits["notes"] == [] and limits["serving"]["threads"] == record["threads"]
    assert all(rate > 0 for name, rate in limits["serving"].items() if name.endswith("_second"))
    assert record["work"]["head_parameters"] == 512 * 128
    found = ServingRecord.model_validate(record)
    shares = [decode_share(found, point) for point in found.load_points]
    assert all(share and share.limit.endswith("arithmetic") for share in shares), "it fits the cache"
    assert prefill_share(found, found.load_points[0])
    for point in record["load_points"]:
        assert point["output_tokens"] == point["server_output_tokens"] == 4 * TOKENS
    assert [path.name for path in left] == ["load_requests.parquet", "record.json", "report.html", "server.log"]
