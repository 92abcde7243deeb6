"""Damage to files: what a disk, a copy, an editor or a careless hand does to them."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

Damage = Callable[[Path, Random], str]
"""Does something to a file and says what."""

FILES: dict[str, tuple[str, ...]] = {
    "weights": ("store/objects/*/*.safetensors",),
    "model files": ("store/objects/*/*.json", "store/objects/*/*.jinja"),
    "measured files": ("store/objects/*/*.parquet", "store/objects/*/*.jsonl"),
    "manifests": ("store/manifests/*",),
    "memos": ("store/verified/*",),
    "cache entries": ("cache/*/*.json",),
    "latest keys": ("cache/*/latest/*.json",),
    "answers": ("answers/*",),
    "run files": ("runs/*/*", "runs/*/stages/*", "runs/*/logs/*"),
    "mlflow": ("mlflow.db", "mlartifacts/**/*"),
}
"""Kinds of files of a workspace; what is none of them is `other files`: locks, whatever comes."""
OTHER_FILES = "other files"


def files_of(workspace: Path, kind: str) -> list[Path]:
    """All files of a kind, in a fixed order."""
    if kind == OTHER_FILES:
        named = {path for one in FILES for path in files_of(workspace, one)}
        return sorted(path for path in workspace.rglob("*") if path.is_file() and path not in named)
    return sorted({path for pattern in FILES[kind] for path in workspace.glob(pattern) if path.is_file()})


def flip_bit(path: Path, rng: Random) -> str:
    """One bit, anywhere."""
    content = bytearray(path.read_bytes())
    if not content:
        return grow(path, rng)
    at, bit = rng.randrange(len(content)), rng.randrange(8)
    content[at] ^= 1 << bit
    path.write_bytes(content)
    return f"bit {bit} of byte {at} flipped"


def change_digit(path: Path, rng: Random) -> str:
    """One decimal digit of a text becomes another: still what its format allows."""
    content = bytearray(path.read_bytes())
    digits = [match.start() for match in re.finditer(rb"\d", content)]
    if not digits:
        return flip_bit(path, rng)
    at = rng.choice(digits)
    was = content[at]
    content[at] = rng.choice([digit for digit in b"0123456789" if digit != was])
    path.write_bytes(content)
    return f"digit {chr(was)} at byte {at} became {chr(content[at])}"


def zero_block(path: Path, rng: Random) -> str:
    """A block that was never written reads as zeros after a crash."""
    content = bytearray(path.read_bytes())
    start = rng.randrange(max(1, len(content)))
    length = min(len(content) - start, rng.choice((16, 512, 4096)))
    content[start : start + length] = bytes(length)
    path.write_bytes(content)
    return f"{length} bytes from {start} on are zero"


def truncate(path: Path, rng: Random) -> str:
    """The end is missing."""
    size = rng.randrange(max(1, path.stat().st_size))
    os.truncate(path, size)
    return f"cut to {size} bytes"


def empty(path: Path, rng: Random) -> str:
    """Nothing is left in it."""
    os.truncate(path, 0)
    return "emptied"


def delete(path: Path, rng: Random) -> str:
    """It is gone."""
    path.unlink()
    return "deleted"


def grow(path: Path, rng: Random) -> str:
    """Something stands behind its end."""
    with path.open("ab") as file:
        file.write(rng.randbytes(rng.choice((1, 100))))
    return "garbage behind its end"


def garbage(path: Path, rng: Random) -> str:
    """Other content of the same length."""
    path.write_bytes(rng.randbytes(path.stat().st_size))
    return "random bytes of the same length"


def become_folder(path: Path, rng: Random) -> str:
    """A folder has its name."""
    path.unlink()
    path.mkdir()
    return "became a folder"


def become_link(path: Path, rng: Random) -> str:
    """A link to nowhere has its name."""
    path.unlink()
    path.symlink_to("/nowhere/at/all")
    return "became a link to nowhere"


def swap_with(other: Path, path: Path) -> str:
    """Two files change names."""
    aside = path.with_name(path.name + ".aside")
    path.rename(aside)
    other.rename(path)
    aside.rename(other)
    return f"swapped with {other.name}"


DAMAGES: tuple[Damage, ...] = (
    flip_bit,
    flip_bit,
    change_digit,
    change_digit,
    zero_block,
    truncate,
    empty,
    delete,
    grow,
    garbage,
    become_folder,
    become_link,
)


def damage(path: Path, rng: Random, others: list[Path]) -> str:
    """Do something to `path`; half of the time its times stay as they were, as with a disk that forgets.

    Args:
        others: Files of the same kind that it may be swapped with.
    """
    times = path.stat()
    candidates = [other for other in others if other != path]
    if candidates and rng.random() < 0.2:
        return swap_with(rng.choice(candidates), path)
    said = rng.choice(DAMAGES)(path, rng)
    if path.is_file() and rng.random() < 0.5:
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        said += ", its times kept"
    return said


def forget(workspace: Path, rng: Random, stage: str = "") -> str:
    """Take some finished stages out of the cache, half of the time with what they had made, so that there is work.

    Args:
        stage: A kind of stage of which one is among them.
    """
    entries = files_of(workspace, "cache entries")
    chosen = rng.sample(entries, rng.randint(1, min(3, len(entries)))) if entries else []
    wanted = [entry for entry in entries if entry.parent.name == stage]
    if wanted and not set(wanted) & set(chosen):
        chosen.append(rng.choice(wanted))
    with_objects = rng.random() < 0.5
    for entry in chosen:
        text = entry.read_text(errors="replace")
        entry.unlink()
        made = re.search(r'"object": \{[^}]*"digest": "sha256:([0-9a-f]{64})"', text)
        if made and with_objects:
            shutil.rmtree(workspace / "store" / "objects" / made[1], ignore_errors=True)
            (workspace / "store" / "manifests" / f"{made[1]}.json").unlink(missing_ok=True)
    kinds = sorted(entry.parent.name for entry in chosen)
    return f"forgotten: {', '.join(kinds)}{' with their objects' if with_objects else ''}"
