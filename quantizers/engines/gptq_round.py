"""GPTQ's rounding by `column_rounding` in the engine's place.

GPTQModel 7.3.6 (quantization/gptq.py, `GPTQ.quantize`) goes through a matrix column by column. Two things are done
otherwise here.

1. Its columns are slices of a row-major matrix, and each step updates the rest of a block through them. Here the matrix
   is transposed first: the same operations on the same numbers.
2. A group's range is as wide as its weights, or chosen by `mse`: eighty ranges, judged by a power of each weight's own
   error, which doubles the engine's time. Here they are judged by GPTQ's own cost. The engine looks at a group with
   what earlier columns have left to it at the beginning of a block only.

The Hessian, its inverse, dampening and the order of columns are the engine's own.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from quantizers.engines.column_rounding import Order, order_of_groups, round_columns

if TYPE_CHECKING:
    import torch


def quantize(self: Any, range_search: bool) -> tuple[Any, ...] | None:
    """Stand in for `GPTQ.quantize`.

    Args:
        self: The engine's GPTQ with the Hessian of one Linear, its columns in whole groups.
        range_search: Look for each group's best range; otherwise it is as wide as its weights.

    Returns:
        What the engine's function returns: rounded weights [rows, columns], scales and zeros [rows, groups], the group
        of each column, seconds, mean loss a sample, dampening, samples. None where there is nothing to go by: no
        samples, or a Hessian that cannot be inverted.
    """
    import torch

    start = time.time()
    self.finalize_hessian(target_device=getattr(self.module, "target_device", None))
    if self.nsamples == 0:
        return None
    weights_RI = self.clone_module(device=self.H.device)
    dead = self.H.diagonal() == 0
    self.H[dead, dead] = 1
    weights_RI[:, dead] = 0
    group_size = self.qcfg.group_size if self.qcfg.group_size > 0 else self.columns
    order = _order(self.H.diagonal(), group_size, self.qcfg)
    factor, damp = self.hessian_inverse(self.H[order.columns][:, order.columns])
    if factor is None:
        return None
    found = round_columns(
        weights_RI,
        factor,
        order,
        group_size=group_size,
        bits=self.qcfg.bits,
        symmetric=self.qcfg.sym,
        range_search=range_search,
    )
    group_of = torch.empty(self.columns, dtype=torch.int32, device=order.columns.device)
    group_of[order.columns] = order.groups.to(torch.int32).repeat_interleave(group_size)
    weight = self.module.weight
    result = found.weights.reshape(weight.shape).to(weight.device, weight.dtype)
    seconds, loss = time.time() - start, found.loss / self.nsamples
    return result, found.scales, found.zeros, group_of, seconds, loss, damp, self.nsamples


def _order(diagonal: torch.Tensor, group_size: int, qcfg: Any) -> Order:
    import torch

    if qcfg.act_group_aware and not qcfg.desc_act:
        return order_of_groups(diagonal, group_size)
    columns = torch.arange(len(diagonal), device=diagonal.device)
    groups = torch.arange(len(diagonal) // group_size, device=diagonal.device)
    return Order(diagonal.argsort(descending=True) if qcfg.desc_act else columns, groups)


@contextlib.contextmanager
def whole_row_rounding(range_search: bool) -> Iterator[None]:
    """Have the engine round by `quantize` inside the block."""
    from gptqmodel.quantization.gptq import GPTQ

    original = GPTQ.quantize

    def stand_in(self: Any, blocksize: int = 128) -> tuple[Any, ...]:
        found = quantize(self, range_search)
        own: tuple[Any, ...] = original(self, blocksize) if found is None else found
        return own

    GPTQ.quantize = stand_in
    try:
        yield
    finally:
        GPTQ.quantize = original
