"""Finished stages by key: reused when the key is equal and the object still whole. Failures never are."""

import logging
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from registry.contracts import StageResult
from registry.contracts.base import Record
from registry.files import write_text_atomically
from registry.hashing import digest_of
from registry.store import Store

logger = logging.getLogger(__name__)


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


class StageCache:
    """Entries as files: `<stage>/<hex>.json`, and `<stage>/latest/<name>.json` with the key used last under a name."""

    def __init__(self, root: Path, store: Store) -> None:
        self._root = root
        self._store = store

    def get(self, key: StageKey) -> StageResult | None:
        """The stored result, or None. A damaged entry or object is a miss with a warning."""
        path = self._path(key)
        if not path.exists():
            return None
        try:
            entry = CacheEntry.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError):
            logger.warning("cache entry %s is damaged; %s is done again", path, key.stage)
            return None
        reference = entry.result.object
        if reference is not None and not self._store.is_complete(reference.digest):
            logger.warning("object %s is damaged or gone; %s is done again", reference.digest, key.stage)
            return None
        return entry.result

    def put(self, key: StageKey, name: str, result: StageResult) -> None:
        """Keep a finished result under its key; `name` is the stage's name in its recipe."""
        if result.failure is not None:
            raise ValueError("failures are not cached")
        write_text_atomically(self._path(key), CacheEntry(key=key, result=result).model_dump_json(indent=2))
        write_text_atomically(self._latest_path(key.stage, name), key.model_dump_json(indent=2))

    def latest_key(self, stage: str, name: str) -> StageKey | None:
        """The key that was finished last under this name, for telling what changed since."""
        try:
            return StageKey.model_validate_json(self._latest_path(stage, name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def entries(self) -> list[CacheEntry]:
        """Every readable entry, oldest first."""
        paths = sorted(self._root.glob("*/*.json"), key=lambda path: path.stat().st_mtime)
        found = []
        for path in paths:
            try:
                found.append(CacheEntry.model_validate_json(path.read_text(encoding="utf-8")))
            except (OSError, ValidationError):
                logger.warning("cache entry %s is damaged", path)
        return found

    def _path(self, key: StageKey) -> Path:
        return self._root / key.stage / f"{key.digest.removeprefix('sha256:')}.json"

    def _latest_path(self, stage: str, name: str) -> Path:
        return self._root / stage / "latest" / f"{digest_of(name).removeprefix('sha256:')[:16]}.json"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {
            name: leaf
            for key, inner in value.items()
            for name, leaf in _flat(inner, f"{prefix}.{key}" if prefix else key).items()
        }
    return {prefix: value}
