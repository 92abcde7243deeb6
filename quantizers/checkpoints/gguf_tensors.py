"""The tensors of a GGUF file by the names, and with the values, that they have in a checkpoint.

llama.cpp's converter names tensors anew, orders the rows of queries and keys by pairs that rotate together, adds one to
Gemma's norms, and puts the experts of a layer into one tensor (convert_hf_to_gguf.py). Here all that is undone. Blocks
are read by llama.cpp's own Python package, which shares no code with the quantizer.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from configs.errors import RequestError
from quantizers.checkpoints import gguf_header, gguf_linear_attention
from quantizers.checkpoints.expert_names import packed_name
from quantizers.checkpoints.safetensors_header import TensorInfo

if TYPE_CHECKING:
    import torch

_ROTATED_BY_PAIRS = frozenset({"llama", "granite", "smollm3"})
"""GGUF architectures whose rows of queries and keys are in another order than the checkpoint's."""
_PARTS = (".weight", ".bias")


class _Place(NamedTuple):
    """Where a tensor of the checkpoint lies."""

    stored: str
    """The file's name for it, or for what it is a part of."""
    expert: int | None = None
    """Whose part it is of a tensor with a layer's experts, which lie one behind the other."""


class GgufFile:
    """One GGUF file, read a tensor at a time; a context manager, and to be used as `TensorFiles` is.

    Args:
        path: The file.
        names: Tensors of the checkpoint that it was made of; what the file has of them is in `headers`.

    Raises:
        RequestError: The file is broken.
    """

    def __init__(self, path: Path, names: Iterable[str]) -> None:
        self._path = path
        try:
            self._stored, self._start = gguf_header.layout(path)
            self._kind = gguf_header.architecture(path)
            self._sizes = gguf_header.metadata(path, (f"{self._kind}.",), lists=False)
        except ValueError as error:
            raise RequestError(f"{path} is no whole GGUF file: {error}", remedy="quantize again") from error
        known = _name_map(self._kind, int(self._sizes[f"{self._kind}.block_count"]))
        self._places = {name: place for name in names if (place := self._place(known, name))}
        self.headers = {name: self._info(place) for name, place in self._places.items()}

    def __enter__(self) -> GgufFile:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __contains__(self, name: str) -> bool:
        return name in self.headers

    @property
    def unnamed(self) -> dict[str, TensorInfo]:
        """Tensors that none of the checkpoint's was written to, by their own names."""
        named = {place.stored for place in self._places.values()}
        return {name: self._info(_Place(name)) for name in sorted(self._stored.keys() - named)}

    def read(self, name: str) -> torch.Tensor:
        """The tensor in float32, on the CPU, as the checkpoint has it."""
        return self._as_in_checkpoint(name, self._values(self._places[name]))

    def read_own(self, stored: str) -> torch.Tensor:
        """The same as the file has it, by the file's name for it."""
        return self._values(_Place(stored))

    def _values(self, place: _Place) -> torch.Tensor:
        import numpy as np
        import torch
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize

        tensor, info = self._stored[place.stored], self._info(place)
        begins = self._start + tensor.offset + (place.expert or 0) * info.size_bytes
        content = np.fromfile(self._path, dtype=np.uint8, count=info.size_bytes, offset=begins)
        rows = content.reshape(prod(info.shape[:-1]), -1)
        values = np.array(dequantize(rows, GGMLQuantizationType(tensor.ggml_type)), dtype=np.float32)
        return torch.from_numpy(values).view(info.shape)

    def _place(self, known: Any, name: str) -> _Place | None:
        stored = known.get_name(gguf_linear_attention.written_name(name), _PARTS)
        if stored in self._stored:
            return _Place(stored)
        packed = packed_name(name)
        if packed is None:
            return None
        stored, expert = known.get_name(packed[0], _PARTS), packed[1]
        experts = self._stored[stored].shape[-1] if stored in self._stored else 0
        return _Place(stored, expert) if expert < experts else None

    def _as_in_checkpoint(self, name: str, values: torch.Tensor) -> torch.Tensor:
        if self._kind in gguf_linear_attention.KINDS:
            return gguf_linear_attention.as_in_checkpoint(name, values, self._kind, self._sizes)
        if self._kind.startswith("gemma") and name.endswith("norm.weight"):
            return values - 1
        module = name.rpartition(".")[0].rpartition(".")[2]
        if self._kind in _ROTATED_BY_PAIRS and module in ("q_proj", "k_proj"):
            heads = self._sizes[f"{self._kind}.attention.head_count" + ("_kv" if module == "k_proj" else "")]
            pairs = values.view(int(heads), -1, 2, *values.shape[1:])
            return pairs.transpose(1, 2).reshape(values.shape)
        return values

    def _info(self, place: _Place) -> TensorInfo:
        tensor = self._stored[place.stored]
        shape, size = tensor.shape[::-1], tensor.size_bytes
        if place.expert is not None:
            shape, size = shape[1:], size // shape[0]
        return TensorInfo(type_name(tensor.ggml_type), shape, size, self._path)


def type_name(ggml_type: int) -> str:
    """As llama.cpp spells it, such as `Q4_K`; those that are no blocks are spelled as in safetensors."""
    from gguf.constants import GGMLQuantizationType

    return str(GGMLQuantizationType(ggml_type).name)


def _name_map(kind: str, blocks: int) -> Any:
    from gguf.constants import MODEL_ARCH_NAMES
    from gguf.tensor_mapping import get_tensor_name_map

    architecture = next(one for one, name in MODEL_ARCH_NAMES.items() if name == kind)
    return get_tensor_name_map(architecture, blocks)
