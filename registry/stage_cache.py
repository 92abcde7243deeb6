"""Finished stages by key: reused when the key is equal and the object still whole. Failures never are.

A file counts for nothing unless it is exactly what was written, under the key that it was written for, and holds the
record that its stage makes. Whatever else it is, the stage runs again: damage costs time, never a wrong number.
"""

import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from registry.contracts import StageResult
from registry.contracts.base import Record
from registry.hashing import digest_of
from registry.sealed import DamagedFile, read_sealed, write_sealed
from registry.store import Store

logger = logging.getLogger(__name__)


_DIGESTS = re.compile(rb"sha256:[0-9a-f]{64}")
_OBJECT = re.compile(rb'^    "object": \{\s*"schema_version": \d+,\s*"digest": "(sha256:[0-9a-f]{64})"', re.MULTILINE)
"""Of the result, as `write_sealed` indents it: records have members of that name further in."""


class Outline(NamedTuple):
    """What a file of the cache names."""

    path: Path
    stage: str
    object: str | None
    """Digest of what the stage made; None where it makes no files."""
    names: frozenset[str]
    """All digests in it."""


class StageKey(Record):
    """Everything that shapes a stage's result. Two keys with equal digests give equal results."""

    stage: str
    stage_version: int
    """Version of our own stage code; goes up when the same inputs would give another result."""
    config: dict[str, Any]
    inputs: dict[str, str]
    """Name of the input -> its digest."""
    libraries: dict[str, str]

    @property
    def digest(self) -> str:
        return digest_of(self.model_dump(mode="json"))

    def differences(self, other: "StageKey") -> list[str]:
        """Dotted names of what differs from `other`, each with both values; for telling why a result is stale."""
        mine, theirs = _flat(self.model_dump(mode="json")), _flat(other.model_dump(mode="json"))
        return [
            f"{name}: {theirs.get(name)!r} -> {mine.get(name)!r}"
            for name in sorted(mine.keys() | theirs.keys())
            if mine.get(name) != theirs.get(name)
        ]


class CacheEntry(Record):
    key: StageKey
    result: StageResult


class LatestKey(Record):
    name: str
    """The stage's name in its recipe."""
    key: StageKey


class StageCache:
    """Entries as files: `<stage>/<hex>.json`, and `<stage>/latest/<name>.json` with the key used last under a name.

    Args:
        root: Their folder.
        store: Holds the objects that results name.
        record_types: Stage -> what its record is.
    """

    def __init__(self, root: Path, store: Store, record_types: Mapping[str, type[Record]]) -> None:
        self._root, self._store, self._record_types = root, store, record_types

    def get(self, key: StageKey) -> StageResult | None:
        """The stored result, or None. A damaged entry or object is a miss with a warning."""
        entry = self._readable(self._path(key))
        reference = entry.result.object if entry else None
        if reference is not None:
            differences = self._store.differences(reference.digest)
            if differences:
                place = self._store.path(reference.digest)
                logger.warning("%s is damaged (%s); %s is done again", place, "; ".join(differences), key.stage)
                return None
        return entry.result if entry else None

    def put(self, key: StageKey, name: str, result: StageResult) -> None:
        """Keep a finished result under its key; `name` is the stage's name in its recipe."""
        if result.failure is not None:
            raise ValueError("failures are not cached")
        self._check(result)
        write_sealed(self._path(key), CacheEntry(key=key, result=result))
        write_sealed(self._latest_path(key.stage, name), LatestKey(name=name, key=key))

    def forget(self, key: StageKey) -> None:
        """Drop what is kept under `key` before it is made anew: the entry, and its object where that is damaged."""
        path = self._path(key)
        try:
            reference = self._entry(path).result.object
        except (FileNotFoundError, DamagedFile):
            reference = None
        if not path.is_dir():  # a folder has to make way when the new entry is written
            path.unlink(missing_ok=True)
        if reference is not None and self._store.differences(reference.digest):
            self._store.discard(reference.digest)

    def latest_key(self, stage: str, name: str) -> StageKey | None:
        """The key that was finished last under this name, for telling what changed since."""
        try:
            latest = read_sealed(self._latest_path(stage, name), LatestKey)
        except (FileNotFoundError, DamagedFile):
            return None
        return latest.key if latest.name == name else None

    def outlines(self) -> list[Outline]:
        """Every file of an entry with what it names: its objects are found without reading thousands of records.

        What is damaged names what it still can: nothing of it is used for a result.

        Raises:
            OSError: One cannot be read.
        """
        found = []
        for path in sorted(self._root.glob("*/*.json")):
            with suppress(FileNotFoundError, IsADirectoryError):  # replaced or removed just now; in a file's place
                content = path.read_bytes()
                made = _OBJECT.search(content)
                names = frozenset(name.decode() for name in _DIGESTS.findall(content))
                found.append(Outline(path, path.parent.name, made[1].decode() if made else None, names))
        return found

    def entries(self) -> list[CacheEntry]:
        """Every readable entry, oldest first."""
        found = [(_age(path), entry) for path in self._root.glob("*/*.json") if (entry := self._readable(path))]
        return [entry for _, entry in sorted(found, key=lambda one: one[0])]

    def _readable(self, path: Path) -> CacheEntry | None:
        try:
            return self._entry(path)
        except FileNotFoundError:
            return None
        except DamagedFile as damage:
            logger.warning("%s; what it held is not used", damage)
            return None

    def _entry(self, path: Path) -> CacheEntry:
        entry = read_sealed(path, CacheEntry)
        if self._path(entry.key) != path or entry.result.stage != entry.key.stage:
            raise DamagedFile(f"{path} is the entry of another key, {entry.key.stage} {entry.key.digest}")
        try:
            self._check(entry.result)
        except ValueError as error:
            what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise DamagedFile(f"{path} does not hold what {entry.key.stage} makes: {what}") from None
        return entry

    def _check(self, result: StageResult) -> None:
        """Raise ValueError for a result whose record is not its stage's, or names another object than the result."""
        if result.stage not in self._record_types:
            raise ValueError(f"there is no stage {result.stage}")
        record = self._record_types[result.stage].model_validate(result.record)
        named = getattr(record, "digest", None)
        if named is not None and result.object is not None and named != result.object.digest:
            raise ValueError(f"its record is of {named}, its files are {result.object.digest}")

    def _path(self, key: StageKey) -> Path:
        return self._root / key.stage / f"{key.digest.removeprefix('sha256:')}.json"

    def _latest_path(self, stage: str, name: str) -> Path:
        return self._root / stage / "latest" / f"{digest_of(name).removeprefix('sha256:')[:16]}.json"


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0  # removed just now


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {
            name: leaf
            for key, inner in value.items()
            for name, leaf in _flat(inner, f"{prefix}.{key}" if prefix else key).items()
        }
    return {prefix: value}
