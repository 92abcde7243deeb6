"""What a GGUF file holds, read from its header alone (format: ggml docs/gguf.md). No weight is read."""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from configs.reading.text import WEIGHTS_FILE_BYTES, opened

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_VALUE_LAYOUTS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""gguf_metadata_value_type -> layout (struct), for types of a fixed size."""
_VALUE_BYTES = {value_type: struct.calcsize(f"<{layout}") for value_type, layout in _VALUE_LAYOUTS.items()}
_STRING, _ARRAY = 8, 9
_LONGEST_NAME_BYTES = 65_535
_LONGEST_TEXT_BYTES = 2**24
"""A chat template is a text too."""
_MOST_HEADER_BYTES = 128 << 20
"""Those in use take up to 20 MB, nearly all of it vocabulary."""
_MOST_DIMENSIONS = 8
"""ggml has four at most."""
_MOST_LEVELS = 4
"""Of lists in lists; the format allows any number, and nobody writes more than one."""
_LEAST_BYTES = {_STRING: 8, _ARRAY: 12}
_LEAST_TENSOR_BYTES = 24
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


class _Header:
    """The beginning of a file; nothing is read or passed over beyond the file's end or what a header may take."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._end = min(os.fstat(file.fileno()).st_size, _MOST_HEADER_BYTES)

    @property
    def place(self) -> int:
        """Bytes that were read or passed over."""
        return self._file.tell()

    def check(self, size: int) -> None:
        """Refuse what would take `size` bytes or more, and there are fewer (ValueError)."""
        if size > self._end - self._file.tell():
            raise ValueError("its header is cut off, or promises more than the file holds")

    def take(self, size: int) -> bytes:
        """The next bytes."""
        self.check(size)
        return self._file.read(size)

    def skip(self, size: int) -> None:
        """Pass over the next bytes."""
        self.check(size)
        self._file.seek(size, os.SEEK_CUR)

    def number(self, layout: str) -> int:
        """The next whole number, in a layout of `struct`."""
        (value,) = struct.unpack(layout, self.take(struct.calcsize(layout)))
        return int(value)

    def text(self, longest_bytes: int = _LONGEST_NAME_BYTES) -> str:
        """The next text; a name unless it may be longer."""
        length = self.number("<Q")
        if length > longest_bytes:
            raise ValueError("a text in its header is too long")
        return self.take(length).decode("utf-8")

    def counts(self) -> tuple[int, int]:
        """Numbers of tensors and of keys."""
        if self.take(len(_MAGIC)) != _MAGIC:
            raise ValueError("it does not begin with GGUF")
        version = self.number("<I")
        if version not in _VERSIONS:
            raise ValueError(f"it is GGUF version {version}")
        return self.number("<Q"), self.number("<Q")

    def value(self, value_type: int, level: int = 0) -> Any:
        """The next value."""
        if value_type == _STRING:
            return self.text(_LONGEST_TEXT_BYTES)
        if value_type in _VALUE_LAYOUTS:
            return self._values(value_type, 1)[0]
        item_type, count = self._list_of(value_type, level)
        if item_type in _VALUE_LAYOUTS:
            return self._values(item_type, count)
        return [self.value(item_type, level + 1) for _ in range(count)]

    def skip_value(self, value_type: int, level: int = 0) -> None:
        """Pass over the next value."""
        if value_type == _STRING:
            self.skip(self.number("<Q"))
        elif value_type in _VALUE_BYTES:
            self.skip(_VALUE_BYTES[value_type])
        else:
            item_type, count = self._list_of(value_type, level)
            if item_type in _VALUE_BYTES:
                self.skip(count * _VALUE_BYTES[item_type])
            else:
                for _ in range(count):
                    self.skip_value(item_type, level + 1)

    def _list_of(self, value_type: int, level: int) -> tuple[int, int]:
        """Type and number of the items of the list that begins here."""
        if value_type != _ARRAY:
            raise ValueError(f"it holds a value of the unknown type {value_type}")
        if level >= _MOST_LEVELS:
            raise ValueError(f"it holds lists in lists, more than {_MOST_LEVELS} levels deep")
        item_type, count = self.number("<I"), self.number("<Q")
        self.check(count * (_VALUE_BYTES | _LEAST_BYTES).get(item_type, 0))
        return item_type, count

    def _values(self, value_type: int, count: int) -> list[Any]:
        content = self.take(count * _VALUE_BYTES[value_type])
        return list(struct.unpack(f"<{count}{_VALUE_LAYOUTS[value_type]}", content))


@contextmanager
def _header(path: Path) -> Iterator[_Header]:
    with opened(path, WEIGHTS_FILE_BYTES) as file:
        yield _Header(file)


def architecture(path: Path) -> str:
    """`general.architecture`, which GGUF files carry as their first key.

    Raises:
        ValueError: It is no GGUF file, or one of another kind.
        UnreadableError: It cannot be read.
    """
    with _header(path) as header:
        header.counts()
        key, value_type = header.text(), header.number("<I")
        if key != "general.architecture" or value_type != _STRING:
            raise ValueError(f"its first key is {key!r} instead of 'general.architecture'")
        return header.text()


def element_count(path: Path) -> int:
    """Number of weights over all tensors (raises as `tensors` does)."""
    return sum(prod(tensor.shape) for tensor in tensors(path).values())


def tensors(path: Path) -> dict[str, GgufTensor]:
    """Tensor name -> what the header says of it (raises as `layout` does)."""
    return layout(path)[0]


def layout(path: Path) -> tuple[dict[str, GgufTensor], int]:
    """Tensor name -> what the header says of it, and where the tensors begin, in bytes. The file holds them all.

    The `gguf` package tells it too, and takes seconds for its import and for the vocabulary.

    Raises:
        ValueError: The header is broken, names a tensor twice, or the file is cut off.
        UnreadableError: It cannot be read.
    """
    found: dict[str, GgufTensor] = {}
    alignment = _DEFAULT_ALIGNMENT
    with _header(path) as header:
        count, keys = header.counts()
        for _ in range(keys):
            key, value_type = header.text(), header.number("<I")
            if key == "general.alignment":
                alignment = _whole(key, header.value(value_type))
            else:
                header.skip_value(value_type)
        header.check(count * _LEAST_TENSOR_BYTES)
        for _ in range(count):
            name, dimensions = header.text(), header.number("<I")
            if name in found:
                raise ValueError(f"it holds the tensor {name} twice")
            if dimensions > _MOST_DIMENSIONS:
                raise ValueError(f"its tensor {name} has {dimensions} dimensions")
            shape = tuple(header.number("<Q") for _ in range(dimensions))
            found[name] = GgufTensor(shape, header.number("<I"), header.number("<Q"))
        start = -header.place % alignment + header.place
    promised = max((start + tensor.offset + tensor.size_bytes for tensor in found.values()), default=0)
    if path.stat().st_size < promised:
        raise ValueError(f"it is cut off: its header promises {promised} bytes, and it has {path.stat().st_size}")
    return found, start


def split_count(path: Path) -> int:
    """Over how many files the model is split; 1 for one that is not (raises as `metadata` does)."""
    return _whole("split.count", metadata(path, ("split.count",), lists=False).get("split.count", 1))


def metadata(path: Path, beginnings: tuple[str, ...], *, lists: bool) -> dict[str, Any]:
    """The values of all keys that begin with one of `beginnings`.

    Args:
        lists: Also those that are lists, such as a vocabulary of 100,000 tokens.

    Raises:
        ValueError: The header is broken or cut off.
        UnreadableError: It cannot be read.
    """
    found: dict[str, Any] = {}
    with _header(path) as header:
        _, keys = header.counts()
        for _ in range(keys):
            key, value_type = header.text(), header.number("<I")
            if key.startswith(beginnings) and (lists or value_type != _ARRAY):
                found[key] = header.value(value_type)
            else:
                header.skip_value(value_type)
    return found


def _whole(key: str, value: Any) -> int:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"its {key} is {value!r}")
    return value
