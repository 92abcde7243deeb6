"""Published scores beside measured ones."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from configs.errors import RequestError
from evals.judging.expectation import Expectation, check_expectations, compare_expected
from evals.suites.local_data import DataConfig
from evals.suites.resolve import ResolvedSuite, resolve
from evals.suites.suite import Category, Suite
from registry.contracts import CategoryScore, EvaluationRecord, TaskScore
from tests.records import CONDITIONS


def suite_of(**changes: Any) -> ResolvedSuite:
    fields = {"name": "knowledge", "description": "d", "tasks": ["demo_knowledge"], "metric": "acc", "chance": 0.0}
    category = Category.model_validate(fields | changes)
    return resolve(Suite(name="s", version="1", description="d", categories=[category]))


def evaluation(value: float, stderr: float | None = 0.04, items: int = 120) -> EvaluationRecord:
    score: dict[str, Any] = {"metric": "acc", "value": value, "stderr": stderr, "items": items}
    score |= {"category": "knowledge", "higher_is_better": True, "chance": 0.0}
    return EvaluationRecord(
        model_digest="sha256:m",
        conditions=CONDITIONS,
        suite="s",
        suite_version="1",
        suite_digest="sha256:s",
        tasks=[TaskScore(task="demo_knowledge", filter="none", **score)],
        categories=[CategoryScore(unit="share", **score)],
        samples_file="",
        requests=0,
        truncated_prompts=0,
    )


def expected(**changes: Any) -> Expectation:
    fields = {"task": "demo_knowledge", "score": 0.64, "tolerance": 0.02, "source": "the model card"}
    return Expectation.model_validate(fields | changes)


@pytest.mark.parametrize("task", ["demo_knowledge", "knowledge"])
def test_a_mismatch_says_both_numbers_and_where_the_other_is_from(task: str) -> None:
    found = compare_expected(expected(task=task), evaluation(0.03), suite_of(), None)
    assert found.outcome == "fail"
    assert found.detail == (
        f"BASELINE MISMATCH: {task} acc is 0.03 ± 0.04 over 120 items, expected 0.64 ± 0.02 (the model card)"
    )
    assert "BOS" in found.remedy
    assert compare_expected(expected(task=task), evaluation(0.65), suite_of(), None).outcome == "pass"


def test_of_all_items_the_tolerance_is_what_was_asked_for() -> None:
    assert compare_expected(expected(), evaluation(0.60), suite_of(), None).outcome == "fail"


def test_of_a_sample_its_own_interval_is_allowed_too_and_said() -> None:
    found = compare_expected(expected(), evaluation(0.60, items=50), suite_of(limit=50), None)
    assert found.outcome == "pass"
    assert "asks at most 50 items a task, so its own 95 % interval is allowed too: ± 0.0984 in all" in found.detail
    # All items of the task are fewer than the limit: it is no sample.
    assert compare_expected(expected(), evaluation(0.60), suite_of(limit=5000), None).outcome == "fail"


def test_local_rows_may_be_a_part() -> None:
    suite = suite_of()
    root = next(iter(suite.tasks[0].files.values())).parent
    found = compare_expected(expected(), evaluation(0.60), suite, DataConfig(root=root))
    assert (found.outcome, "local files" in found.detail) == ("pass", True)
    assert compare_expected(expected(), evaluation(0.60), suite, DataConfig(root=Path("/nowhere"))).outcome == "fail"


def test_a_score_without_a_standard_error() -> None:
    assert compare_expected(expected(), evaluation(0.60, None, 1), suite_of(limit=1), None).outcome == "fail"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"task": "demo_knowlege"}, "neither a task nor a category of suite s"),
        ({"metric": "acc_norm"}, "by metric acc_norm; suite s scores it by acc"),
        ({"filter": "strict-match"}, "by filter strict-match; suite s scores it by none"),
    ],
)
def test_what_the_suite_does_not_measure_is_refused(changes: dict[str, str], says: str) -> None:
    with pytest.raises(RequestError, match=says) as raised:
        check_expectations([expected(), expected(**changes)], suite_of())
    assert "demo_knowledge" in raised.value.remedy or "published" in raised.value.remedy
    check_expectations([expected(metric="acc", filter="none")], suite_of())


@pytest.mark.parametrize("bad", [{"tolerance": 0}, {"source": ""}, {"tollerance": 0.1}, {"score": float("nan")}])
def test_bad_expectations(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        expected(**bad)
