"""The shipped suite is what it says; a wrong suite is told with near names."""

from collections import Counter
from pathlib import Path

import pytest

from configs.errors import ConfigError, RequestError
from evals import suite as suite_module
from evals.suite import load_suite, rows_of, task_config
from evals.tasks.demo import build

SUITE = """
name: mine
version: "1"
description: test
categories:
  - {name: grammar, description: d, metric: acc, chance: 0.5, tasks: [TASK]}
"""


def write(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_the_demo_suite_is_large_enough_and_has_no_twins() -> None:
    suite = load_suite("demo")
    assert len(suite.categories) >= 6
    for task in suite.task_names:
        rows = [str(sorted(row.items())) for row in rows_of(task)]
        assert len(rows) >= 100, task
        assert [row for row, count in Counter(rows).items() if count > 1] == [], task


def test_item_texts_stand_in_the_data() -> None:
    suite = load_suite("demo")
    assert len(suite.item_texts()) == sum(1 for task in suite.task_names for _ in rows_of(task))


def test_data_files_are_absolute() -> None:
    files = task_config("demo_grammar")["dataset_kwargs"]["data_files"].values()
    assert all(Path(name).is_absolute() and Path(name).exists() for name in files)


def test_the_digest_follows_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_suite("demo").digest
    assert load_suite("demo").digest == before
    monkeypatch.setattr(suite_module, "digest_of_file", lambda path: "sha256:changed")
    assert load_suite("demo").digest != before


def test_unknown_suite_names_the_near_one() -> None:
    with pytest.raises(RequestError) as caught:
        load_suite("demoo")
    assert "did you mean demo" in caught.value.remedy


def test_unknown_task_names_the_near_ones(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        load_suite(write(tmp_path, SUITE.replace("TASK", "demo_grammer")))
    assert "no evaluation task 'demo_grammer'" in caught.value.what
    assert "did you mean demo_grammar" in caught.value.remedy


def test_a_task_in_two_places(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="demo_grammar stands twice"):
        load_suite(write(tmp_path, SUITE.replace("TASK", "demo_grammar, demo_grammar")))


def test_perplexity_must_be_lower_is_better(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="higher_is_better: false"):
        load_suite(
            write(
                tmp_path,
                SUITE.replace("TASK", "demo_grammar").replace(
                    "metric: acc", "metric: word_perplexity, unit: perplexity"
                ),
            )
        )


def test_a_task_without_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite_module, "rows_of", lambda task: iter(()))
    with pytest.raises(RequestError, match=r"task demo_grammar .* has no items"):
        load_suite(write(tmp_path, SUITE.replace("TASK", "demo_grammar")))


def test_the_template_made_items_are_what_the_script_writes() -> None:
    assert build.main(check=True) == 0
