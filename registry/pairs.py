"""Pairs on disk: `pairs/part-000000.parquet` and so on, and a journal of those that fill no part yet."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from types import NoneType, TracebackType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import ValidationError

from configs.errors import StageError
from registry.contracts.base import Record
from registry.contracts.pair import Pair
from registry.files import written_atomically
from registry.journal import opened_journal, read_journal
from registry.os_faults import check_not_refused

if TYPE_CHECKING:
    import pyarrow  # type: ignore[import-untyped]

PAIRS_DIR = "pairs"
PAIRS_PER_PART = 1000
"""Some megabytes with texts; what a page of Parquet packs well."""
_JOURNAL = "newest.jsonl"


class PairWriter:
    """Keeps pairs as they come; use as a context manager. One process a folder at a time.

    Each pair is safe from a kill as soon as `write` returns. Parts are written when they are full, and at the block's
    end; where it ends with an error, the rest stays in the journal.

    Args:
        folder: Gets `pairs/`; what is there stays.
        pairs_per_part: How many make a part.
    """

    def __init__(self, folder: Path, pairs_per_part: int = PAIRS_PER_PART) -> None:
        self._folder, self._per_part = folder / PAIRS_DIR, pairs_per_part
        self._open = ExitStack()

    def __enter__(self) -> Self:
        """Raises StageError for damaged files."""
        self._newest = read_journal(self._folder / _JOURNAL, Pair)
        # Behind the last one, and not their number: one may have been removed.
        self._next_part = max((int(path.stem.removeprefix("part-")) for path in _parts(self._folder)), default=-1) + 1
        self._journal = self._open.enter_context(opened_journal(self._folder / _JOURNAL, Pair))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self._newest:
            self._write_part()
        self._open.close()
        if not self._newest:
            (self._folder / _JOURNAL).unlink()

    def write(self, pair: Pair) -> None:
        """Keep one pair."""
        self._journal.append(pair)
        self._newest.append(pair)
        if len(self._newest) >= self._per_part:
            self._write_part()

    def _write_part(self) -> None:
        import pyarrow
        import pyarrow.parquet  # type: ignore[import-untyped]

        rows = [pair.model_dump() for pair in self._newest]
        table = pyarrow.Table.from_pylist(rows, schema=_schema())
        with written_atomically(self._folder / f"part-{self._next_part:06}.parquet") as file:
            pyarrow.parquet.write_table(table, file, compression="zstd", write_page_checksum=True)
        self._next_part += 1
        # Killed before this, the journal's pairs are there twice, with one id: they are read once.
        self._journal.clear()
        self._newest.clear()


def read_pair_table(folder: Path) -> pyarrow.Table:
    """All pairs of a folder that a PairWriter wrote to, whether or not it is still at work.

    Returns:
        A row a pair, ordered by `number`, each `id` once, the first one kept. Columns are the fields of Pair without
        `schema_version`; `champion` and `candidate` are structs.

    Raises:
        StageError: A file is damaged, or was written by another version.
    """
    import pyarrow
    import pyarrow.compute  # type: ignore[import-untyped]

    # The journal first: what leaves it while this reads is in a part by then.
    newest = [pair.model_dump() for pair in read_journal(folder / PAIRS_DIR / _JOURNAL, Pair)]
    tables = [_read_part(path) for path in _parts(folder / PAIRS_DIR)]
    table = pyarrow.concat_tables([*tables, pyarrow.Table.from_pylist(newest, schema=_schema())])
    first: dict[str, int] = {}
    for place, one in enumerate(table["id"].to_pylist()):
        first.setdefault(one, place)
    table = table.take(pyarrow.array(first.values(), pyarrow.int64()))
    return table.take(pyarrow.compute.sort_indices(table, sort_keys=[("number", "ascending")]))


def pairs_in_parts(folder: Path) -> int:
    """How many pairs are in the full parts of a folder; those of the journal, which are read to be counted, are not."""
    import pyarrow
    import pyarrow.parquet

    try:
        return sum(pyarrow.parquet.read_metadata(path).num_rows for path in _parts(folder / PAIRS_DIR))
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise StageError(
            f"a part of {folder / PAIRS_DIR} is damaged: {error}",
            remedy="check the disk (dmesg); remove the file and run the same command again: its prompts are asked anew",
        ) from error


def pair_table(rows: list[dict[str, Any]]) -> pyarrow.Table:
    """Pairs as a table with the columns of `read_pair_table`.

    Args:
        rows: Of `Pair.model_dump()`.
    """
    import pyarrow

    return pyarrow.Table.from_pylist(rows, schema=_schema())


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-[0-9]*.parquet"))


def _read_part(path: Path) -> pyarrow.Table:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path, page_checksum_verification=True)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        check_not_refused(error, f"reading {path}", path)
        raise StageError(
            f"{path} is damaged: {error}",
            remedy="check the disk (dmesg); remove the file and run the same command again: its prompts are asked anew",
        ) from error
    if table.schema.names == _schema().names and table.schema.types == _schema().types:
        return table.cast(_schema())
    try:
        # An earlier version's: what it did not know has a default that says so.
        return pair_table([Pair.model_validate(row).model_dump() for row in table.to_pylist()])
    except ValidationError as error:
        raise StageError(
            f"{path} holds other columns than pairs of this version",
            remedy="read it with the version that wrote it, or replay into another folder",
        ) from error


def _schema() -> pyarrow.Schema:
    return _schema_of(Pair)


def _schema_of(kind: type[Record]) -> pyarrow.Schema:
    import pyarrow

    return pyarrow.schema(
        [
            pyarrow.field(name, *_type_of(field.annotation))
            for name, field in kind.model_fields.items()
            if name != "schema_version"
        ]
    )


def _type_of(annotation: Any) -> tuple[pyarrow.DataType, bool]:
    """Arrow's type of a record's field, and whether it may be null."""
    import pyarrow

    if get_origin(annotation) in (Union, UnionType):
        (inner,) = (one for one in get_args(annotation) if one is not NoneType)
        return _type_of(inner)[0], True
    if get_origin(annotation) is Annotated:
        return _type_of(get_args(annotation)[0])
    if isinstance(annotation, type) and issubclass(annotation, Record):
        return pyarrow.struct(list(_schema_of(annotation))), False
    types: dict[Any, pyarrow.DataType] = {
        str: pyarrow.string(),
        int: pyarrow.int64(),
        float: pyarrow.float64(),
        bool: pyarrow.bool_(),
        datetime: pyarrow.timestamp("us", tz="UTC"),
    }
    return types[str if get_origin(annotation) is Literal else annotation], False
