"""Per-item results: what scores are made of, what two models are paired on, and what a reader looks at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import StageError
from evals.statistics.score import share_interval
from evals.suites.suite import Category
from registry.contracts import CategoryScore
from registry.contracts.base import Record
from registry.files import written_atomically
from registry.os_faults import check_not_refused

if TYPE_CHECKING:
    import pyarrow  # type: ignore[import-untyped]

SAMPLES_FILE = "samples.parquet"
_PROMPT_CHARACTERS = 4000
_TARGET_CHARACTERS = 500
_ANSWER_CHARACTERS = 1000


class Sample(Record):
    """One item's score: one row for each task, filter and document."""

    schema_version: int = 3
    task: str
    category: str
    filter: str
    metric: str
    doc_id: int
    """The document's place in the task's data."""
    doc_hash: str
    cluster: str = ""
    """Samples that share it are not independent, such as translations of one question; the document's hash if empty."""
    kind: str = ""
    """What the document's field that the suite names says; empty where it names none."""
    prompt_hash: str
    """Of the prompts' texts, as lm-eval made them: before tokens, and before what did not fit was left out."""
    sent_hash: str
    """Of what the server was asked for the item: token ids, and how a text is to be written. Two models compare only
    where it is equal."""
    target_hash: str
    score: float
    """0 or 1 for accuracy; for perplexity the mean log-likelihood a word, in nats."""
    weight: float = 1.0
    """Words, bytes or tokens of the item for a pooled perplexity, answers for a score of several; 1 else."""
    prompt: str = ""
    """The last request's context; of a longer one the last 4000 characters."""
    target: str = ""
    """The expected answer, at most 500 characters."""
    prompt_tokens: int = 0
    """Length of the item's longest prompt, as it was sent."""
    truncated: bool = False
    """The beginning of one of its prompts was left out, since it did not fit into the context."""
    windows: int = 0
    """Pieces that a running text was read in, of which the model saw one at a time; 0 where the item is none."""
    tied: bool = False
    """The score hung on tokens, or on choices, that were exactly as likely; of tokens the lowest id was taken, of
    choices the first."""
    log_likelihoods: list[float] = []
    """Of each choice, in nats; one number for a perplexity; empty where text is generated."""
    answer: str = ""
    """The chosen choice or the generated text, at most 1000 characters; empty for a perplexity."""
    answer_tokens: int = 0
    """Of all texts that were generated for it, and one for the end of each; 0 where none is."""

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What an item is found by in another model's results."""
        return self.task, self.filter, self.doc_hash, self.doc_id


def shortened(sample: Sample) -> Sample:
    """The sample with its texts cut to what a file of thousands can hold."""
    return sample.model_copy(
        update={
            "prompt": sample.prompt[-_PROMPT_CHARACTERS:],
            "target": sample.target[:_TARGET_CHARACTERS],
            "answer": sample.answer[:_ANSWER_CHARACTERS],
        }
    )


def write_samples(path: Path, samples: Sequence[Sample]) -> None:
    """Write `samples` as Parquet (zstd), whole or not at all; long texts are cut."""
    import pyarrow
    import pyarrow.parquet  # type: ignore[import-untyped]

    rows = [shortened(sample).model_dump(exclude={"schema_version"}) for sample in samples]
    table = pyarrow.Table.from_pylist(rows, schema=_schema())
    with written_atomically(path) as file:
        pyarrow.parquet.write_table(table, file, compression="zstd", write_page_checksum=True)


def read_samples(path: Path) -> list[Sample]:
    """The samples of a file that `write_samples` wrote.

    Raises:
        StageError: The file is damaged or its rows are no samples.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path, page_checksum_verification=True)
        return [Sample.model_validate(row) for row in table.to_pylist()]
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        check_not_refused(error, f"reading {path}", path)
        raise StageError(
            f"{path} is damaged: {error}", remedy="run `quantbench artifacts verify`, then run again"
        ) from error


def cluster_places(samples: Sequence[Sample]) -> NDArray[np.intp]:
    """Each sample's cluster as a number [samples], counted from 0 in the order of appearance."""
    return _numbered([sample.cluster or sample.doc_hash for sample in samples])


def _drawn_places(category: Category, samples: Sequence[Sample]) -> NDArray[np.intp]:
    """The same of what was drawn: tasks, or kinds of tasks, where the suite says that they are a sample."""
    if category.tasks_are == "sample":
        return _numbered([sample.task for sample in samples])
    if category.kinds_are == "sample":
        return _numbered([(sample.task, sample.kind) for sample in samples])
    return cluster_places(samples)


def _numbered(names: Sequence[object]) -> NDArray[np.intp]:
    first = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return np.array([first[name] for name in names], dtype=np.intp)


def category_score(category: Category, samples: Sequence[Sample]) -> CategoryScore:
    """Pool the items.

    A share is the items' mean, its standard error sqrt(s^2 / n). A perplexity is exp(-L / W) over all words W; its
    standard error comes from that of the ratio L / W over items (Cochran, Sampling Techniques, 3rd ed., eq. 6.13) by
    the delta method. Items of one cluster count as one in both, and so do those of a task or kind where these are a
    sample.
    """
    scores = np.array([sample.score for sample in samples])
    weights = np.array([sample.weight for sample in samples])
    items = len(samples)
    mean = float(np.average(scores, weights=weights))
    # With equal weights and one item a cluster this is the plain standard error of a mean.
    places = _drawn_places(category, samples)
    residuals = np.bincount(places, weights * (scores - mean)) / weights.sum()
    clusters = len(residuals)
    stderr = math.sqrt(float(residuals @ residuals) * clusters / (clusters - 1)) if clusters > 1 else None
    value, low, high = mean, None, None
    if category.unit == "perplexity":
        value = _exponential(-mean)
        stderr = value * stderr if stderr is not None else None
    elif scores.min() >= 0 and scores.max() <= 1:
        low, high = share_interval(scores, weights, places)
    return CategoryScore(
        category=category.name,
        metric=category.metric,
        value=value,
        stderr=stderr,
        items=items,
        higher_is_better=category.higher_is_better,
        chance=category.chance,
        unit=category.unit,
        tasks_are=category.tasks_are,
        kinds_are=category.kinds_are,
        low=low,
        high=high,
        truncated=sum(sample.truncated for sample in samples),
        windows=sum(sample.windows for sample in samples),
        tied=sum(sample.tied for sample in samples),
    )


def _exponential(value: float) -> float:
    """exp, with the largest number for what is larger: a broken model has a perplexity, and it is in every table."""
    return math.exp(min(value, math.log(np.finfo(float).max)))


def _schema() -> pyarrow.Schema:
    import pyarrow

    text, number, whole = pyarrow.string(), pyarrow.float64(), pyarrow.int64()
    types: dict[Any, pyarrow.DataType] = {
        str: text,
        float: number,
        int: whole,
        bool: pyarrow.bool_(),
        list[float]: pyarrow.list_(number),
    }
    fields = {name: field for name, field in Sample.model_fields.items() if name != "schema_version"}
    return pyarrow.schema(
        [pyarrow.field(name, types[field.annotation], nullable=False) for name, field in fields.items()]
    )
