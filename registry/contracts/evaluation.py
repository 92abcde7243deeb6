"""What a model scored on an evaluation suite."""

from typing import Literal

from registry.contracts.base import Record

Spending = Literal["obrien_fleming", "pocock"]
"""How the error is spent over several looks at the data."""


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
    low: float | None = None
    """95 % interval of a share, by its score; of finite width where all items are right, whose `stderr` is 0."""
    high: float | None = None


class CategoryLook(Record):
    """How far an adaptive evaluation went in one category: to the look that decided it, or to its last."""

    category: str
    number: int
    """The look, 1 for the first."""
    fractions: tuple[float, ...]
    """Share of the category's independent items at each of its looks; known before the first."""
    spending: Spending
    items: int
    """Asked by then; documents for perplexity."""
    items_available: int
    """Of the suite, as the baseline answered them."""

    @property
    def stopped_early(self) -> bool:
        return self.items < self.items_available


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
    """Per-item results, Parquet, beside this record: one row for each task, filter and document (`evals.samples`)."""
    requests: int
    """Questions that the tasks asked: a choice's log-likelihood, a window of a text, a text to write."""
    requests_sent: int = 0
    """Requests that the server got: fewer where questions share one, none for answers out of the cache."""
    answers_from_cache: int = 0
    """Questions that an earlier evaluation of the same model and engine had answered."""
    truncated_prompts: int
    looks: list[CategoryLook] = []
    """Of an adaptive evaluation, one a category; empty where all items were asked."""
