"""What was read and found whole is remembered, so that a pass over gigabytes is paid once and not at every use.

The kernel's word stands for a file's bytes: they cannot change without its time of change (ctime), which no program can
set, and a copy is another inode. A restored backup, a copied or an unpacked workspace is therefore read anew.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from registry.files import write_text_atomically
from registry.hashing import FileEntry, Manifest, entry_of, files_below

_SETTLED_NS = 2_000_000_000
"""File systems count time in ticks, the coarsest in two seconds. A file that was changed less than a tick before it was
read may be changed again without another time of change."""


class Signature(NamedTuple):
    """What the kernel says of a file; equal signatures, equal bytes."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int


class Known(NamedTuple):
    """What a file was found to be, and what the kernel said of it then."""

    signature: Signature
    entry: FileEntry


class Look(NamedTuple):
    """What a folder holds now."""

    manifest: Manifest
    known: dict[str, Known]
    """By relative POSIX path: what need not be read again as long as its signature is the same. Files that were changed
    just now are left out."""


def look_at(directory: Path, known: Mapping[str, Known]) -> Look:
    """Describe every file below `directory`; those in `known` are read only where their signature is another now.

    Raises:
        OSError: A file cannot be read.
    """
    files: dict[str, FileEntry] = {}
    found: dict[str, Known] = {}
    for name, path in files_below(directory).items():
        now_ns = time.time_ns()
        signature = _signature(path)
        if name in known and known[name].signature == signature:
            files[name], found[name] = known[name].entry, known[name]
            continue
        files[name] = entry_of(path)
        if now_ns - signature.ctime_ns > _SETTLED_NS and _signature(path) == signature:
            found[name] = Known(signature, files[name])
    return Look(Manifest(files=files), found)


def read_known(path: Path) -> dict[str, Known]:
    """What was remembered; nothing where the file is not there or damaged."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return {
            name: Known(Signature(*numbers), FileEntry(size_bytes=numbers[2], digest=digest))
            for name, (digest, *numbers) in told.items()
        }
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return {}


def write_known(path: Path, known: Mapping[str, Known]) -> None:
    """Remember; where nothing can be written, all is read again the next time."""
    told = {name: [one.entry.digest, *one.signature] for name, one in known.items()}
    try:
        write_text_atomically(path, json.dumps(told))
    except OSError:
        return


def _signature(path: Path) -> Signature:
    status = path.stat()
    return Signature(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
