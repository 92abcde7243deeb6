"""Pairs as columns: what is judged of a hundred thousand of them, without an object for each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from configs.errors import StageError
from evals.statistics.score import Floats

if TYPE_CHECKING:
    import pyarrow  # type: ignore[import-untyped]

Flags = NDArray[np.bool_]

_OF_ANSWERS = ("refused", "completion_tokens", "seconds", "first_token_seconds", "score", "mean_logprob")
_OF_PAIRS = (
    "same",
    "same_tool_calls",
    "agreement",
    "champion_logprob",
    "candidate_logprob",
    "preference",
)


class Column(NamedTuple):
    """A number for each pair."""

    values: Floats
    """NaN where it is not known [pairs]."""
    known: Flags
    """[pairs]; what is known may still be no number."""


@dataclass(frozen=True)
class Observations:
    """Pairs in the order of their numbers."""

    ids: list[str]
    numbers: NDArray[np.int64]
    class_names: list[str]
    """In the order in which they came first."""
    class_places: NDArray[np.int64]
    """Of each pair's class in `class_names` [pairs]."""
    columns: dict[str, Column]
    """By a pair's field, or `champion.` or `candidate.` and an answer's field. Of answers there are also `failed`,
    `length_stop` and `seconds_per_token`, each token after the first."""

    @property
    def one_failed(self) -> Flags:
        """Whether one side, or both, gave no answer [pairs]."""
        failed: Flags = (self.columns["champion.failed"].values + self.columns["candidate.failed"].values) > 0
        return failed

    def followed_by(self, more: Observations) -> Observations:
        """These and further pairs, whose numbers are higher; none of them may be among these."""
        names = list(dict.fromkeys([*self.class_names, *more.class_names]))
        places = np.array([names.index(name) for name in more.class_names], dtype=np.int64)
        return Observations(
            ids=[*self.ids, *more.ids],
            numbers=np.concatenate([self.numbers, more.numbers]),
            class_names=names,
            class_places=np.concatenate([self.class_places, places[more.class_places]]),
            columns={
                name: Column(
                    np.concatenate([column.values, more.columns[name].values]),
                    np.concatenate([column.known, more.columns[name].known]),
                )
                for name, column in self.columns.items()
            },
        )

    def first(self, pairs: int) -> Observations:
        """The first so many pairs, with the classes that these have."""
        places = self.class_places[:pairs]
        return Observations(
            ids=self.ids[:pairs],
            numbers=self.numbers[:pairs],
            class_names=self.class_names[: int(places.max(initial=-1)) + 1],
            class_places=places,
            columns={
                name: Column(column.values[:pairs], column.known[:pairs]) for name, column in self.columns.items()
            },
        )


def observations_of(table: pyarrow.Table) -> Observations:
    """The numbers in a table of pairs, as `read_pair_table` gives it.

    Args:
        table: A row a pair, columns named as the fields of Pair, `champion` and `candidate` structs of Answer's.

    Raises:
        StageError: A column is not there or holds something else, or a pair stands twice.
    """
    import pyarrow

    try:
        return _read(table)
    except (KeyError, ValueError, TypeError, pyarrow.ArrowException) as error:
        raise StageError(
            f"the record of pairs cannot be read: {error}",
            remedy="read it with the version that wrote it, or record the pairs anew",
        ) from error


def _read(table: pyarrow.Table) -> Observations:
    for name in ("id", "number", "prompt_class", "champion", "candidate"):
        if table[name].null_count:
            raise ValueError(f"a pair has no `{name}`")
    numbers = table["number"].to_numpy().astype(np.int64)
    if (np.diff(numbers) < 0).any():
        return _read(table.sort_by("number"))
    ids = table["id"].to_pylist()
    [(most_common, times)] = Counter(ids).most_common(1) or [("", 0)]
    if times > 1:
        raise ValueError(f"pair {most_common} stands {times} times, and would count as often")
    classes = table["prompt_class"].combine_chunks().dictionary_encode()
    columns = {name: _column(table[name]) for name in _OF_PAIRS}
    columns |= {f"{side}.logprob": columns.pop(f"{side}_logprob") for side in ("champion", "candidate")}
    for side in ("champion", "candidate"):
        columns |= {f"{side}.{name}": column for name, column in _answer_columns(table[side]).items()}
    return Observations(
        ids=ids,
        numbers=numbers,
        class_names=classes.dictionary.to_pylist(),
        class_places=classes.indices.to_numpy(zero_copy_only=False).astype(np.int64),
        columns=columns,
    )


def _answer_columns(answers: pyarrow.ChunkedArray) -> dict[str, Column]:
    from pyarrow import compute

    columns = {name: _column(compute.struct_field(answers, name)) for name in _OF_ANSWERS}
    error = compute.struct_field(answers, "error")
    if error.null_count:
        raise ValueError("of an answer it is not known whether it failed")
    columns["failed"] = _column(compute.not_equal(error, ""))
    columns["length_stop"] = _column(compute.equal(compute.struct_field(answers, "finish_reason"), "length"))
    columns["seconds_per_token"] = _seconds_per_token(columns)
    return columns


def _seconds_per_token(columns: dict[str, Column]) -> Column:
    tokens, first, end = (columns[name] for name in ("completion_tokens", "first_token_seconds", "seconds"))
    known = tokens.known & first.known & end.known & (tokens.values > 1)
    values = np.full(len(known), np.nan)
    values[known] = (end.values - first.values)[known] / (tokens.values[known] - 1)
    return Column(values, known)


def _column(array: pyarrow.ChunkedArray) -> Column:
    import pyarrow
    from pyarrow import compute

    if pyarrow.types.is_boolean(array.type):
        array = array.cast(pyarrow.int8())
    values = compute.fill_null(array.cast(pyarrow.float64()), float("nan")).to_numpy()
    return Column(values.astype(np.float64), np.asarray(compute.is_valid(array), dtype=np.bool_))
