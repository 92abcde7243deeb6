"""GPTQ's rounding on whole rows, with a search for each group's range by the error that GPTQ itself minimizes.

GPTQModel 7.3.6 (quantization/gptq.py, `GPTQ.quantize`) goes through a matrix column by column. Two things are done
otherwise here.

1. Its columns are slices of a row-major matrix, and each step updates the rest of a block through them. Here the matrix
   is transposed first, so that a step's operands are contiguous: the same operations on the same numbers.
2. A group's range is as wide as its weights, or chosen by `mse`: eighty ranges, judged by a power of each weight's own
   error, which doubles the engine's time. But what an error costs differs from column to column: (w - q)^2 / U_ii^2 in
   column i, where U is the Cholesky factor of the inverse Hessian (Frantar et al., 2023, arXiv 2210.17323, equation 2
   and section 3.3), since later columns make up for the rest. Here twelve ranges are judged by that cost. A group is
   looked at when its turn comes, with all that earlier columns have left to it; the engine does so at the beginning of
   a block only.

The Hessian, its inverse, dampening and the order of columns are the engine's own.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

_BLOCK = 128
"""Columns after whose rounding the columns behind them are brought up to date."""
_SHARES = tuple(1 - step / 20 for step in range(12))
"""Of a group's whole range, widest first: those that are tried. Steps of a hundredth choose no better ones."""


class _Levels(NamedTuple):
    """A group's quantization levels, a scale and a zero point for each row, [rows]."""

    scale: torch.Tensor
    zero: torch.Tensor


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
    order, group_order = _order(self.H.diagonal(), group_size, self.qcfg)
    factor, damp = self.hessian_inverse(self.H[order][:, order])
    if factor is None:
        return None
    rounded_IR, levels, loss = _rounded(
        weights_RI[:, order].t().contiguous(), factor, group_size, self.qcfg.bits, self.qcfg.sym, range_search
    )
    rounded_RI = torch.empty_like(weights_RI)
    rounded_RI[:, order] = rounded_IR.t()
    group_of = torch.empty(self.columns, dtype=torch.int32, device=order.device)
    group_of[order] = group_order.to(torch.int32).repeat_interleave(group_size)
    places = group_order.argsort().tolist()
    scales, zeros = (torch.stack([each[place] for place in places], dim=1) for each in zip(*levels, strict=True))
    weight = self.module.weight
    result = rounded_RI.reshape(weight.shape).to(weight.device, weight.dtype)
    return result, scales, zeros, group_of, time.time() - start, loss / self.nsamples, damp, self.nsamples


def _order(diagonal: torch.Tensor, group_size: int, qcfg: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """(columns in the order in which they are rounded, the number that each group of them has in the artifact)."""
    import torch
    from gptqmodel.quantization.gar import compose_final_perm, compute_global_perm, compute_local_perms

    groups = torch.arange(len(diagonal) // group_size, device=diagonal.device)
    if qcfg.desc_act:
        return diagonal.argsort(descending=True), groups
    if not qcfg.act_group_aware:
        return torch.arange(len(diagonal), device=diagonal.device), groups
    group_order = compute_global_perm(diagonal, group_size)
    return compose_final_perm(compute_local_perms(diagonal, group_size), group_order, group_size), group_order


def _rounded(
    weights_IR: torch.Tensor, factor: torch.Tensor, group_size: int, bits: int, symmetric: bool, range_search: bool
) -> tuple[torch.Tensor, list[_Levels], float]:
    """Round `weights_IR` in place column by column: (dequantized values, each group's levels, the loss's sum)."""
    import torch

    columns = len(weights_IR)
    rounded_IR, levels, loss = torch.empty_like(weights_IR), [], 0.0
    costs = factor.diagonal().square().reciprocal()
    for begin in range(0, columns, _BLOCK):
        end = min(begin + _BLOCK, columns)
        block, within = weights_IR[begin:end], factor[begin:end, begin:end]
        errors = torch.empty_like(block)
        for place in range(end - begin):
            column = begin + place
            if column % group_size == 0:
                group = slice(column, column + group_size)
                levels.append(_levels(weights_IR[group], costs[group], bits, symmetric, range_search))
            weight = block[place]
            rounded_IR[column] = _nearest(weight, levels[-1], bits)
            errors[place] = (weight - rounded_IR[column]) / within[place, place]
            block[place + 1 :].addr_(within[place, place + 1 :], errors[place], alpha=-1)
        weights_IR[end:] -= factor[begin:end, end:].t() @ errors
        loss += float(errors.square().sum()) / 2
    return rounded_IR, levels, loss


def _levels(weights_GR: torch.Tensor, costs: torch.Tensor, bits: int, symmetric: bool, range_search: bool) -> _Levels:
    """The levels of one group, [group, rows], for each row.

    Args:
        costs: What a squared error costs in each of the group's columns, [group].
    """
    import torch

    low, high = weights_GR.amin(0).clamp(max=0), weights_GR.amax(0).clamp(min=0)
    if symmetric:
        high = torch.maximum(high, -low)
        low = -high
    empty = high == low
    low, high = torch.where(empty, -1, low), torch.where(empty, 1, high)
    whole = (high - low) / (2**bits - 1)
    zero = torch.full_like(whole, 2 ** (bits - 1)) if symmetric else torch.round(-low / whole)
    if not range_search:
        return _Levels(whole, zero)
    best, best_cost = whole, torch.full_like(whole, torch.inf)
    for share in _SHARES:
        scale = share * whole
        change = _nearest(weights_GR, _Levels(scale, zero), bits) - weights_GR
        cost = costs @ change.square()
        best = torch.where(cost < best_cost, scale, best)
        best_cost = torch.minimum(cost, best_cost)
    return _Levels(best, zero)


def _nearest(weights: torch.Tensor, levels: _Levels, bits: int) -> torch.Tensor:
    """Each weight's nearest level, dequantized, [..., rows]."""
    import torch

    codes = torch.round(weights / levels.scale).add_(levels.zero).clamp_(0, 2**bits - 1)
    return codes.sub_(levels.zero).mul_(levels.scale)


@contextlib.contextmanager
def whole_row_rounding(range_search: bool) -> Iterator[None]:
    """Have the engine round by `quantize` inside the block."""
    from gptqmodel.quantization.gptq import GPTQ

    original = GPTQ.quantize

    def stand_in(self: Any, blocksize: int = _BLOCK) -> tuple[Any, ...]:
        found = quantize(self, range_search)
        own: tuple[Any, ...] = original(self, blocksize) if found is None else found
        return own

    GPTQ.quantize = stand_in
    try:
        yield
    finally:
        GPTQ.quantize = original
