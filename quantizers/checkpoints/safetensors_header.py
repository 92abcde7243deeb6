"""What a folder of safetensors holds, read from the files' headers alone (format: huggingface/safetensors README)."""

import os
import re
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from configs.errors import RequestError
from configs.reading.json_text import parse_json, read_json_object
from configs.reading.text import WEIGHTS_FILE_BYTES, opened
from registry.contracts.base import DType

WEIGHTS_INDEX = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
_ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 8),
}
FLOATS: dict[str, DType] = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""What weights may be stored as."""
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
        except (ValueError, KeyError, TypeError, AttributeError) as error:
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
    with opened(path, WEIGHTS_FILE_BYTES) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if length > min(_MAX_HEADER_BYTES, size - _LENGTH_BYTES):
            raise ValueError("its header is longer than the file, or than any header is")
        header: dict[str, Any] = parse_json(file.read(length))
    header.pop("__metadata__", None)
    tensors: dict[str, TensorInfo] = {}
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        shape, (begin, behind), dtype = entry["shape"], entry["data_offsets"], entry["dtype"]
        if not all(isinstance(number, int) and number >= 0 for number in (*shape, begin, behind)):
            raise ValueError(f"{name} has a shape or a place that is no number of values or bytes")
        item_bytes = _ITEM_BYTES.get(dtype)
        if item_bytes and behind - begin != item_bytes * prod(shape):
            raise ValueError(f"{name} has {behind - begin} bytes for {tuple(shape)} values of {dtype}")
        if begin != end:
            raise ValueError(f"{name} begins inside another tensor, or behind a gap")
        tensors[name] = TensorInfo(dtype=dtype, shape=tuple(shape), size_bytes=behind - begin, file=path)
        end = behind
    expected = _LENGTH_BYTES + length + end
    if size != expected:
        raise ValueError(f"it has {size} bytes where its header promises {expected}")
    return tensors
