"""What a model scored on an evaluation suite."""

from typing import Literal

from registry.contracts.base import Record

Spending = Literal["obrien_fleming", "pocock"]
"""How the error is spent over several looks at the data."""

Sampling = Literal["fixed", "sample"]
"""Of the parts of a category: `fixed`, they are what is asked about, or `sample`, they stand for others like them."""


class AskingConditions(Record):
    """What shapes an answer besides weights and dtype: scores compare where all of it is equal."""

    max_model_len: int
    """Context length in tokens: what is longer was cut at its beginning, and a running text read in pieces."""
    tokenizer: str
    """Digest of the tokenizer's vocabulary, special tokens and rules."""
    chat_template: str | None = None
    """Digest of the template that questions were asked through; None where none was."""
    engine: dict[str, str] = {}
    """The engine's name, version and settings by their names."""


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
    truncated: int = 0
    """Items whose prompt did not fit into the context: its beginning was left out."""
    windows: int = 0
    """Pieces that running texts were read in, a text that fits in one; 0 where no text is read."""
    tied: int = 0
    """Items whose score hung on two tokens, or two choices, that were exactly as likely as far as the engine tells."""


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
    tasks_are: Sampling = "fixed"
    """What the suite says of the category's tasks."""
    kinds_are: Sampling | None = None
    """Of the kinds of items within a task; None where a document names none."""
    low: float | None = None
    """95 % interval of a share, by its score; of finite width where all items are right, whose `stderr` is 0."""
    high: float | None = None
    truncated: int = 0
    """This and what follows as in `TaskScore`."""
    windows: int = 0
    tied: int = 0


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


class AskedAlone(Record):
    """Items that were asked once more with nothing beside them on the server."""

    items: int
    changed: int
    """Scored otherwise than in the evaluation, where many are computed at a time."""
    changed_low: float
    """95 % interval of the share that is."""
    changed_high: float
    mean_shift_nats: float | None
    """Mean size of the change of a log-likelihood; None where text was generated only."""


class EvaluationRecord(Record):
    schema_version: int = 2
    model_digest: str
    """Digest of the checkpoint or artifact that was served."""
    conditions: AskingConditions
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
    servers: int = 1
    """Servers of the model that shared the questions."""
    answers_from_cache: int = 0
    """Questions that an earlier evaluation of the same model and engine had answered."""
    truncated_prompts: int
    """Requests whose beginning was left out; the scores count items."""
    looks: list[CategoryLook] = []
    """Of an adaptive evaluation, one a category; empty where all items were asked."""
    asked_alone: AskedAlone | None = None
    """Where answers depend on what is computed beside them; None elsewhere."""
