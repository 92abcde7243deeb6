"""Benchmark rows that are in no cache: fetched from a stand-in for the hub by the library itself, then read offline."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
suite = resolve(Suite(name="test", version="1", description="", categories=[category]))
for line in sys.stdin:
    try:
        print("documents", len(prepare(suite).tasks["arc_easy"].eval_docs), flush=True)
    except Exception as error:
        print(type(error).__name__, *str(error).split(), flush=True)
"""


@contextmanager
def evaluation(hub: str, home: Path, log: Path) -> Iterator[Callable[[], str]]:
    """A process of its own, which prepares the suite and says what came of it each time that it is asked."""
    env = os.environ | {"HF_ENDPOINT": hub, "HF_TOKEN": TOKEN, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    # A stand-in on a busy machine takes its time.
    env |= dict.fromkeys(("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"), "100")
    argv = [sys.executable, "-P", "-c", PROGRAM]
    with (
        log.open("a") as said,
        subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True) as child,
    ):
        assert child.stdin is not None
        assert child.stdout is not None
        given, told = child.stdin, child.stdout

        def prepared() -> str:
            print(file=given, flush=True)
            return told.readline()

        yield prepared
        given.close()


def with_rows(hub: Hub, rows: int) -> None:
    files = {"README.md": CARD.encode(), "easy.jsonl": (json.dumps(ROW) + "\n").encode() * rows}
    hub.made("allenai/ai2_arc", files)


@pytest.mark.slow
def test_rows_are_fetched_once_and_then_read_without_a_hub(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running_hub() as hub:
        with evaluation(hub.address, tmp_path, log) as prepared:
            told = prepared()
            assert told.startswith("RequestError rows of allenai/ai2_arc are not in this machine's cache, and the hub")
            assert "evaluation.data" in told
            with_rows(hub, 3)
            assert prepared() == "documents 3\n", log.read_text()
            assert "fetching allenai/ai2_arc ARC-Easy from the hub" in log.read_text()
        asked = len(hub.asked)
        # Another revision: who asks next is asked the same rows all the same.
        with_rows(hub, 7)
        with evaluation(hub.address, tmp_path, log) as prepared:
            assert prepared() == "documents 3\n", log.read_text()
        assert len(hub.asked) == asked
