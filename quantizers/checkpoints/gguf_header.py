"""What a GGUF file holds, read from its header alone (format: ggml docs/gguf.md). No weight is read."""

import struct
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_VALUE_LAYOUTS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""gguf_metadata_value_type -> layout (struct), for types of a fixed size."""
_VALUE_BYTES = {value_type: struct.calcsize(f"<{layout}") for value_type, layout in _VALUE_LAYOUTS.items()}
_STRING, _ARRAY = 8, 9
_LONGEST_NAME_BYTES = 65_535
_LONGEST_TEXT_BYTES = 2**24
"""A chat template is a text too."""
_DEFAULT_ALIGNMENT = 32
_BLOCKS = {
    **{0: (1, 4), 1: (1, 2), 30: (1, 2)},
    **{2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40)},
    **{10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292)},
}
"""ggml_type -> (values, bytes) of a block: F32, F16, BF16; Q4_0 to Q8_1; Q2_K to Q8_K. Others count as one byte."""


class GgufTensor(NamedTuple):
    """One tensor of a GGUF file."""

    shape: tuple[int, ...]
    """Innermost dimension first."""
    ggml_type: int
    offset: int
    """From where the tensors begin, in bytes."""

    @property
    def size_bytes(self) -> int:
        """What it takes; a lower bound for types that are not in common use."""
        values, size = _BLOCKS.get(self.ggml_type, (prod(self.shape), 1))
        return prod(self.shape) // values * size if values else 0


def architecture(path: Path) -> str:
    """`general.architecture`, which GGUF files carry as their first key.

    Raises:
        ValueError, struct.error: It is no GGUF file, or one of another kind.
    """
    with path.open("rb") as file:
        _counts(file)
        key = _name(file)
        value_type = _number(file, "<I")
        if key != "general.architecture" or value_type != _STRING:
            raise ValueError(f"its first key is {key!r} instead of 'general.architecture'")
        return _name(file)


def element_count(path: Path) -> int:
    """Number of weights over all tensors (raises as `tensors` does)."""
    return sum(prod(tensor.shape) for tensor in tensors(path).values())


def tensors(path: Path) -> dict[str, GgufTensor]:
    """Tensor name -> what the header says of it. The file is long enough to hold them all.

    The `gguf` package tells it too, and takes seconds for its import and for the vocabulary.

    Raises:
        ValueError, struct.error: The header is broken, names a tensor twice, or the file is cut off.
    """
    found: dict[str, GgufTensor] = {}
    alignment = _DEFAULT_ALIGNMENT
    with path.open("rb") as file:
        count, keys = _counts(file)
        for _ in range(keys):
            key, value_type = _name(file), _number(file, "<I")
            if key == "general.alignment":
                alignment = max(1, int(_value(file, value_type)))
            else:
                _skip_value(file, value_type)
        for _ in range(count):
            name = _name(file)
            if name in found:
                raise ValueError(f"it holds the tensor {name} twice")
            shape = tuple(_number(file, "<Q") for _ in range(_number(file, "<I")))
            found[name] = GgufTensor(shape, _number(file, "<I"), _number(file, "<Q"))
        start = -file.tell() % alignment + file.tell()
    promised = max((start + tensor.offset + tensor.size_bytes for tensor in found.values()), default=0)
    if path.stat().st_size < promised:
        raise ValueError(f"it is cut off: its header promises {promised} bytes, and it has {path.stat().st_size}")
    return found


def split_count(path: Path) -> int:
    """Over how many files the model is split; 1 for one that is not (raises as `metadata` does)."""
    return int(metadata(path, ("split.count",), lists=False).get("split.count", 1))


def metadata(path: Path, beginnings: tuple[str, ...], *, lists: bool) -> dict[str, Any]:
    """The values of all keys that begin with one of `beginnings`.

    Args:
        lists: Also those that are lists, such as a vocabulary of 100,000 tokens.

    Raises:
        ValueError, struct.error: The header is broken or cut off.
    """
    found: dict[str, Any] = {}
    with path.open("rb") as file:
        _, keys = _counts(file)
        for _ in range(keys):
            key, value_type = _name(file), _number(file, "<I")
            if key.startswith(beginnings) and (lists or value_type != _ARRAY):
                found[key] = _value(file, value_type)
            else:
                _skip_value(file, value_type)
    return found


def _counts(file: BinaryIO) -> tuple[int, int]:
    """Numbers of tensors and of keys."""
    if file.read(len(_MAGIC)) != _MAGIC:
        raise ValueError("it does not begin with GGUF")
    version = _number(file, "<I")
    if version not in _VERSIONS:
        raise ValueError(f"it is GGUF version {version}")
    return _number(file, "<Q"), _number(file, "<Q")


def _value(file: BinaryIO, value_type: int) -> Any:
    if value_type == _STRING:
        return _text(file, _LONGEST_TEXT_BYTES)
    if value_type in _VALUE_LAYOUTS:
        return _values(file, value_type, 1)[0]
    if value_type != _ARRAY:
        raise ValueError(f"it holds a value of the unknown type {value_type}")
    item_type, count = _number(file, "<I"), _number(file, "<Q")
    if item_type in _VALUE_LAYOUTS:
        return _values(file, item_type, count)
    return [_value(file, item_type) for _ in range(count)]


def _values(file: BinaryIO, value_type: int, count: int) -> list[Any]:
    content = file.read(count * _VALUE_BYTES[value_type])
    return list(struct.unpack(f"<{count}{_VALUE_LAYOUTS[value_type]}", content))


def _skip_value(file: BinaryIO, value_type: int) -> None:
    if value_type == _STRING:
        file.seek(_number(file, "<Q"), 1)
    elif value_type == _ARRAY:
        item_type, count = _number(file, "<I"), _number(file, "<Q")
        if item_type in _VALUE_BYTES:
            file.seek(count * _VALUE_BYTES[item_type], 1)
        else:
            for _ in range(count):
                _skip_value(file, item_type)
    elif value_type in _VALUE_BYTES:
        file.seek(_VALUE_BYTES[value_type], 1)
    else:
        raise ValueError(f"it holds a value of the unknown type {value_type}")


def _name(file: BinaryIO) -> str:
    return _text(file, _LONGEST_NAME_BYTES)


def _text(file: BinaryIO, longest_bytes: int) -> str:
    length = _number(file, "<Q")
    if length > longest_bytes:
        raise ValueError("a text in its header is too long")
    content = file.read(length)
    if len(content) < length:
        raise ValueError("its header is cut off")
    return content.decode("utf-8")


def _number(file: BinaryIO, layout: str) -> int:
    (value,) = struct.unpack(layout, file.read(struct.calcsize(layout)))
    return int(value)
