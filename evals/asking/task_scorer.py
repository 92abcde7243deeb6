"""Answers scored as one of lm-eval's own tasks scores them: its stop sequences, its filter, its metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from configs.errors import RequestError
from configs.reading.json_text import parse_json
from evals.asking.lm_eval_runner import item_score, prepare
from evals.judging.known_answers import TaskScorerConfig
from evals.suites.generation import generation
from evals.suites.resolve import ResolvedSuite, resolve
from evals.suites.suite import Category, Suite

_SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")


def check_task_scorer(config: TaskScorerConfig) -> None:
    """Know before work whether answers can be scored by a task; imports no engine.

    Raises:
        RequestError: There is no such task, it is a group of several, generates nothing, or lacks metric or filter.
    """
    tasks = resolve(_suite(config)).tasks
    if len(tasks) != 1:
        raise RequestError(
            f"{config.task} is a group of {len(tasks)} tasks, and answers are scored by one",
            remedy=f"name one of them, such as {tasks[0].name}",
        )
    if tasks[0].config.get("output_type", "generate_until") != "generate_until":
        raise RequestError(
            f"task {config.task} is scored by likelihoods, and a replay has texts",
            remedy="name a task whose answers are generated, such as gsm8k",
        )


class TaskScorer:
    """Scores texts; takes seconds to make, since lm-eval is imported.

    Args:
        config: Which task, metric and filter.
        documents: By an id of the caller's: the task's document, a row of its data as a JSON object.

    Raises:
        RequestError: What `check_task_scorer` raises, or a document is none, or one that the task leaves out.
    """

    def __init__(self, config: TaskScorerConfig, documents: Mapping[str, str]) -> None:
        check_task_scorer(config)
        self._config = config
        rows = [_document(name, text) for name, text in documents.items()]
        (task,) = resolve(_suite(config)).tasks
        splits = {str(task.config[name]) for name in _SPLITS if task.config.get(name)}
        whole = replace(task, config=task.config | {"custom_dataset": lambda **_: _data_set(rows, splits)})
        self._task: Any = prepare(ResolvedSuite(_suite(config), (whole,))).tasks[task.name]
        made = list(self._task.eval_docs)
        if len(made) != len(rows):
            raise RequestError(
                f"task {config.task} takes {len(made)} of the {len(rows)} documents, so which is whose is not known",
                remedy="take those out that it leaves out by itself, or score by `exact`, `numeric` or `regex`",
            )
        self._documents = dict(zip(documents, made, strict=True))
        self._stop = list(generation(task.name, task.config.get("generation_kwargs")).stop)

    def score(self, name: str, text: str) -> float | None:
        """Of an answer to the document with this id, from 0 to 1; None where the metric is no share."""
        from lm_eval.api.instance import Instance
        from lm_eval.models.utils import postprocess_generated_text

        document = self._documents[name]
        instance = Instance("generate_until", document, ("", {}), 0)
        instance.resps = [postprocess_generated_text(text, self._stop, None)]
        for filters in self._task._filters:
            filters.apply([instance])
        found = self._task.process_results(document, [instance.filtered_resps[self._config.filter]])
        score, _ = item_score(self._config.metric, found, f"task {self._config.task}")
        return score if 0 <= score <= 1 else None


def _suite(config: TaskScorerConfig) -> Suite:
    asked = {"tasks": [config.task], "metric": config.metric, "filter": config.filter}
    category = Category(name="answers", description="", **asked)
    return Suite(name="answers", version="1", description="", categories=[category])


def _document(name: str, text: str) -> dict[str, Any]:
    try:
        document = parse_json(text)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise RequestError(
            f"the known answer of prompt {name[:19]} is no JSON object",
            remedy="a task's own scorer reads the task's document: put the row of its data there",
        )
    return document


def _data_set(rows: list[dict[str, Any]], splits: set[str]) -> Any:
    from datasets import Dataset, DatasetDict

    # Each split that the task names: which one it scores is its own affair.
    return DatasetDict(dict.fromkeys(sorted(splits), Dataset.from_list(rows)))
