"""Packing into words in whole tensors: the engine's bytes, without its loops and without compiling a kernel.

GPTQModel 7.3.6 packs AWQ by rounding one column of inputs after the other and filling one column of words after the
other (nn_modules/qlinear/torch_awq.py, `AwqTorchLinear.pack`), and GPTQ by a kernel that it compiles when it is first
used (nn_modules/qlinear/__init__.py, `PackableQuantLinear.pack_block`), which takes longer than all the packing. The
same operations in the same precision work on whole tensors at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight neighbouring outputs each nibble of an AWQ word holds, from the lowest up."""


def pack_awq(
    self: Any, linear: torch.nn.Linear, scales: torch.Tensor, zeros: torch.Tensor, g_idx: torch.Tensor | None = None
) -> None:
    """Stand in for `AwqTorchLinear.pack`; the parameters are the engine's.

    Args:
        self: The AwqTorchLinear, which gets `qweight`, `qzeros`, `scales` and `bias`.
        linear: Holds the rounded weights, [out_features, in_features].
        scales: [out_features, groups].
        zeros: [out_features, groups], whole numbers.
        g_idx: Not used: AWQ's groups are neighbours.

    Raises:
        ValueError: The outputs do not fill whole words.
    """
    import torch

    scales, zeros = scales.t().contiguous(), zeros.t().contiguous()
    # float16 for float32 weights; the levels are rounded with the scales that are stored, as the engine does.
    dtype = scales.dtype if scales.dtype in (torch.float16, torch.bfloat16) else torch.float16
    _register(self, linear, scales.to(dtype), dtype)
    group = torch.arange(linear.weight.shape[1], device=scales.device) // self.group_size
    levels = torch.round((linear.weight.data.t() + (zeros * scales)[group]) / self.scales[group])
    self.register_buffer("qweight", _words(levels, _AWQ_ORDER))
    self.register_buffer("qzeros", _words(zeros, _AWQ_ORDER))


def pack_gptq(
    self: Any,
    linear: torch.nn.Linear,
    scales: torch.Tensor,
    zeros: torch.Tensor,
    g_idx: torch.Tensor,
    block_in: int = 8192,
    workers: int = 1,
) -> None:
    """Stand in for `PackableQuantLinear.pack_block` with 4 or 8 bits; the parameters are the engine's.

    Args:
        self: The engine's Linear, which gets `qweight`, `qzeros`, `scales`, `g_idx` and `bias`.
        linear: Holds the rounded weights, [out_features, in_features].
        scales: [out_features, groups].
        zeros: [out_features, groups], whole numbers.
        g_idx: The group of each input, [in_features].
        block_in: Not used.
        workers: Not used.

    Raises:
        ValueError: The inputs or outputs do not fill whole words.
    """
    import torch

    scales, zeros = scales.t().contiguous(), zeros.t().contiguous()
    self.register_buffer("g_idx", g_idx)
    _register(self, linear, scales.to(torch.float16), torch.float16)
    group = g_idx.long()
    levels = torch.round((linear.weight.data + (zeros * scales)[group].t()) / scales[group].t()).clamp_(0, self.maxq)
    order = range(32 // self.bits)
    self.register_buffer("qweight", _words(levels, order).t().contiguous())
    self.register_buffer("qzeros", _words(zeros, order))


def _register(self: Any, linear: torch.nn.Linear, scales: torch.Tensor, bias_dtype: torch.dtype) -> None:
    self.register_buffer("scales", scales.clone())
    if linear.bias is None:
        self.bias = None
    else:
        self.register_buffer("bias", linear.bias.detach().to(bias_dtype, copy=True))


def _words(levels: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
    """Pack [rows, columns] of whole numbers into int32 words, [rows, columns / len(order)]."""
    import torch

    if levels.shape[1] % len(order):
        raise ValueError(f"{levels.shape[1]} columns do not fill words of {len(order)}")
    fields = levels.to(torch.int32).unflatten(1, (-1, len(order)))
    words = torch.zeros(fields.shape[:2], dtype=torch.int32, device=levels.device)
    for place, column in enumerate(order):
        words |= fields[..., column] << (32 // len(order) * place)
    return words


@contextlib.contextmanager
def whole_tensor_packing() -> Iterator[None]:
    """Have the engine pack by the functions above inside the block."""
    from gptqmodel.nn_modules.qlinear import PackableQuantLinear
    from gptqmodel.nn_modules.qlinear.torch_awq import AwqTorchLinear

    originals = AwqTorchLinear.pack, PackableQuantLinear.pack_block
    AwqTorchLinear.pack, PackableQuantLinear.pack_block = pack_awq, pack_gptq
    try:
        yield
    finally:
        AwqTorchLinear.pack, PackableQuantLinear.pack_block = originals
