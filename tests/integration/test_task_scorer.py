"""Answers of a replay scored by lm-eval's own tasks."""

import json

import pytest

from configs.errors import QuantbenchError, RequestError
from evals.asking.task_scorer import TaskScorer, check_task_scorer
from evals.judging.known_answers import TaskScorerConfig

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

GSM8K = TaskScorerConfig(task="gsm8k", filter="strict-match")
DOCUMENTS = {
    "a": json.dumps({"question": "What is 2 + 3?", "answer": "2 + 3 = 5\n#### 5"}),
    "b": json.dumps({"question": "What is 7 times 1000?", "answer": "#### 7,000"}),
}


def test_gsm8k_is_scored_as_lm_eval_does() -> None:
    strict = TaskScorer(GSM8K, DOCUMENTS)
    loose = TaskScorer(GSM8K.model_copy(update={"filter": "flexible-extract"}), DOCUMENTS)
    for name, text, by_strict, by_loose in (
        ("a", " It is 5.\n#### 5", 1.0, 1.0),
        ("a", " It is 5.", 0.0, 1.0),
        ("a", " It is 6.\n#### 6", 0.0, 0.0),
        ("b", "#### 7000", 1.0, 1.0),
        ("b", "", 0.0, 0.0),
        # What comes behind the task's stop sequence is not part of the answer.
        ("a", " #### 6\n\nQuestion: another\n#### 5", 0.0, 0.0),
    ):
        assert strict.score(name, text) == by_strict, text
        assert loose.score(name, text) == by_loose, text


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"task": "gsm9k"}, "there is no evaluation task 'gsm9k'"),
        ({"task": "arc_easy", "metric": "acc"}, "is scored by likelihoods"),
        ({"task": "bbh", "filter": "get-answer"}, "is a group of"),
        ({"task": "gsm8k", "metric": "f2"}, "f2"),
        ({"task": "gsm8k", "filter": "none"}, "none"),
        ({"task": "humaneval", "metric": "pass@1"}, "runs code that the model wrote"),
    ],
)
def test_what_cannot_score_is_known_before_work(config: dict[str, str], said: str) -> None:
    with pytest.raises(QuantbenchError) as caught:
        check_task_scorer(TaskScorerConfig.model_validate(config))
    assert said in str(caught.value)


@pytest.mark.parametrize("document", ["Paris", "[1]", "{"])
def test_a_document_that_is_none(document: str) -> None:
    with pytest.raises(RequestError, match="is no JSON object"):
        TaskScorer(GSM8K, {"a": document})
