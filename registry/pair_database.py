"""Pairs of live traffic in SQLite: written while others read, kept as long as is allowed, and no longer.

Each pair is a row; the rows of a process that is killed are there up to its last commit. Write-ahead logging lets a
verdict read while the gateway writes (sqlite.org/wal.html).
"""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from configs.errors import StageError
from configs.reading.json_text import parse_json
from registry.contracts.pair import Pair
from registry.files import make_way

if TYPE_CHECKING:
    import pyarrow  # type: ignore[import-untyped]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS pairs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    at TEXT NOT NULL,
    pair TEXT NOT NULL
)
"""
_COMMIT_SECONDS = 0.2
_LOCKED_SECONDS = 30.0
_MOST_WAITING = 10_000
_EXPIRED_EVERY_SECONDS = 60.0


class PairDatabase:
    """Keeps pairs by a thread of its own, so that whoever offers one waits for no disk; use as a context manager.

    Args:
        path: The database; made, readable by its owner only, where it is not there.
        keep: For how long; for ever when None.
    """

    def __init__(self, path: Path, keep: timedelta | None = None) -> None:
        self.path, self._keep = path, keep
        self._waiting: queue.Queue[Pair | None] = queue.Queue(_MOST_WAITING)
        self._thread = threading.Thread(target=self._work, name="pairs", daemon=True)
        self.dropped = self.written = 0
        self.failure: str | None = None
        """Why the last ones could not be written; None where they could."""

    def __enter__(self) -> Self:
        make_way(self.path)
        self.path.touch(mode=0o600)
        with _opened(self.path) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(_SCHEMA)
            connection.commit()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting.put(None)
        self._thread.join()

    def offer(self, pair: Pair) -> None:
        """Keep a pair soon; one that finds no room is dropped and counted. Its number is given here."""
        try:
            self._waiting.put_nowait(pair)
        except queue.Full:
            self.dropped += 1

    def _work(self) -> None:
        ended, expired = False, 0.0
        while not ended:
            first = self._waiting.get()
            batch = [] if first is None else [first]
            ended = first is None
            until = datetime.now(UTC) + timedelta(seconds=_COMMIT_SECONDS)
            while not ended and (left := (until - datetime.now(UTC)).total_seconds()) > 0:
                try:
                    one = self._waiting.get(timeout=left)
                except queue.Empty:
                    break
                ended = one is None
                batch += [] if one is None else [one]
            expired += _COMMIT_SECONDS
            self._write(batch, expire=ended or expired >= _EXPIRED_EVERY_SECONDS)
            expired = 0.0 if expired >= _EXPIRED_EVERY_SECONDS else expired

    def _write(self, batch: list[Pair], *, expire: bool) -> None:
        rows = [(pair.id, pair.at.isoformat(), pair.model_dump_json(exclude={"number"})) for pair in batch]
        try:
            with _opened(self.path) as connection, connection:
                connection.executemany("INSERT OR IGNORE INTO pairs (id, at, pair) VALUES (?, ?, ?)", rows)
                if expire and self._keep is not None:
                    oldest = (datetime.now(UTC) - self._keep).isoformat()
                    connection.execute("DELETE FROM pairs WHERE at < ?", (oldest,))
        except sqlite3.Error as error:
            # A full disk costs pairs and no client's answer.
            self.dropped += len(batch)
            self.failure = str(error)
        else:
            self.written += len(batch)
            self.failure = None


def read_pair_database(path: Path) -> pyarrow.Table:
    """All pairs of a database, whether or not somebody writes to it; as `registry.pairs.read_pair_table`.

    Raises:
        StageError: It is none, or damaged.
    """
    from registry.pairs import pair_table

    try:
        with _opened(path) as connection:
            rows = connection.execute("SELECT number, pair FROM pairs ORDER BY number").fetchall()
        pairs = [
            Pair.model_validate({**parse_json(text, of_model=True), "number": place}).model_dump()
            for place, (_, text) in enumerate(rows)
        ]
    except (sqlite3.Error, ValueError) as error:
        raise StageError(
            f"{path} holds no pairs that can be read: {error}",
            remedy="name the gateway's database, or take it from a copy",
        ) from error
    return pair_table(pairs)


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, timeout=_LOCKED_SECONDS)) as connection:
        yield connection
