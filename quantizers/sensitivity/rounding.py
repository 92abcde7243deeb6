"""What modules are rounded with while it is measured how much they matter: to nearest, symmetric, in groups."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MEASURED_BITS = (4, 8)
"""What a module may be rounded to; 16 bits lose nothing."""


def rounded(weights_OI: torch.Tensor, bits: int, group_size: int) -> torch.Tensor:
    """The weights' nearest levels, dequantized, in float32.

    Args:
        weights_OI: [outputs, inputs], inputs in whole groups.
        bits: Of a level.
        group_size: Weights that share a scale; -1 is the whole row.
    """
    import torch

    grouped = weights_OI.float().unflatten(-1, (-1, group_size if group_size > 0 else weights_OI.shape[-1]))
    scale = 2 * grouped.abs().amax(-1, keepdim=True) / (2**bits - 1)
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    codes = torch.round(grouped / scale).clamp_(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return codes.mul_(scale).flatten(-2)


@contextlib.contextmanager
def rounded_inside(linears: Iterable[torch.nn.Linear], bits: int, group_size: int) -> Iterator[None]:
    """Give Linears rounded weights inside the block, and their own ones back."""
    own = [(linear, linear.weight.data) for linear in linears]
    try:
        for linear, weights in own:
            linear.weight.data = rounded(weights, bits, group_size).to(weights.dtype)
        yield
    finally:
        for linear, weights in own:
            linear.weight.data = weights
