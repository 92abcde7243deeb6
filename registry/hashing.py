"""Digests: canonical JSON for values, manifests for directories. Every digest is tagged with its algorithm."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from registry.contracts.base import Record

_CHUNK_BYTES = 1 << 20


def canonical_json(value: Any) -> str:
    """JSON that is equal for equal values: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_of(value: Any) -> str:
    """`sha256:<hex>` of a JSON-able value."""
    return "sha256:" + hashlib.sha256(canonical_json(value).encode()).hexdigest()


def digest_of_file(path: Path) -> str:
    """`sha256:<hex>` of a file's bytes."""
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            hasher.update(chunk)
    return "sha256:" + hasher.hexdigest()


class FileEntry(Record):
    size_bytes: int
    digest: str


class Manifest(Record):
    """What a directory holds: relative POSIX path -> size and digest. Times, owners and modes do not count."""

    files: dict[str, FileEntry]

    @property
    def digest(self) -> str:
        return digest_of(self.model_dump(mode="json"))

    @property
    def size_bytes(self) -> int:
        return sum(entry.size_bytes for entry in self.files.values())


def files_below(directory: Path) -> dict[str, Path]:
    """Every file below `directory` by its relative POSIX path."""
    return {path.relative_to(directory).as_posix(): path for path in sorted(directory.rglob("*")) if path.is_file()}


def strangers_below(directory: Path) -> list[Path]:
    """What is neither a file nor a folder: pipes and sockets, and links that lead nowhere."""
    return [path for path in sorted(directory.rglob("*")) if not path.is_file() and not path.is_dir()]


def entry_of(path: Path) -> FileEntry:
    """Read a file to its end and describe it."""
    return FileEntry(size_bytes=path.stat().st_size, digest=digest_of_file(path))


def manifest_of(directory: Path) -> Manifest:
    """Read every file below `directory` and describe it."""
    return Manifest(files={name: entry_of(path) for name, path in files_below(directory).items()})


def differing(promised: Mapping[str, FileEntry], actual: Mapping[str, FileEntry]) -> list[str]:
    """What differs between two lists of files, one sentence a file: `model.safetensors: changed`."""
    return [
        f"{name}: {'missing' if name not in actual else 'added' if name not in promised else 'changed'}"
        for name in sorted(actual.keys() | promised.keys())
        if actual.get(name) != promised.get(name)
    ]
