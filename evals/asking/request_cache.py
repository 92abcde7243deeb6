"""Answers of one served model, kept in one sqlite file: an evaluation that was cut off goes on where it stopped.

The file belongs to one model behind one engine. It holds the facts it was made for and serves no other: an answer never
crosses from one artifact to another. What cannot be read is a miss, said in the log; it is never an answer.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from configs.errors import StageError
from registry.hashing import canonical_json
from registry.os_faults import machine_fault

_LOG = logging.getLogger(__name__)
_FORMAT = "1"
_BUSY_SECONDS = 30.0
_KEYS_PER_QUERY = 500
"""Below sqlite's smallest limit of parameters in a statement."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, value TEXT NOT NULL, checksum INTEGER NOT NULL) WITHOUT ROWID;
"""


class RequestCache:
    """A dictionary from request keys to JSON values, on disk; a context manager.

    Each `put` is committed on its own and survives the death of the process (sqlite's write-ahead log).

    Args:
        path: The file; made when it is not there, moved aside to `<name>.damaged` when it is not readable.
        facts: What an answer depends on besides the request: model digest, engine and version, dtype, context length.

    Raises:
        StageError: The file was made for other facts; each that differs is named.
    """

    def __init__(self, path: Path, facts: Mapping[str, str]) -> None:
        self._path = path
        self._facts = {"format": _FORMAT, **facts}
        self._damaged = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = _open(path)
            self._check_facts()
        except sqlite3.OperationalError as error:
            raise self._unusable(error) from error
        except sqlite3.DatabaseError as error:
            self._start_again(error)

    def __enter__(self) -> RequestCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        if self._damaged:
            _LOG.warning("%s: %d damaged answers were asked for anew", self._path, self._damaged)

    def get(self, keys: Sequence[str]) -> dict[str, Any]:
        """The values of those `keys` that are there and sound."""
        found: dict[str, Any] = {}
        try:
            for start in range(0, len(keys), _KEYS_PER_QUERY):
                part = keys[start : start + _KEYS_PER_QUERY]
                query = f"SELECT key, value, checksum FROM answers WHERE key IN ({','.join('?' * len(part))})"  # noqa: S608
                for key, value, checksum in self._connection.execute(query, part):
                    if checksum == _checksum(key, value):
                        found[key] = json.loads(value)
                    else:
                        self._damaged += 1
        except sqlite3.OperationalError as error:
            raise self._unusable(error) from error
        except (sqlite3.DatabaseError, ValueError) as error:
            self._start_again(error)
        return found

    def put(self, answers: Iterable[tuple[str, Any]]) -> None:
        """Keep answers; an answer that is there is replaced."""
        rows = [
            (key, text, _checksum(key, text)) for key, text in ((key, canonical_json(value)) for key, value in answers)
        ]
        try:
            self._insert(rows)
        except sqlite3.OperationalError as error:
            raise self._unusable(error) from error
        except sqlite3.DatabaseError as error:
            self._start_again(error)
            self._insert(rows)

    def _insert(self, rows: list[tuple[str, str, int]]) -> None:
        with self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", rows)

    def _unusable(self, error: sqlite3.OperationalError) -> StageError:
        """A full disk, a folder without write permission, a file that another process holds: no damage."""
        locked = "locked" in str(error)
        return machine_fault(error, "keeping the answers", self._path) or StageError(
            f"the evaluation's cache {self._path} cannot be used: {error}",
            remedy="let the other evaluation of this model end" if locked else "see who may read and write that folder",
            blame="machine",
        )

    def _start_again(self, error: Exception) -> None:
        if hasattr(self, "_connection"):
            self._connection.close()
        _move_aside(self._path, error)
        self._connection = _open(self._path)
        self._check_facts()

    def _check_facts(self) -> None:
        """Write the facts into a new file, compare them with those of an old one."""
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            stored = dict(self._connection.execute("SELECT name, value FROM facts"))
            if not stored:
                self._connection.executemany("INSERT INTO facts VALUES (?, ?)", self._facts.items())
                stored = self._facts
        if stored != self._facts:
            names = sorted(
                name for name in stored.keys() | self._facts.keys() if stored.get(name) != self._facts.get(name)
            )
            self._connection.close()
            raise StageError(
                f"{self._path} holds the answers of another model or engine: "
                + "; ".join(f"{name} is {stored.get(name)}, asked for {self._facts.get(name)}" for name in names),
                remedy="name a file of its own for each model, engine version, dtype and context length",
            )


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(_SCHEMA)
    except sqlite3.DatabaseError:
        connection.close()
        raise
    return connection


def _move_aside(path: Path, error: Exception) -> None:
    """Keep a damaged file for whoever wants to look; its log files would damage the new one."""
    damaged = path.with_name(path.name + ".damaged")
    _LOG.warning("%s is damaged (%s): moved to %s, its answers are asked for anew", path, error, damaged.name)
    path.replace(damaged)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _checksum(key: str, value: str) -> int:
    return zlib.crc32(f"{key}\n{value}".encode())
