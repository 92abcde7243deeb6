"""How many bytes a Linear takes on disk in each format, written down from the formats; biases are left out."""

from __future__ import annotations

from typing import NamedTuple

from quantizers.precision.config import AS_IT_IS
from registry.contracts.base import DType, Method

_WORD_BYTES, _WORD_BITS = 4, 32
_SHAPE_BYTES = 16
"""compressed-tensors keeps a packed matrix's shape beside it."""
ITEM_BYTES: dict[DType, int] = {"float32": 4, "bfloat16": 2, "float16": 2}


class Packing(NamedTuple):
    """How a method stores what it has rounded."""

    format: Method
    group_size: int
    """Weights of a row that share a scale; -1 is the whole row."""
    zero_points: bool
    """Asymmetric: a zero point a group besides. GPTQ's format has room for one in any case."""


def stored_bytes(packing: Packing, shape: tuple[int, int], bits: int, dtype: DType) -> int:
    """Bytes of one Linear's weights, scales and zero points.

    Args:
        packing: Of a format that stores modules in several precisions.
        shape: (out_features, in_features).
        bits: 16 where it is left as it is.
        dtype: The checkpoint's.
    """
    rows, columns = shape
    if bits == AS_IT_IS:
        return rows * columns * ITEM_BYTES[dtype]
    groups = columns // packing.group_size if packing.group_size > 0 else 1
    match packing.format:
        case "gptq":
            return _words(columns, bits) * rows + groups * (2 * rows + _words(rows, bits)) + _WORD_BYTES * columns
        case "awq":
            return columns * _words(rows, bits) + groups * (2 * rows + _words(rows, bits))
        case "rtn":
            zeros = groups * _words(rows, bits) if packing.zero_points else 0
            return rows * (_words(columns, bits) + groups * ITEM_BYTES[dtype]) + zeros + _SHAPE_BYTES
        case "w8a8":
            return rows * columns + rows * ITEM_BYTES[dtype]
        case other:
            raise ValueError(f"{other} stores all modules alike")


def _words(codes: int, bits: int) -> int:
    """Bytes of the 32-bit words that hold so many codes."""
    return -(-codes * bits // _WORD_BITS) * _WORD_BYTES
