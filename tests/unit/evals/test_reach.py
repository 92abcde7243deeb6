"""Which verdicts a suite can reach, said before anything is asked."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from evals.judging.reach import Reach, reach
from evals.suites import leaf_tasks
from evals.suites.resolve import resolve
from evals.suites.suite import Category, Suite
from registry.contracts import CategoryScore, EvaluationRecord
from tests.records import CONDITIONS

TASK = """
task: NAME
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
output_type: multiple_choice
metric_list: [{metric: acc}]
"""


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of rows of the tasks t0 to t5."""
    for number in range(6):
        (tmp_path / f"t{number}.yaml").write_text(TASK.replace("NAME", f"t{number}"))
    monkeypatch.setattr(
        leaf_tasks, "own_task_files", lambda: {f"t{number}": tmp_path / f"t{number}.yaml" for number in range(6)}
    )
    return tmp_path / "rows.jsonl"


def suite_of(categories: int = 6, **more: Any) -> Suite:
    made = [
        Category.model_validate({"name": f"c{n}", "description": "", "tasks": [f"t{n}"], "metric": "acc"} | more)
        for n in range(categories)
    ]
    return Suite(name="mine", version="1", description="", categories=made)


def reached(rows: Path, items: int, suite: Suite, baseline: EvaluationRecord | None = None) -> list[Reach]:
    rows.write_text("".join(json.dumps({"question": n}) + "\n" for n in range(items)))
    return reach(resolve(suite), baseline)


def test_with_too_few_items_no_artifact_can_pass_and_the_number_that_would_is_said(rows: Path) -> None:
    found = reached(rows, 280, suite_of())
    assert not any(one.can_pass or one.chance for one in found)
    assert {one.said for one in found} == {"cannot pass with this n: 281 would, if nothing flips"}
    assert all(one.can_pass for one in reached(rows, 281, suite_of()))


def test_holm_is_asked_of_the_gate_itself(rows: Path) -> None:
    """A category with many items passes first, and the last one is held to the whole level only."""
    suite = suite_of(2)
    large = suite.categories[0].model_copy(update={"limit": 1000})
    small = suite.categories[1].model_copy(update={"limit": 140})
    found = reached(rows, 1000, suite.model_copy(update={"categories": [large, small]}))
    assert [(one.items, one.can_pass) for one in found] == [(1000, True), (140, True)]
    twin = small.model_copy(update={"name": "c0", "tasks": ["t0"]})
    alone = reached(rows, 1000, suite.model_copy(update={"categories": [small, twin]}))
    assert [one.can_pass for one in alone] == [False, False]


def test_few_items_may_pass_and_many_can(rows: Path) -> None:
    suite = suite_of(margin=0.05)
    (few, *_), (many, *_) = reached(rows, 200, suite), reached(rows, 2000, suite)
    assert (few.can_pass, many.can_pass) == (True, True)
    assert few.said == "may pass: 470 would with 80%"
    assert 0 < few.chance < 0.8 < many.chance
    assert many.said == "can pass"


def test_a_baseline_that_guesses_cannot_pass(rows: Path) -> None:
    suite = suite_of(1, chance=0.5)
    score = CategoryScore(
        category="c0",
        metric="acc",
        value=0.51,
        stderr=0.01,
        items=2000,
        higher_is_better=True,
        chance=0.5,
        unit="share",
    )
    record = EvaluationRecord(
        model_digest="sha256:m",
        conditions=CONDITIONS,
        suite="mine",
        suite_version="1",
        suite_digest="sha256:s",
        tasks=[],
        categories=[score],
        samples_file="",
        requests=0,
        truncated_prompts=0,
    )
    (found,) = reached(rows, 2000, suite, record)
    assert (found.can_pass, found.said) == (False, "cannot pass: the baseline has next to nothing above guessing")


def test_a_perplexity_can_pass_with_one_document_and_seldom_does(rows: Path) -> None:
    """Where not a bit changed, that is all there is to know."""
    suite = suite_of(1, unit="perplexity", higher_is_better=False, margin=0.05)
    (one,) = reached(rows, 1, suite)
    assert (one.can_pass, one.fewest, one.chance) == (True, 1, 0.0)


@pytest.mark.slow
def test_rows_that_are_not_here_are_not_counted() -> None:
    suite = Suite(
        name="s",
        version="1",
        description="",
        categories=[Category(name="c", description="", tasks=["piqa"], metric="acc", items="auto", margin=0.05)],
    )
    resolved = resolve(
        suite.model_copy(update={"categories": [suite.categories[0].model_copy(update={"items": None})]})
    )
    (found,) = reach(resolved)
    assert (found.items, found.can_pass) == (None, True)
    assert found.said == f"the rows are not here: {found.wanted} are wanted"


def test_auto_asks_as_many_items_as_pass_with_the_suites_power(rows: Path) -> None:
    (category,) = suite_of(1, items="auto", margin=0.05, tasks=["t0", "t1"]).categories
    suite = suite_of(1).model_copy(update={"categories": [category]})
    rows.write_text("".join(json.dumps({"question": n}) + "\n" for n in range(1000)))
    resolved = resolve(suite)
    wanted = suite.items_of(category)
    assert wanted is not None
    assert 200 < wanted < 400
    # Each task has an equal share, rounded up.
    assert wanted <= (resolved.items_of("c0") or 0) <= wanted + 1
    assert reach(resolved)[0].chance >= 0.8


def test_another_margin_or_assumption_is_another_sample_and_another_digest(rows: Path) -> None:
    rows.write_text("".join(json.dumps({"question": n}) + "\n" for n in range(1000)))
    found = [
        resolve(suite_of(1, items="auto", margin=margin, assumed_flips=flips)).tasks[0]
        for margin, flips in ((0.05, 0.1), (0.06, 0.1), (0.05, 0.05))
    ]
    assert len({one.limit for one in found}) == 3
    assert len({one.digest for one in found}) == 3


def test_items_are_counted_once() -> None:
    with pytest.raises(ValidationError, match="give one of them"):
        suite_of(1, items=100, limit=10)


@pytest.mark.parametrize(
    ("kinds", "can_pass", "said"),
    [
        (9, False, "cannot pass: its kinds are declared a sample, and 9 of them are too few"),
        (12, False, "cannot pass with so few kinds or tasks, which are a sample: more of them would"),
        (200, True, "can pass"),
    ],
)
def test_kinds_that_are_a_sample_are_what_counts(rows: Path, kinds: int, can_pass: bool, said: str) -> None:
    suite = suite_of(1, kind="template", kinds_are="sample", margin=0.05)
    rows.write_text("".join(json.dumps({"template": n % kinds, "n": n}) + "\n" for n in range(600)))
    (found,) = reach(resolve(suite))
    assert found.can_pass is can_pass
    assert found.said.startswith(said)
