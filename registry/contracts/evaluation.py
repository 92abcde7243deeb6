"""What a model scored on an evaluation suite."""

from typing import Literal

from registry.contracts.base import Record


class TaskScore(Record):
    """One lm-eval task's score on one metric and filter."""

    task: str
    category: str
    metric: str
    """lm-eval's metric name: `acc`, `exact_match`, `word_perplexity`, ..."""
    filter: str
    value: float
    stderr: float | None
    """Standard error of `value` over items (`evals.samples.category_score`); None for a single item."""
    items: int
    higher_is_better: bool
    chance: float | None
    """What guessing scores; None where guessing has no score (perplexity)."""


class CategoryScore(Record):
    """The items of a category's tasks taken together; a category holds one metric."""

    category: str
    metric: str
    value: float
    stderr: float | None
    items: int
    higher_is_better: bool
    chance: float | None
    unit: Literal["share", "perplexity"]


class EvaluationRecord(Record):
    model_digest: str
    """Digest of the checkpoint or artifact that was served."""
    suite: str
    suite_version: str
    suite_digest: str
    """Of the suite's definition and its data together."""
    tasks: list[TaskScore]
    categories: list[CategoryScore]
    samples_file: str
    """Per-item results, JSON lines, beside this record: task, doc_id, doc_hash, prompt_hash, target_hash, score."""
    requests: int
    truncated_prompts: int
