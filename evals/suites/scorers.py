"""What the scoring functions of some tasks need besides Python packages, and what makes them give one answer."""

from __future__ import annotations

import sys
from pathlib import Path

from configs.errors import RequestError
from evals.suites.leaf_tasks import LeafTask

_SENTENCES = "tokenizers/punkt_tab"
_READS_SENTENCES = {"ifeval"}
"""Folders of lm-eval's tasks whose scorers split sentences by NLTK."""


def check_scorer(leaf: LeafTask, root: Path) -> None:
    """Find what the task's scorer reads, in `root/nltk_data` too, before a model is asked anything.

    Raises:
        RequestError: It is not there.
    """
    if not any(function.folder.name in _READS_SENTENCES for function in leaf.functions):
        return
    import nltk  # type: ignore[import-untyped]

    own = str(root / "nltk_data")
    if own not in nltk.data.path:
        nltk.data.path.insert(0, own)
    try:
        nltk.data.find(f"{_SENTENCES}/english/")
    except LookupError:
        raise RequestError(
            f"task {leaf.name} is scored with NLTK's {_SENTENCES.rpartition('/')[2]}, which is not on this machine",
            remedy="run `make nltk-data`; where no package registry answers, run on another machine `python -m "
            f"nltk.downloader -d nltk_data punkt_tab` and copy nltk_data to {own}; or take the task out of the suite",
        ) from None


def steady_scorers() -> None:
    """Take chance out of what the imported scorers use: langdetect draws lots on short texts unless it is seeded."""
    if "langdetect" in sys.modules:
        sys.modules["langdetect"].DetectorFactory.seed = 0
