"""Pairs of live traffic in SQLite: written while others read, kept as long as is allowed, and no longer.

Each pair is a row; the rows of a process that is killed are there up to its last commit. Write-ahead logging lets a
verdict read while the gateway writes (sqlite.org/wal.html).

A pair belongs to a trial: one candidate beside one champion, at one step of a ramp. It has a place there, given when it
is written and never given again, so that places are without a gap and in order whatever the clock says, and a trial of
which pairs were deleted is known as one.
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
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from configs.errors import StageError
from configs.reading.json_text import parse_json
from registry.contracts.pair import Pair
from registry.contracts.shadow_verdict import ShadowVerdict
from registry.files import make_way
from registry.steady_clock import SteadyClock

if TYPE_CHECKING:
    import pyarrow  # type: ignore[import-untyped]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS trials (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    champion TEXT NOT NULL,
    candidate TEXT NOT NULL,
    pairs INTEGER NOT NULL,
    verdict TEXT
);
CREATE TABLE IF NOT EXISTS pairs (
    trial INTEGER NOT NULL REFERENCES trials,
    place INTEGER NOT NULL,
    id TEXT NOT NULL,
    at TEXT NOT NULL,
    pair TEXT NOT NULL,
    PRIMARY KEY (trial, place),
    UNIQUE (trial, id)
);
CREATE INDEX IF NOT EXISTS pairs_at ON pairs (at);
"""
_COMMIT_SECONDS = 0.2
_LOCKED_SECONDS = 30.0
_MOST_WAITING = 10_000
_EXPIRED_EVERY_SECONDS = 60.0
_log = logging.getLogger(__name__)


class Trial(NamedTuple):
    """What a pair is evidence of."""

    name: str
    champion: str
    """Digest of the artifact."""
    candidate: str


class KeptTrial(NamedTuple):
    """A trial as it is in a database."""

    trial: Trial
    pairs: int
    """That were ever written."""
    deleted: int
    """Of these, since they were older than is allowed."""
    verdict: ShadowVerdict | None
    """That decided it; None while nothing has."""


NO_TRIAL = Trial("", "", "")
"""Of pairs that are evidence of nothing that is judged."""


class PairDatabase:
    """Keeps pairs by a thread of its own, so that whoever offers one waits for no disk; use as a context manager.

    Args:
        path: The database; made, readable by its owner only, where it is not there.
        keep: For how long; for ever when None.
    """

    def __init__(self, path: Path, keep: timedelta | None = None) -> None:
        self.path, self._keep = path, keep
        self._waiting: queue.Queue[tuple[Trial, Pair] | None] = queue.Queue(_MOST_WAITING)
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

    def offer(self, pair: Pair, trial: Trial = NO_TRIAL) -> None:
        """Keep a pair soon; one that finds no room is dropped and counted. Its number is its place in the trial."""
        try:
            self._waiting.put_nowait((trial, pair))
        except queue.Full:
            self.dropped += 1

    def _make(self) -> None:
        self.path.touch(mode=0o600)
        with _opened(self.path) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(_SCHEMA)

    def _work(self) -> None:
        ended, expire_at = False, 0.0
        while not ended:
            batch, ended = self._batch()
            expire = ended or time.monotonic() >= expire_at
            self._write(batch, expire=expire)
            expire_at = time.monotonic() + _EXPIRED_EVERY_SECONDS if expire else expire_at

    def _batch(self) -> tuple[list[tuple[Trial, Pair]], bool]:
        """What is written together, and whether no more comes; nothing where nothing comes for a while."""
        batch: list[tuple[Trial, Pair]] = []
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

    def _write(self, batch: list[tuple[Trial, Pair]], *, expire: bool) -> None:
        steady = self._clock.is_steady()
        try:
            if not self.path.exists():
                self._make()
            with _opened(self.path) as connection, connection:
                # Before anything is read: of two gateways with one database, each gives places of its own.
                connection.execute("BEGIN IMMEDIATE")
                written = sum(_inserted(connection, trial, pair) for trial, pair in batch)
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
            self.written += written
            if self.failure is not None:
                _log.error("pairs are written to %s again", self.path)
            self.failure = None


def _inserted(connection: sqlite3.Connection, trial: Trial, pair: Pair) -> int:
    """1; 0 for a pair that the trial has already."""
    connection.execute("INSERT OR IGNORE INTO trials (name, champion, candidate, pairs) VALUES (?, ?, ?, 0)", trial)
    (number, place) = connection.execute("SELECT number, pairs FROM trials WHERE name = ?", trial[:1]).fetchone()
    row = (number, place, pair.id, pair.at.isoformat(), pair.model_dump_json(exclude={"number"}))
    found = connection.execute("INSERT OR IGNORE INTO pairs (trial, place, id, at, pair) VALUES (?, ?, ?, ?, ?)", row)
    connection.execute("UPDATE trials SET pairs = pairs + ? WHERE number = ?", (found.rowcount, number))
    return found.rowcount


def read_pair_database(path: Path) -> pyarrow.Table:
    """All pairs of a database, whether or not somebody writes to it; as `registry.pairs.read_pair_table`.

    Returns:
        In the order of their trials, and of their places there; `number` counts all of them.

    Raises:
        StageError: It is none, or damaged.
    """
    from registry.pairs import pair_table

    with _read(path) as connection:
        rows = connection.execute("SELECT pair FROM pairs ORDER BY trial, place").fetchall()
        return pair_table([_pair(text, number) for number, (text,) in enumerate(rows)])


def read_pairs_of(path: Path, trial: str, *, place: int = 0, most: int = -1) -> pyarrow.Table:
    """Pairs of one trial, from a place on; `number` is their place.

    Args:
        most: No more than so many; all for -1.

    Raises:
        StageError: The database is none, or damaged.
    """
    from registry.pairs import pair_table

    query = (
        "SELECT pair, place FROM pairs WHERE trial = (SELECT number FROM trials WHERE name = ?) AND place >= ?"
        " ORDER BY place LIMIT ?"
    )
    with _read(path) as connection:
        rows = connection.execute(query, (trial, place, most)).fetchall()
        return pair_table([_pair(text, number) for text, number in rows])


def read_trial(path: Path, name: str | None = None) -> KeptTrial | None:
    """What is known of a trial, without its pairs: of the newest one that is judged, where none is named.

    Raises:
        StageError: The database is none, or damaged.
    """
    query = (
        "SELECT name, champion, candidate, pairs, verdict,"
        " (SELECT COUNT(*) FROM pairs WHERE trial = number) FROM trials"
        " WHERE name = coalesce(?, name) AND name != '' ORDER BY number DESC LIMIT 1"
    )
    with _read(path) as connection:
        row = connection.execute(query, (name,)).fetchone()
        if row is None:
            return None
        *trial, pairs, verdict, there = row
        decided = ShadowVerdict.model_validate(parse_json(verdict)) if verdict else None
        return KeptTrial(Trial(*trial), pairs, pairs - there, decided)


def keep_decision(path: Path, trial: str, verdict: ShadowVerdict) -> None:
    """Write what decided a trial, once: pairs that come or go afterwards change nothing of it.

    Raises:
        StageError: The database does not take it.
    """
    with _read(path) as connection, connection:
        connection.execute(
            "UPDATE trials SET verdict = ? WHERE name = ? AND verdict IS NULL", (verdict.model_dump_json(), trial)
        )


def _pair(text: str, number: int) -> dict[str, Any]:
    return Pair.model_validate({**parse_json(text, of_model=True), "number": number}).model_dump()


@contextmanager
def _read(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with _opened(path) as connection:
            yield connection
    except (sqlite3.Error, ValueError) as error:
        raise StageError(
            f"{path} holds no pairs that can be read: {error}",
            remedy="name the gateway's database, or take it from a copy",
        ) from error


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, timeout=_LOCKED_SECONDS)) as connection:
        yield connection
