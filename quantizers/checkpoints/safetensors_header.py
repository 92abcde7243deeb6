"""What a folder of safetensors holds, read from the files' headers alone (format: huggingface/safetensors README)."""

import json
import re
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from configs.errors import RequestError
from configs.reading.json_text import read_json_object

WEIGHTS_INDEX = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
_ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 8),
}
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000
"""The format's own limit; a longer one is not a safetensors file."""


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a safetensors file; `dtype` in the format's spelling, such as `BF16`, `I32`, `U8`."""

    dtype: str
    shape: tuple[int, ...]
    size_bytes: int
    file: Path


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up the model: those that the index names, the only one, or all shards of one set.

    Raises:
        RequestError: The index is broken or names a file that is not there, shards are missing, or the folder holds
            more than one set of weights.
    """
    single = folder / SINGLE_FILE
    if (folder / WEIGHTS_INDEX).exists():
        files = sorted({folder / name for name in _weight_map(folder).values()})
    elif single.exists():
        files = [single]
    else:
        return _shards(folder)
    others = [single] if single.exists() and single not in files else []
    if files == [single]:
        others = [path for path in sorted(folder.glob("model-*.safetensors")) if _SHARD.fullmatch(path.name)]
    if others:
        raise RequestError(
            f"{folder} holds two sets of weights: {files[0].name} and {others[0].name}",
            remedy="move away the set that is not meant; engines differ in which of them they read",
        )
    return files


def read_headers(folder: Path) -> dict[str, TensorInfo]:
    """Tensor name -> what its header says, over all weight files of `folder`.

    Raises:
        RequestError: A file is not safetensors or is cut off, a tensor is in two files, or the index names a tensor
            that is not where it says.
    """
    tensors: dict[str, TensorInfo] = {}
    for path in weight_files(folder):
        try:
            of_file = _read_header(path)
        except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
            raise RequestError(
                f"{path} is not a whole safetensors file: {error}", remedy="fetch or save the file again"
            ) from error
        twice = sorted(tensors.keys() & of_file.keys())
        if twice:
            raise RequestError(
                f"{twice[0]} is in two files of {folder}: {tensors[twice[0]].file.name} and {path.name}",
                remedy="fetch the checkpoint again, or move away the file that does not belong to it",
            )
        tensors.update(of_file)
    if (folder / WEIGHTS_INDEX).exists():
        _check_index(folder, tensors)
    return tensors


def _weight_map(folder: Path) -> dict[str, str]:
    """The index's tensor name -> file name; every file is there."""
    index = folder / WEIGHTS_INDEX
    try:
        names: dict[str, str] = read_json_object(index)["weight_map"]
        if not names:
            raise ValueError("it names no tensor")
        foreign = sorted({name for name in names.values() if Path(name).name != name or not (folder / name).is_file()})
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise RequestError(f"{index} is not a safetensors index", remedy="fetch the checkpoint again") from error
    if foreign:
        raise RequestError(
            f"{index} names files that are not in the folder: {', '.join(foreign)}",
            remedy="fetch the missing shards; all of them have to lie beside the index",
        )
    return names


def _shards(folder: Path) -> list[Path]:
    """The shards of a checkpoint whose index is missing: their names say how many there are."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        return []
    named = [_SHARD.fullmatch(path.name) for path in files]
    sets = {(match[1], match[3]) for match in named if match}
    if len(sets) != 1 or None in named:
        raise RequestError(
            f"nothing in {folder} says which files hold the model: it has no {WEIGHTS_INDEX}, and {files[0].name} is"
            f" neither {SINGLE_FILE} nor one of a set of shards",
            remedy=f"fetch the index too, or name the model's only file {SINGLE_FILE} and move the others away",
        )
    ((stem, total),) = sets
    missing = [
        name
        for number in range(1, int(total) + 1)
        if not (folder / (name := f"{stem}-{number:05}-of-{total}.safetensors")).is_file()
    ]
    if missing:
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise RequestError(f"{folder} lacks shards of its weights: {shown}", remedy="fetch the missing shards")
    return files


def _check_index(folder: Path, tensors: dict[str, TensorInfo]) -> None:
    named = _weight_map(folder)
    for name in sorted(named.keys() | tensors.keys()):
        says, holds = named.get(name), tensors.get(name)
        if holds is None:
            fact = f"says that {name} is in {says}, and it is not"
        elif says != holds.file.name:
            fact = f"does not say that {name} is in {holds.file.name}" + (f", but in {says}" if says else "")
        else:
            continue
        raise RequestError(
            f"{folder / WEIGHTS_INDEX} {fact}", remedy="fetch index and shards again: they are not of one checkpoint"
        )


def _read_header(path: Path) -> dict[str, TensorInfo]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(_LENGTH_BYTES))
        if length > _MAX_HEADER_BYTES:
            raise ValueError("its header is too long")
        header: dict[str, Any] = json.loads(file.read(length))
    header.pop("__metadata__", None)
    tensors = {
        name: TensorInfo(
            dtype=entry["dtype"],
            shape=tuple(entry["shape"]),
            size_bytes=entry["data_offsets"][1] - entry["data_offsets"][0],
            file=path,
        )
        for name, entry in header.items()
    }
    end = 0
    for name in sorted(tensors, key=lambda name: header[name]["data_offsets"]):
        info = tensors[name]
        item_bytes = _ITEM_BYTES.get(info.dtype)
        if item_bytes and info.size_bytes != item_bytes * prod(info.shape):
            raise ValueError(f"{name} has {info.size_bytes} bytes for {info.shape} values of {info.dtype}")
        if header[name]["data_offsets"][0] != end:
            raise ValueError(f"{name} begins inside another tensor, or behind a gap")
        end += info.size_bytes
    expected = _LENGTH_BYTES + length + end
    if path.stat().st_size != expected:
        raise ValueError(f"it has {path.stat().st_size} bytes where its header promises {expected}")
    return tensors
