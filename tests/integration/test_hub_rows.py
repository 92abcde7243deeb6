"""Benchmark rows that are in no cache: fetched from a stand-in for the hub by the library itself, then read offline."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fake_hub import TOKEN, Hub, running_hub

CARD = """\
---
configs:
- config_name: ARC-Easy
  data_files:
  - {split: train, path: easy.jsonl}
  - {split: validation, path: easy.jsonl}
  - {split: test, path: easy.jsonl}
---
"""
ROW = {
    "id": "a",
    "question": "What falls?",
    "choices": {"text": ["a stone", "a cloud", "a star", "a hill"], "label": ["A", "B", "C", "D"]},
    "answerKey": "A",
}
PROGRAM = """
import sys
from evals.asking.lm_eval_runner import prepare
from evals.suites.resolve import resolve
from evals.suites.suite import Category, Suite

category = Category(name="one", description="", tasks=["arc_easy"], metric="acc", chance=0.25)
suite = Suite(name="test", version="1", description="", categories=[category])
try:
    print("documents", len(prepare(resolve(suite)).tasks["arc_easy"].eval_docs))
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def prepared(hub: str, home: Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"HF_ENDPOINT": hub, "HF_TOKEN": TOKEN, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    argv = [sys.executable, "-P", "-c", PROGRAM]
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=200, check=False)


def with_rows(hub: Hub, rows: int) -> None:
    files = {"README.md": CARD.encode(), "easy.jsonl": (json.dumps(ROW) + "\n").encode() * rows}
    hub.made("allenai/ai2_arc", files)


@pytest.mark.slow
def test_rows_are_fetched_once_and_then_read_without_a_hub(tmp_path: Path) -> None:
    with running_hub() as hub:
        with_rows(hub, 3)
        first = prepared(hub.address, tmp_path)
        assert "documents 3" in first.stdout, first.stderr
        assert "fetching allenai/ai2_arc ARC-Easy from the hub" in first.stderr
        asked = len(hub.asked)
        # Another revision: who asks next is asked the same rows all the same.
        with_rows(hub, 7)
        assert "documents 3" in prepared(hub.address, tmp_path).stdout
        assert len(hub.asked) == asked
    assert "documents 3" in prepared("http://127.0.0.1:9", tmp_path).stdout


@pytest.mark.slow
def test_rows_that_no_hub_has_are_told_with_the_ways_out(tmp_path: Path) -> None:
    with running_hub() as hub:
        told = prepared(hub.address, tmp_path).stderr
    assert "RequestError: rows of allenai/ai2_arc are not in this machine's cache, and the hub gives none" in told
    assert "doesn't exist on the Hub" in told
    assert "evaluation.data" in told
