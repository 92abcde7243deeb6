"""The columns of many runs from those of each: indices move, categories of one name become one column. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Literal, NamedTuple

from pipelines.review.page_data import CategoryColumn, Models, Runs
from pipelines.review.summaries import RunSummary

Origin = Literal["workspace", "mlflow"]
VersionKey = tuple[str, str]
"""Registered model and digest of the files."""

_MOST_CELLS = 60_000
"""A category of a model takes some 35 bytes of the page."""


class Found(NamedTuple):
    """A run, wherever it was found."""

    summary: RunSummary
    page: str | None = None
    """Address of its report, relative to the review page."""
    origin: Origin = "workspace"


class Joined(NamedTuple):
    """All runs, the one that ended last first."""

    found: Sequence[Found]
    first: list[int]
    """Run -> index of its baseline among all models."""
    runs: Runs
    models: Models
    categories: list[CategoryColumn]
    categories_left: int
    """Not shown: the page would be too large."""


def joined(found: Sequence[Found], versions: Mapping[VersionKey, str]) -> Joined:
    """Join them in the order given.

    Args:
        found: Of all runs.
        versions: Of the registered models.
    """
    summaries = [one.summary for one in found]
    first = list(accumulate((len(one.digests) for one in summaries), initial=0))[:-1]
    runs: dict[str, list[Any]] = _extended(Runs, (one.runs for one in summaries))
    runs["recommended"] = [
        None if within is None else start + within for start, within in zip(first, runs["recommended"], strict=True)
    ]
    runs["page"], runs["origin"] = [one.page for one in found], [one.origin for one in found]
    models: dict[str, list[Any]] = _extended(Models, (one.models for one in summaries))
    models["run"] = [run for run, one in enumerate(summaries) for _ in one.digests]
    models["version"] = [
        versions.get((one.registered_model, digest or "")) or known
        for one in summaries
        for digest, known in zip(one.digests, one.models.version, strict=True)
    ]
    categories = _columns_of(summaries, first)
    cells = accumulate(len(column.model) for column in categories)
    shown = sum(so_far <= _MOST_CELLS for so_far in cells)
    return Joined(
        found,
        first,
        Runs.model_validate(runs),
        Models.model_validate(models),
        categories[:shown],
        len(categories) - shown,
    )


def _extended(kind: type[Runs] | type[Models], parts: Iterable[Runs | Models]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [] for name in kind.model_fields if name != "schema_version"}
    for part in parts:
        for name, column in columns.items():
            column.extend(getattr(part, name))
    return columns


def _columns_of(summaries: Sequence[RunSummary], first: Sequence[int]) -> list[CategoryColumn]:
    """The ones in which most was lost first."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    parts = ("score", "kept", "kept_low", "kept_high", "verdict")
    for start, summary in zip(first, summaries, strict=True):
        for column in summary.categories:
            begun = {"name": column.name, "unit": column.unit, "model": [], **{part: [] for part in parts}}
            whole = found.setdefault((column.name, column.unit), begun)
            whole["model"] += [start + within for within in column.model]
            for part in parts:
                whole[part] += getattr(column, part)
    worst = {key: min((low for low in one["kept_low"] if low is not None), default=2.0) for key, one in found.items()}
    return [CategoryColumn.model_validate(found[key]) for key in sorted(found, key=worst.__getitem__)]
