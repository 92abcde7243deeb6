"""From packed tensors back to weights, written down from the formats and not from the engines that made them.

An engine that packs wrongly and unpacks wrongly in the same way would agree with itself; it does not agree with this.
Formats: GPTQ v1 and v2 (gptqmodel/nn_modules/qlinear), AWQ GEMM (casper-hansen/AutoAWQ, awq/utils/packing_utils.py),
NF4 with nested statistics (bitsandbytes/functional.py, `QuantState`), INT8 rows (bitsandbytes, `SCB`).
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantizers.safetensors_header import TensorInfo, read_headers
from registry.contracts.base import Method

if TYPE_CHECKING:
    import torch

PACKED: dict[Method, tuple[str, str]] = {
    "gptq": ("qweight", "I32"),
    "awq": ("qweight", "I32"),
    "bnb_nf4": ("weight", "U8"),
    "bnb_int8": ("weight", "I8"),
}
"""Method -> (the packed tensor's name in its module, its safetensors dtype)."""

_WORD_BITS = 32
_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where in a 32-bit word the GEMM format keeps the n-th of eight neighbours."""
_INT8_RANGE = 127


class TensorFiles:
    """The tensors of a model folder, read one at a time; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.headers: dict[str, TensorInfo] = read_headers(folder)
        self._stack = ExitStack()
        self._open: dict[Path, Any] = {}

    def __enter__(self) -> TensorFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __contains__(self, name: str) -> bool:
        return name in self.headers

    def read(self, name: str) -> torch.Tensor:
        """The tensor as stored, on the CPU."""
        from safetensors import safe_open

        path = self.headers[name].file
        if path not in self._open:
            self._open[path] = self._stack.enter_context(safe_open(path, framework="pt"))
        tensor: torch.Tensor = self._open[path].get_tensor(name)
        return tensor


def dequantize(files: TensorFiles, module: str, method: Method, quantization_config: dict[str, Any]) -> torch.Tensor:
    """The float32 weights of one module, [out_features, in_features].

    Args:
        files: The artifact.
        module: Name of the Linear.
        method: Chooses the format.
        quantization_config: config.json's; GPTQ and AWQ read `bits`, `group_size`, `checkpoint_format`.
    """
    match method:
        case "gptq":
            return _gptq(files, module, quantization_config["bits"], quantization_config.get("checkpoint_format"))
        case "awq":
            return _awq(files, module, quantization_config["bits"])
        case "bnb_nf4":
            return _nf4(files, module)
        case "bnb_int8":
            rows = files.read(f"{module}.SCB").float() / _INT8_RANGE
            return files.read(f"{module}.weight").float() * rows[:, None]


def _gptq(files: TensorFiles, module: str, bits: int, checkpoint_format: str | None) -> torch.Tensor:
    """qweight [in / per_word, out], qzeros [groups, out / per_word], scales [groups, out], g_idx [in]."""
    codes = _unpack(files.read(f"{module}.qweight").T, bits).T
    # Version 1 stores every zero point less one.
    zeros = _unpack(files.read(f"{module}.qzeros"), bits) + (0 if checkpoint_format == "gptq_v2" else 1)
    scales = files.read(f"{module}.scales").float()
    groups = files.read(f"{module}.g_idx").long()
    return (scales[groups] * (codes - zeros[groups])).T


def _awq(files: TensorFiles, module: str, bits: int) -> torch.Tensor:
    """qweight [in, out / per_word], qzeros [groups, out / per_word], scales [groups, out]."""
    codes = _unpack(files.read(f"{module}.qweight"), bits, _AWQ_ORDER)
    zeros = _unpack(files.read(f"{module}.qzeros"), bits, _AWQ_ORDER)
    scales = files.read(f"{module}.scales").float()
    group_size = len(codes) // len(scales)
    return ((codes - zeros.repeat_interleave(group_size, 0)) * scales.repeat_interleave(group_size, 0)).T


def _nf4(files: TensorFiles, module: str) -> torch.Tensor:
    """Two codes a byte, the first in the high half; a maximum for each block, itself 8-bit where they are nested."""
    import torch

    prefix = f"{module}.weight"
    state = json.loads(bytes(files.read(f"{prefix}.quant_state.bitsandbytes__nf4").tolist()))
    packed = files.read(prefix).flatten().long()
    codes = torch.stack([packed >> 4, packed & 15], dim=1).flatten()
    maxima = files.read(f"{prefix}.absmax")
    if "nested_blocksize" in state:
        levels = files.read(f"{prefix}.nested_quant_map")[maxima.long()]
        block_maxima = files.read(f"{prefix}.nested_absmax").repeat_interleave(state["nested_blocksize"])
        maxima = levels * block_maxima[: len(levels)] + state["nested_offset"]
    values = files.read(f"{prefix}.quant_map").float()[codes]
    scaled = values * maxima.float().repeat_interleave(state["blocksize"])[: len(values)]
    return scaled.view(state["shape"])


def _unpack(words: torch.Tensor, bits: int, order: tuple[int, ...] | None = None) -> torch.Tensor:
    """[rows, words] int32 -> [rows, words * per_word] codes, lowest bits first or in `order`."""
    import torch

    per_word = _WORD_BITS // bits
    shifts = torch.tensor(order or range(per_word), dtype=torch.int32) * bits
    codes = (words[:, :, None] >> shifts) & ((1 << bits) - 1)
    return codes.reshape(len(words), -1)
