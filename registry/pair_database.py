"""Pairs of live traffic in SQLite: written while others read, kept as long as is allowed, and no longer.

Each pair is a row; the rows of a process that is killed are there up to its last commit. Write-ahead logging lets a
verdict read while the gateway writes (sqlite.org/wal.html).
"""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
import time
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
from registry.steady_clock import SteadyClock

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
_log = logging.getLogger(__name__)


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
        self._clock = SteadyClock()
        self.dropped = self.written = 0
        self.failure: str | None = None
        """Why the last ones could not be written; None where they could."""

    def __enter__(self) -> Self:
        make_way(self.path)
        self._make()
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

    def _make(self) -> None:
        self.path.touch(mode=0o600)
        with _opened(self.path) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(_SCHEMA)
            connection.commit()

    def _work(self) -> None:
        ended, expire_at = False, 0.0
        while not ended:
            batch, ended = self._batch()
            expire = ended or time.monotonic() >= expire_at
            self._write(batch, expire=expire)
            expire_at = time.monotonic() + _EXPIRED_EVERY_SECONDS if expire else expire_at

    def _batch(self) -> tuple[list[Pair], bool]:
        """What is written together, and whether no more comes; nothing where nothing comes for a while."""
        batch: list[Pair] = []
        until = time.monotonic() + _EXPIRED_EVERY_SECONDS
        while (left := until - time.monotonic()) > 0:
            try:
                one = self._waiting.get(timeout=left)
            except queue.Empty:
                break
            if one is None:
                return batch, True
            if not batch:
                until = time.monotonic() + _COMMIT_SECONDS
            batch.append(one)
        return batch, False

    def _write(self, batch: list[Pair], *, expire: bool) -> None:
        rows = [(pair.id, pair.at.isoformat(), pair.model_dump_json(exclude={"number"})) for pair in batch]
        steady = self._clock.is_steady()
        try:
            if not self.path.exists():
                self._make()
            with _opened(self.path) as connection, connection:
                connection.executemany("INSERT OR IGNORE INTO pairs (id, at, pair) VALUES (?, ?, ?)", rows)
                # A clock that jumped a year ahead would have all pairs deleted.
                if expire and steady and self._keep is not None:
                    oldest = (datetime.now(UTC) - self._keep).isoformat()
                    connection.execute("PRAGMA secure_delete = ON")
                    connection.execute("DELETE FROM pairs WHERE at < ?", (oldest,))
        except (sqlite3.Error, OSError) as error:
            # A full disk costs pairs and no client's answer.
            self.dropped += len(batch)
            if self.failure != str(error):
                _log.error("pairs are not written to %s: %s", self.path, error)
            self.failure = str(error)
        else:
            self.written += len(batch)
            if self.failure is not None:
                _log.error("pairs are written to %s again", self.path)
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
