"""From packed tensors back to weights, written down from the formats and not from the engines that made them.

An engine that packs wrongly and unpacks wrongly in the same way would agree with itself; it does not agree with this.
Formats: GPTQ v1 and v2 (gptqmodel/nn_modules/qlinear), AWQ GEMM (casper-hansen/AutoAWQ, awq/utils/packing_utils.py),
NF4 with nested statistics (bitsandbytes/functional.py, `QuantState`), INT8 rows (bitsandbytes, `SCB`), packed and plain
integers and FP8 (compressed_tensors/compressors, `pack_quantized` and `naive_quantized`), NVFP4 (the same, `nvfp4`).
GGUF's blocks are read by the package `gguf`, which shares no code with the quantizer (`gguf_tensors.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.reading.json_text import parse_json
from quantizers.checkpoints.expert_names import engine_name
from quantizers.checkpoints.gguf_tensors import GgufFile
from quantizers.checkpoints.safetensors_header import FLOATS, TensorInfo, read_headers
from quantizers.checkpoints.stored_model import gguf_file
from registry.contracts.base import Method, format_of

if TYPE_CHECKING:
    import torch

PACKED: dict[Method, tuple[str, tuple[str, ...]]] = {
    "gptq": ("qweight", ("I32",)),
    "awq": ("qweight", ("I32",)),
    "bnb_nf4": ("weight", ("U8",)),
    "bnb_int8": ("weight", ("I8",)),
    "rtn": ("weight_packed", ("I32",)),
    "w8a8": ("weight", ("I8",)),
    "fp8": ("weight", ("F8_E4M3",)),
    "nvfp4": ("weight_packed", ("U8",)),
    "gguf": ("weight", ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")),
}
"""Format -> (the packed tensor's name in its module, its dtype: safetensors', or one of GGUF's types)."""

_WORD_BITS = 32
_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where in a 32-bit word the GEMM format keeps the n-th of eight neighbours."""
_INT8_RANGE = 127
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""What the lower three bits of a code in 4-bit floating point stand for; the highest is the sign."""


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


Tensors = TensorFiles | GgufFile
"""Of one folder, whichever way they are stored."""


def tensors_of(folder: Path, names: Iterable[str]) -> Tensors:
    """The tensors of an artifact; `names` are those of the checkpoint that it was made of."""
    path = gguf_file(folder)
    return TensorFiles(folder) if path is None else GgufFile(path, names)


def dequantize(files: Tensors, module: str, method: Method, quantization_config: dict[str, Any]) -> torch.Tensor:
    """The float32 weights of one module, [out_features, in_features].

    Args:
        files: The artifact.
        module: Name of the Linear.
        method: Chooses the format.
        quantization_config: config.json's; AWQ reads `bits`, GPTQ `checkpoint_format`.
    """
    if isinstance(files, GgufFile) or is_left_alone(files.headers, module):
        return files.read(f"{module}.weight").float()
    return _unpacked(files, stored_name(files.headers, module, method), format_of(method), quantization_config)


def _unpacked(files: TensorFiles, module: str, stored_as: Method, quantization_config: dict[str, Any]) -> torch.Tensor:
    match stored_as:
        case "gptq":
            return _gptq(files, module, quantization_config.get("checkpoint_format"))
        case "awq":
            return _awq(files, module, quantization_config["bits"])
        case "bnb_nf4":
            return _nf4(files, module)
        case "bnb_int8" | "w8a8" | "fp8":
            return _rows(files, module)
        case "rtn":
            return _packed_integers(files, module)
        case "nvfp4":
            return _nvfp4(files, module)
        case other:
            raise ValueError(f"{other} is no format of its own")


def is_left_alone(headers: Mapping[str, TensorInfo], module: str) -> bool:
    """Whether a Linear is stored as the source has it: in a float dtype."""
    weight = headers.get(f"{module}.weight")
    return weight is not None and weight.dtype in FLOATS


def stored_name(headers: Mapping[str, object], module: str, method: Method) -> str:
    """What an artifact calls a module of the checkpoint: engines that take experts apart name them in their own way."""
    packed, _ = PACKED[format_of(method)]
    return module if f"{module}.{packed}" in headers else engine_name(module)


def _gptq(files: TensorFiles, module: str, checkpoint_format: str | None) -> torch.Tensor:
    """qweight [in / per_word, out], qzeros [groups, out / per_word], scales [groups, out], g_idx [in]."""
    bits = _WORD_BITS * files.headers[f"{module}.qweight"].shape[0] // files.headers[f"{module}.g_idx"].shape[0]
    codes = _unpack(files.read(f"{module}.qweight"), bits, dim=0)
    # Version 1 stores every zero point less one.
    zeros = _unpack(files.read(f"{module}.qzeros"), bits, dim=1) + (0 if checkpoint_format == "gptq_v2" else 1)
    scales = files.read(f"{module}.scales").float()
    groups = files.read(f"{module}.g_idx")
    weights = codes.float().sub_(zeros.float().index_select(0, groups))
    return weights.mul_(scales.index_select(0, groups)).T


def _awq(files: TensorFiles, module: str, bits: int) -> torch.Tensor:
    """qweight [in, out / per_word], qzeros [groups, out / per_word], scales [groups, out]."""
    codes = _unpack(files.read(f"{module}.qweight"), bits, dim=1, order=_AWQ_ORDER)
    zeros = _unpack(files.read(f"{module}.qzeros"), bits, dim=1, order=_AWQ_ORDER)
    scales = files.read(f"{module}.scales").float()
    grouped = codes.float().view(len(scales), -1, codes.shape[1])
    return grouped.sub_(zeros[:, None]).mul_(scales[:, None]).view_as(codes).T


def _packed_integers(files: TensorFiles, module: str) -> torch.Tensor:
    """weight_packed [out, in / per_word], weight_scale [out, groups], weight_zero_point [out / per_word, groups]; the
    shape itself is beside them, since its last words may be filled up. weight_g_idx [in] where columns were grouped in
    another order."""
    columns = int(files.read(f"{module}.weight_shape")[1])
    bits = _WORD_BITS * files.headers[f"{module}.weight_packed"].shape[1] // columns
    codes = _unpack(files.read(f"{module}.weight_packed"), bits, dim=1).float()
    scales = files.read(f"{module}.weight_scale").float()
    zeros: torch.Tensor | float = 2.0 ** (bits - 1)
    if f"{module}.weight_zero_point" in files:
        zeros = _unpack(files.read(f"{module}.weight_zero_point"), bits, dim=0)[: len(codes), :, None]
    if f"{module}.weight_g_idx" in files:
        groups = files.read(f"{module}.weight_g_idx")
        of_column = zeros if isinstance(zeros, float) else zeros[:, groups, 0]
        return codes.sub_(of_column).mul_(scales[:, groups])
    grouped = codes.view(*scales.shape, -1)
    return grouped.sub_(zeros).mul_(scales[..., None]).view_as(codes)


def _rows(files: TensorFiles, module: str) -> torch.Tensor:
    """weight [out, in] in 8 bits, with a scale a row: SCB [out] is its range, weight_scale [out, 1] its step."""
    range_name = f"{module}.SCB"
    if range_name in files:
        scales = files.read(range_name).float()[:, None] / _INT8_RANGE
    else:
        scales = files.read(f"{module}.weight_scale").float()
    return files.read(f"{module}.weight").float() * scales


def _nf4(files: TensorFiles, module: str) -> torch.Tensor:
    """Two codes a byte, the first in the high half; a maximum for each block, itself 8-bit where they are nested."""
    import torch

    prefix = f"{module}.weight"
    state = parse_json(bytes(files.read(f"{prefix}.quant_state.bitsandbytes__nf4").tolist()))
    maxima = files.read(f"{prefix}.absmax")
    if "nested_blocksize" in state:
        shares = files.read(f"{prefix}.nested_quant_map")[maxima.long()]
        block_maxima = files.read(f"{prefix}.nested_absmax").repeat_interleave(state["nested_blocksize"])
        maxima = shares * block_maxima[: len(shares)] + state["nested_offset"]
    levels = files.read(f"{prefix}.quant_map").float()
    of_byte = torch.stack([levels.repeat_interleave(len(levels)), levels.repeat(len(levels))], dim=1)
    values = of_byte.index_select(0, files.read(prefix).flatten().int()).flatten()
    padding = len(maxima) * state["blocksize"] - len(values)
    blocks = torch.nn.functional.pad(values, (0, padding)).view(len(maxima), -1)
    return blocks.mul_(maxima.float()[:, None]).flatten()[: len(values)].view(state["shape"])


def _nvfp4(files: TensorFiles, module: str) -> torch.Tensor:
    """weight_packed [out, in / 2], the first code in the low half; weight_scale [out, groups] over one for all."""
    import torch

    levels = torch.tensor([*_E2M1, *(-level for level in _E2M1)])
    packed = files.read(f"{module}.weight_packed").int()
    codes = torch.stack([packed & 0xF, packed >> 4], -1).flatten(1)
    scales = files.read(f"{module}.weight_scale").float() / files.read(f"{module}.weight_global_scale").float()
    grouped = levels[codes].view(*scales.shape, -1)
    return grouped.mul_(scales[..., None]).view_as(codes)


def _unpack(words: torch.Tensor, bits: int, *, dim: int, order: Sequence[int] | None = None) -> torch.Tensor:
    """int32 words [rows, columns] -> codes, `per_word` times as many along `dim`, lowest bits first or in `order`."""
    import torch

    per_word = _WORD_BITS // bits
    # A place at a time: each is one pass over all words, where one shift of all places would go word by word.
    places = [(words >> bits * place) & ((1 << bits) - 1) for place in order or range(per_word)]
    return torch.stack(places, dim + 1).flatten(dim, dim + 1)
