"""The whole pipeline on real engines and a tiny random Llama: quantized, inspected, served, scored, recorded."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines.records.events import StageOutcome, side_by_side
from registry.store import Store
from tests.tiny_llama import make_tiny_llama

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1500)]

CORES = len(os.sched_getaffinity(0))

RECIPE = """
version: 1
name: tiny
source: {{kind: folder, path: {model}}}
calibration: {{source: self, samples: 16, tokens: 64}}
methods:
  nf4: {{method: bnb_nf4}}
  gptq: {{method: gptq, group_size: 32}}
replicates: {{gptq: 2}}
evaluation: {{suite: {suite}, data_parallel_size: auto}}
serving: {{max_model_len: 256, max_num_seqs: 8, kv_cache_gib: 0.25}}
load:
  profiles: [{{kind: concurrent, levels: [1, 4]}}]
  prompts: {{short: 16}}
  requests: 4
  output_tokens: 8
"""

SUITE = """
name: tiny
version: "1"
description: Two categories of the demo suite, one of each unit.
categories:
  - {name: grammar, description: d, chance: 0.5, metric: acc, tasks: [demo_grammar]}
  - {name: language, description: d, metric: word_perplexity, unit: perplexity, higher_is_better: false,
     tasks: [demo_language]}
"""


def quantbench(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-P", "-m", "pipelines.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("e2e")
    make_tiny_llama(folder / "model")
    (folder / "suite.yaml").write_text(SUITE)
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(model=folder / "model", suite=folder / "suite.yaml"))
    return path


@pytest.fixture(scope="module")
def record(recipe: Path) -> dict[str, Any]:
    finished = quantbench("run", str(recipe), "--workspace", str(recipe.parent / "workspace"), "--json")
    assert finished.returncode == 0, finished.stderr
    parsed: dict[str, Any] = json.loads(finished.stdout)
    return parsed


def test_every_row_is_measured(record: dict[str, Any]) -> None:
    rows = {row["name"]: row for row in record["rows"]}
    # Where bfloat16 is slow, the baseline is served in float32 and asked in bfloat16 too.
    assert set(rows) - {"baseline+bfloat16"} == {"baseline", "nf4", "gptq", "gptq+2"}
    for name, row in rows.items():
        assert row["failure"] is None, name
        scores = {score["category"]: score for score in row["measurement"]["evaluation"]["categories"]}
        # A random model guesses; both sentences are about as long.
        assert 0.3 < scores["grammar"]["value"] < 0.7
        assert scores["language"]["value"] > 100
        points = row["measurement"]["serving"]["load_points"]
        loaded = [] if "+" in name else [(4, 32), (4, 32)]
        assert [(point["completed"], point["output_tokens"]) for point in points] == loaded
        assert bool(row["measurement"]["serving"]["checks"]) == bool(loaded)
        assert row["measurement"]["serving"]["smoke_answer"]
        assert row["measurement"]["serving"]["memory"]["kv_cache_tokens"] > 0
        # One server more on two cores; with more cores the one has them.
        assert row["measurement"]["evaluation"]["servers"] == max(1, CORES // max(1, CORES - 1))
        # A fork server that does not answer is no error: without this nobody would see that it never does.
        assert row["measurement"]["serving"]["forked"]
    assert rows["gptq"]["artifact"]["digest"] != rows["gptq+2"]["artifact"]["digest"]
    for name in ("nf4", "gptq", "gptq+2"):
        row = rows[name]
        assert 4 <= row["artifact"]["bits_per_weight"] < 6
        assert row["artifact"]["fallback_count"] == 0
        assert all(check["passed"] for check in row["inspection"]["checks"])
        assert {kept["category"] for kept in row["retention"]["categories"]} == {"grammar", "language"}
        assert 0.8 < row["retention"]["categories"][1]["retention"] < 1.2
        for kept in row["retention"]["categories"]:
            assert kept["difference_low"] < kept["difference"] < kept["difference_high"]
            assert kept["verdict"] in ("pass", "fail", "inconclusive")
            assert kept["verdict_reason"]
        assert {found["by"] for found in row["characterization"]["breakdowns"]} >= {"category", "prompt length"}
        # Both models are nearly uniform over their tokens, but not the same one.
        assert 0 < row["token_agreement"]["kl_nats"] < 1


def test_artifacts_are_made_beside_each_other_and_nothing_beside_a_measurement(record: dict[str, Any]) -> None:
    beside = side_by_side([StageOutcome.model_validate(one) for one in record["outcomes"]])
    assert [others for name, others in beside.items() if name.startswith("measure:") and others] == []
    # Elsewhere stages follow one another.
    shared = CORES == 2 and record["machine"]["memory_bytes"] > 10 << 30
    made = [name for name, others in beside.items() if any(one.startswith("quantize:") for one in others)]
    assert ("quantize:gptq" in made) == shared


def test_the_baseline_is_proved_sound_and_beside_transformers(record: dict[str, Any]) -> None:
    checks = {check["name"]: check for check in record["rows"][0]["soundness"]}
    outcomes = {name: check["outcome"] for name, check in checks.items()}
    assert outcomes == {"finite": "pass", "language": "warn", "beginning": "pass", "answers": "pass", "served": "pass"}
    assert "vllm" in checks["served"]["detail"]
    assert "KL divergence" in checks["served"]["detail"]


def test_the_page_stands_alone(record: dict[str, Any]) -> None:
    page = Path(record["page"]).read_text()
    assert "gptq+2" in page
    assert "The artifact, or the method?" in page
    assert "src=" not in page


def test_mlflow_has_it_all(recipe: Path, record: dict[str, Any]) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{recipe.parent / 'workspace' / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.get_experiment_by_name("quantbench")
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {record["run_id"]} | {row["name"] for row in record["rows"]}
    parent = runs[record["run_id"]]
    assert runs["gptq"].data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert runs["gptq"].data.metrics["language.retention"] > 0
    assert {dataset.dataset.name for dataset in runs["gptq"].inputs.dataset_inputs} == {"calibration", "suite-tiny"}
    assert {item.path for item in client.list_artifacts(parent.info.run_id)} == {
        "config.json",
        "report.html",
        "review.json",
    }
    versions = client.search_model_versions("name = 'tiny'")
    store = Store(recipe.parent / "workspace" / "store")
    assert {version.source for version in versions} == {
        store.path(version.tags["quantbench.digest"]).as_uri() for version in versions
    }
    assert {version.tags["quantbench.method"] for version in versions} == {"none", "gptq", "bnb_nf4"}
    assert {version.tags["quantbench.sound"] for version in versions} == {"true"}


def test_the_commands_read_what_the_run_left(recipe: Path, record: dict[str, Any]) -> None:
    workspace = str(recipe.parent / "workspace")
    planned = json.loads(quantbench("plan", str(recipe), "--workspace", workspace, "--json").stdout)
    assert {stage["action"] for stage in planned["stages"]} == {"reuse"}
    listed = json.loads(quantbench("artifacts", "list", "--workspace", workspace, "--json").stdout)
    # Made beside each other, any of them may be the oldest, which comes first.
    digests = {artifact["name"]: artifact["digest"] for artifact in listed}
    assert sorted(digests) == ["gptq", "gptq+2", "nf4"]
    shown = json.loads(quantbench("artifacts", "show", digests["gptq"], "--workspace", workspace).stdout)
    assert shown["method"] == "gptq"
    assert quantbench("artifacts", "verify", "--workspace", workspace).returncode == 0
    compared = quantbench("compare", "nf4", "gptq", "--workspace", workspace, "--json")
    said = json.loads(compared.stdout)["retention"]
    assert compared.returncode == {"pass": 0, "fail": 1, "inconclusive": 4}[said["verdict"]]
    assert [kept["category"] for kept in said["categories"]] == ["grammar", "language"]
    again = quantbench("run", str(recipe), "--workspace", workspace, "--json")
    assert {outcome["how"] for outcome in json.loads(again.stdout)["outcomes"]} == {"reused"}
    assert "recorded before" in json.loads(again.stdout)["tracking"]


def test_a_damaged_artifact_is_noticed_and_made_anew(recipe: Path, record: dict[str, Any]) -> None:
    workspace = recipe.parent / "workspace"
    digest = next(row["artifact"]["digest"] for row in record["rows"] if row["name"] == "nf4")
    weights = next(Store(workspace / "store").path(digest).glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    verified = quantbench("artifacts", "verify", digest, "--workspace", str(workspace))
    assert verified.returncode == 3
    assert f"{weights.name}: changed" in verified.stdout
    again = quantbench("run", str(recipe), "--workspace", str(workspace), "--json")
    assert again.returncode == 0, again.stderr
    assert f"{weights.name}: changed" in again.stderr
    ended = json.loads(again.stdout)
    assert [outcome["name"] for outcome in ended["outcomes"] if outcome["how"] != "reused"] == ["quantize:nf4"]
    assert [row["measurement"] for row in ended["rows"]] == [row["measurement"] for row in record["rows"]]
    assert quantbench("artifacts", "verify", "--workspace", str(workspace)).returncode == 0


# The last: it leaves the workspace with a run that ended early.
def test_a_published_score_that_is_missed_stops_the_run(recipe: Path, record: dict[str, Any]) -> None:
    workspace = str(recipe.parent / "workspace")
    expected = 'expect=[{task: demo_grammar, score: 0.99, tolerance: 0.01, source: "a card"}]'
    # Another artifact, so that there is something that must not be made.
    changed = ("--set", expected, "--set", "methods.gptq.group_size=64")
    finished = quantbench("run", str(recipe), "--workspace", workspace, "--json", *changed)
    assert finished.returncode == 3
    told = json.loads(finished.stdout)
    how = {outcome["name"]: outcome["how"] for outcome in told["outcomes"]}
    assert how.pop("measure:baseline") == "failed"
    assert {how.pop(name) for name in ("prepare", "soundness")} == {"reused"}
    beside = {how.pop(name) for name in list(how) if name.startswith("calibrate")}
    assert beside <= {"reused", "skipped"}, "rows may be made beside the baseline's measurement"
    assert set(how.values()) == {"skipped"}
    assert "BASELINE MISMATCH: demo_grammar acc is 0." in told["rows"][0]["failure"]
    assert {row["failure"] for row in told["rows"][1:]} == {None}
    assert {row["blocked_by"] for row in told["rows"][1:] if row["name"] in ("nf4", "gptq")} == {"measure:baseline"}
