"""An adaptive run on real engines: the baseline is asked everything, the artifact until its categories are decided."""

import json
from pathlib import Path
from typing import Any

import pytest

from evals.samples import read_samples
from registry.store import Store
from tests.e2e.test_pipeline import CORES, quantbench
from tests.tiny_llama import make_tiny_llama

pytestmark = [pytest.mark.engine, pytest.mark.thorough, pytest.mark.timeout(900)]

RECIPE = """
version: 1
name: adaptive
source: {{kind: folder, path: {folder}/model}}
calibration: {{source: self, samples: 4, tokens: 16}}
methods: {{nf4: {{method: bnb_nf4}}}}
evaluation: {{suite: {folder}/suite.yaml, adaptive: true}}
serving: {{max_model_len: 256, max_num_seqs: 8, kv_cache_gib: 0.25}}
load: {{profiles: [{{kind: synchronous}}], prompts: {{short: 16}}, requests: 1, output_tokens: 4}}
"""

SUITE = """
name: tiny
version: "1"
description: Two categories that any artifact passes, and one whose two items decide nothing.
categories:
  - {name: grammar, description: d, metric: acc, tasks: [demo_grammar], limit: 120, margin: 0.15}
  - {name: commonsense, description: d, metric: acc, tasks: [demo_commonsense], limit: 2}
  - {name: language, description: d, metric: word_perplexity, unit: perplexity, higher_is_better: false,
     tasks: [demo_language], margin: 9.0}
"""


def test_categories_that_are_decided_are_asked_no_further(tmp_path: Path) -> None:
    make_tiny_llama(tmp_path / "model")
    (tmp_path / "suite.yaml").write_text(SUITE)
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(folder=tmp_path))
    common = str(tmp_path / "recipe.yaml"), "--workspace", str(tmp_path / "workspace"), "--json"
    # One server, whose evaluation may have others beside it: each measurement asks to be alone for what has a speed.
    shared = ("--set", "concurrency.stages=2") if CORES == 2 else ()
    finished = quantbench("run", *common, *shared)
    assert finished.returncode == 0, finished.stderr
    record: dict[str, Any] = json.loads(finished.stdout)
    measured = [one["result"] for one in record["outcomes"] if one["name"].startswith("measure:")]
    assert all(("wait_to_be_alone" in one["timings_seconds"]) == bool(shared) for one in measured)
    baseline, *_, artifact = record["rows"]
    found = {kept["category"]: kept for kept in artifact["retention"]["categories"]}
    assert found["language"]["verdict"] == found["grammar"]["verdict"] == "pass"
    assert found["commonsense"]["verdict"] == "inconclusive"
    assert (found["commonsense"]["look"]["number"], found["commonsense"]["look"]["fractions"]) == (2, [0.5, 1.0])
    assert found["language"]["items"] < 104
    asked = {look["category"]: look["items"] for look in artifact["measurement"]["evaluation"]["looks"]}
    assert asked == {name: kept["items"] for name, kept in found.items()}
    assert baseline["measurement"]["evaluation"]["looks"] == []
    page = Path(record["page"]).read_text()
    assert f"of 3, {asked['language']} of 104 items" in page

    store = Store(tmp_path / "workspace" / "store")
    objects = {one["name"]: one["result"]["object"] for one in record["outcomes"]}
    theirs, ours = (
        {
            (one.task, one.doc_id): one.prompt_hash
            for one in read_samples(store.path(objects[name]["digest"]) / "samples.parquet")
        }
        for name in ("measure:baseline", "measure:nf4")
    )
    assert ours.items() <= theirs.items()
    assert (len(theirs), len(ours)) == (226, sum(asked.values()))

    again = json.loads(quantbench("run", *common).stdout)
    assert {outcome["how"] for outcome in again["outcomes"]} == {"reused"}
    plan = json.loads(quantbench("plan", *common, "--set", "evaluation.adaptive=false").stdout)
    assert {stage["name"] for stage in plan["stages"] if stage["action"] == "run"} == {"measure:nf4"}
    compared = quantbench("compare", "baseline", "nf4", "--workspace", str(tmp_path / "workspace"))
    assert compared.returncode == 4
    assert f"{asked['language']} of 104" in compared.stdout
