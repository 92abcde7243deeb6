"""Per-item results: what scores are made of and what two models are paired on."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from configs.errors import StageError
from evals.suite import Category
from registry.contracts import CategoryScore
from registry.contracts.base import Record

SAMPLES_FILE = "samples.jsonl"


class Sample(Record):
    """One item's score."""

    task: str
    category: str
    doc_id: int
    doc_hash: str
    prompt_hash: str
    """Of all prompts that were sent for the item; two models compare only where it is equal."""
    target_hash: str
    filter: str
    metric: str
    score: float
    """0 or 1 for accuracy; for perplexity the mean log-likelihood a word, in nats."""
    weight: float = 1.0
    """Words of the item for perplexity; 1 else."""

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What an item is found by in another model's results."""
        return self.task, self.filter, self.doc_hash, self.doc_id


def read_samples(path: Path) -> list[Sample]:
    """The samples of a file that `lm_eval_runner` wrote.

    Raises:
        StageError: A line is damaged.
    """
    try:
        return [Sample.model_validate_json(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise StageError(
            f"{path} is damaged: {error}", remedy="run `quantbench artifacts verify`, then run again"
        ) from error


def category_score(category: Category, samples: Sequence[Sample]) -> CategoryScore:
    """Pool the items.

    A share is the items' mean, its standard error sqrt(s^2 / n). A perplexity is exp(-L / W) over all words W; its
    standard error comes from that of the ratio L / W over items (Cochran, Sampling Techniques, 3rd ed., eq. 6.13) by
    the delta method.
    """
    scores = np.array([sample.score for sample in samples])
    weights = np.array([sample.weight for sample in samples])
    items = len(samples)
    mean = float(np.average(scores, weights=weights))
    # With equal weights this is the plain standard error of a mean.
    residuals = weights * (scores - mean) / weights.mean()
    stderr = math.sqrt(float(residuals @ residuals) / (items * (items - 1))) if items > 1 else None
    value = mean
    if category.unit == "perplexity":
        value = math.exp(-mean)
        stderr = value * stderr if stderr is not None else None
    return CategoryScore(
        category=category.name,
        metric=category.metric,
        value=value,
        stderr=stderr,
        items=items,
        higher_is_better=category.higher_is_better,
        chance=category.chance,
        unit=category.unit,
    )
