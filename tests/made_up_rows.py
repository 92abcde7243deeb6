"""Rows for tasks whose data lie on a hub: whatever a task's templates and functions ask of a row, it has.

A value is the text "1", so it is a number too, a list of one, and an object that has every key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jinja2
import jinja2.meta

from evals.suites.task_files import Function

_PLAIN_NAME = re.compile(r"[A-Za-z_]\w*")


class MadeUp(str):
    """A value of a row that is asked for anything."""

    __slots__ = ()

    def __new__(cls, *_: object) -> MadeUp:
        return super().__new__(cls, "1")

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def __getitem__(self, key: Any) -> Any:
        return MadeUp()

    def __iter__(self) -> Iterator[Any]:
        yield MadeUp()

    def __contains__(self, key: object) -> bool:
        return True

    def __index__(self) -> int:
        return 0

    def __add__(self, other: Any) -> Any:
        return 1 + other if isinstance(other, int | float) else str(self) + str(other)

    def __radd__(self, other: Any) -> Any:
        return other + 1 if isinstance(other, int | float) else str(other) + str(self)

    def __sub__(self, other: Any) -> Any:
        return 1 - other

    def __lt__(self, other: Any) -> bool:
        return True

    def __gt__(self, other: Any) -> bool:
        return False

    def get(self, key: Any, default: Any = None) -> Any:
        return MadeUp()

    def keys(self) -> list[MadeUp]:
        return [MadeUp()]

    values = keys

    def items(self) -> list[tuple[MadeUp, MadeUp]]:
        return [(MadeUp(), MadeUp())]

    def append(self, value: Any) -> None:
        pass

    def copy(self) -> MadeUp:
        return self


class Row(dict[str, Any]):
    """Has every column; those that templates name are listed, since a template's values are handed over by name."""

    def __missing__(self, column: str) -> Any:
        return MadeUp()

    def get(self, column: str, default: Any = None) -> Any:
        return self[column]

    def __contains__(self, column: object) -> bool:
        return True


class Split(list[Any]):
    """What the functions of tasks use of a `datasets.Dataset`."""

    @property
    def features(self) -> Mapping[str, None]:
        return dict.fromkeys(self[0]) if self else {}

    @property
    def column_names(self) -> list[str]:
        return list(self.features)

    def map(self, function: Callable[..., Any], **options: Any) -> Split:
        if options.get("with_indices"):
            return Split(_row(row, function(row, place)) for place, row in enumerate(self))
        return Split(_row(row, function(row)) for row in self)

    def filter(self, function: Callable[[Any], Any], **_: Any) -> Split:
        return self

    def select(self, places: Any, **_: Any) -> Split:
        return self

    def _same(self, *_: Any, **__: Any) -> Split:
        return self

    shuffle = remove_columns = rename_column = rename_columns = cast_column = flatten_indices = sort = _same

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return [row[key] for row in self]
        return Split(super().__getitem__(key)) if isinstance(key, slice) else super().__getitem__(key)


class Splits(dict[str, Split]):
    """Has every split, each of the same rows."""

    def __init__(self, rows: Split) -> None:
        super().__init__()
        self._rows = rows

    def __missing__(self, split: str) -> Split:
        return self._rows


def _row(row: Row, changed: Any) -> Row:
    return Row({**row, **(changed if isinstance(changed, Mapping) else {})})


def made_up(config: Mapping[str, Any], rows: int = 40) -> Splits:
    """Rows for a task: what its templates name is there by name."""
    columns = dict.fromkeys(sorted(set(_columns(dict(config)))), MadeUp())
    return Splits(Split(Row(columns) for _ in range(rows)))


def _columns(value: Any) -> Iterator[str]:
    if isinstance(value, str) and not isinstance(value, Function):
        if _PLAIN_NAME.fullmatch(value):
            yield value
        try:
            yield from jinja2.meta.find_undeclared_variables(jinja2.Environment().parse(value))  # noqa: S701
        except jinja2.TemplateError:
            return
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _columns(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _columns(inner)
