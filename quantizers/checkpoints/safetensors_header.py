"""What a folder of safetensors holds, read from the files' headers alone (format: huggingface/safetensors README)."""

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import RequestError

WEIGHTS_INDEX = "model.safetensors.index.json"
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
    """The safetensors files that make up the model: those that the index names, or else all.

    Raises:
        RequestError: The index is broken or names a file that is not there.
    """
    index = folder / WEIGHTS_INDEX
    if not index.exists():
        single = folder / "model.safetensors"
        return [single] if single.exists() else sorted(folder.glob("*.safetensors"))
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise RequestError(f"{index} is not a safetensors index", remedy="fetch the checkpoint again") from error
    foreign = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
    if foreign:
        raise RequestError(
            f"{index} names files that are not in the folder: {', '.join(foreign)}",
            remedy="fetch the missing shards; all of them have to lie beside the index",
        )
    return [folder / name for name in names]


def read_headers(folder: Path) -> dict[str, TensorInfo]:
    """Tensor name -> what its header says, over all weight files of `folder`.

    Raises:
        RequestError: A file is not safetensors or is cut off.
    """
    tensors: dict[str, TensorInfo] = {}
    for path in weight_files(folder):
        try:
            tensors.update(_read_header(path))
        except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
            raise RequestError(
                f"{path} is not a whole safetensors file: {error}", remedy="fetch or save the file again"
            ) from error
    return tensors


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
    expected = _LENGTH_BYTES + length + sum(info.size_bytes for info in tensors.values())
    if path.stat().st_size != expected:
        raise ValueError(f"it has {path.stat().st_size} bytes where its header promises {expected}")
    return tensors
