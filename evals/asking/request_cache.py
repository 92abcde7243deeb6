"""Answers of one served model, kept in one sqlite file: an evaluation that was cut off goes on where it stopped.

The file belongs to one model behind one engine. It holds the facts it was made for and serves no other, and each row's
checksum is over these facts too: an answer never crosses from one artifact to another, whatever happens to files and
their names. What cannot be read is a miss, said in the log; it is never an answer.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import sqlite3
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from configs.errors import StageError
from registry.files import make_way
from registry.hashing import canonical_json
from registry.os_faults import machine_fault

_LOG = logging.getLogger(__name__)
_FORMAT = "3"
"""Of keys and values: goes up when the same question is asked otherwise or its answer says more."""
_BUSY_SECONDS = 30.0
_KEYS_PER_QUERY = 500
"""Below sqlite's smallest limit of parameters in a statement."""
_RESOURCES = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_NOMEM")
"""sqlite's names for what is no damage: a full disk, a file that another process holds."""
_UNREADABLE = ("SQLITE_IOERR_READ", "SQLITE_IOERR_SHORT_READ", "SQLITE_IOERR_CORRUPTFS")
_DAMAGE = (sqlite3.Error, ValueError)
"""What a damaged file may raise; ValueError where even sqlite's message cannot be decoded."""
_TABLES = {
    "facts": "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "answers": "CREATE TABLE answers"
    " (key TEXT PRIMARY KEY, value TEXT NOT NULL, checksum INTEGER NOT NULL) WITHOUT ROWID",
}


class RequestCache:
    """A dictionary from request keys to JSON values, on disk; a context manager.

    Each `put` is committed on its own and survives the death of the process (sqlite's write-ahead log).

    Args:
        path: The file; made when it is not there, moved aside to `<name>.damaged` when it is not readable or was made
            for other facts.
        facts: What an answer depends on besides the request: model digest, engine and version, dtype, context length.

    Raises:
        StageError: The file cannot be used although it is not damaged: the disk is full, or another process holds it.
    """

    def __init__(self, path: Path, facts: Mapping[str, str]) -> None:
        self._path = path
        self._facts = {"format": _FORMAT, **facts}
        self._identity = canonical_json(self._facts)
        self._damaged = 0
        make_way(path)
        try:
            self._connection = _open(path)
            self._check_facts()
        except _DAMAGE as error:
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
                    if isinstance(value, str) and checksum == self._checksum(key, value):
                        found[key] = json.loads(value)
                    else:
                        self._damaged += 1
        except _DAMAGE as error:
            self._start_again(error)
        return found

    def put(self, answers: Iterable[tuple[str, Any]]) -> None:
        """Keep answers; an answer that is there is replaced."""
        texts = [(key, canonical_json(value)) for key, value in answers]
        rows = [(key, text, self._checksum(key, text)) for key, text in texts]
        try:
            self._insert(rows)
        except _DAMAGE as error:
            self._start_again(error)
            self._insert(rows)

    def _insert(self, rows: list[tuple[str, str, int]]) -> None:
        with self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", rows)

    def _checksum(self, key: str, value: str) -> int:
        return zlib.crc32(f"{self._identity}\n{key}\n{value}".encode())

    def _start_again(self, error: Exception) -> None:
        """Move the file aside and begin an empty one.

        Raises:
            StageError: `error` is no damage.
        """
        if hasattr(self, "_connection"):
            self._connection.close()
        if self._is_no_damage(error):
            locked = "locked" in str(error)
            raise machine_fault(error, "keeping the answers", self._path) or StageError(
                f"the evaluation's cache {self._path} cannot be used: {error}",
                remedy="let the other evaluation of this model end" if locked else "see who may write that folder",
                blame="machine",
            ) from error
        _move_aside(self._path, error)
        self._connection = _open(self._path)
        self._check_facts()

    def _is_no_damage(self, error: Exception) -> bool:
        name = getattr(error, "sqlite_errorname", None) or ""
        if name.startswith("SQLITE_READONLY"):
            # A flipped bit of the header makes a file read-only, too.
            return not (os.access(self._path, os.W_OK) and os.access(self._path.parent, os.W_OK))
        return name.startswith(_RESOURCES) and name not in _UNREADABLE

    def _check_facts(self) -> None:
        """Write the facts into a new file, compare them with those of an old one."""
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            stored = dict(self._connection.execute("SELECT name, value FROM facts"))
            if not stored:
                self._connection.executemany("INSERT INTO facts VALUES (?, ?)", self._facts.items())
                stored = self._facts
        names = sorted(
            (name for name in stored.keys() | self._facts.keys() if stored.get(name) != self._facts.get(name)), key=str
        )
        if names:
            raise _OtherFacts(
                "it holds the answers of another model or engine: "
                + "; ".join(f"{name} is {stored.get(name)}, asked for {self._facts.get(name)}" for name in names)
            )


def model_of(path: Path) -> str | None:
    """Digest of the model whose answers a file holds; None where it is damaged.

    Raises:
        OSError: It cannot be read now, and may be whole.
    """
    # Without a log beside it, a file is read as it is; else opening it would leave files of sqlite's own.
    has_log = path.with_name(path.name + "-wal").exists()
    address = f"file:{quote(str(path))}?mode=ro{'' if has_log else '&immutable=1'}"
    try:
        with closing(sqlite3.connect(address, uri=True)) as connection:
            query = "SELECT value FROM facts WHERE name = 'model_digest'"
            row = connection.execute(query).fetchone()
    except _DAMAGE as error:
        if (getattr(error, "sqlite_errorname", None) or "").startswith(_RESOURCES):
            raise OSError(errno.EIO, str(error), str(path)) from error
        return None
    return None if row is None else str(row[0])


class _OtherFacts(ValueError):
    """The file was made for another model or engine, or its facts were changed."""


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            tables = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'"))
            if not tables:
                for table in _TABLES.values():
                    connection.execute(table)
                tables = _TABLES
        if tables != _TABLES:
            raise ValueError("its tables are not those of the cache")
    except BaseException:
        connection.close()
        raise
    return connection


def _move_aside(path: Path, error: Exception) -> None:
    """Keep the file for whoever wants to look; its log files would damage the new one."""
    damaged = path.with_name(path.name + ".damaged")
    _LOG.warning("%s is not used (%s): moved to %s, its answers are asked for anew", path, error, damaged.name)
    path.replace(damaged)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
