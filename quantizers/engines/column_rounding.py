"""GPTQ's rounding of one matrix on whole rows, with a search for each group's range by the error that GPTQ minimizes.

What an error costs differs from column to column: (w - q)^2 / U_ii^2 in column i, where U is the Cholesky factor of
the inverse Hessian (Frantar et al., 2023, arXiv 2210.17323, equation 2 and section 3.3), since later columns make up
for the rest. Twelve ranges of each group are judged by that cost. A group is looked at when its turn comes, with all
that earlier columns have left to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

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


class Order(NamedTuple):
    """In which order a matrix's columns are rounded."""

    columns: torch.Tensor
    """Their numbers, [columns]."""
    groups: torch.Tensor
    """The number that each group of them has in the artifact, [groups]."""


class Rounded(NamedTuple):
    """A matrix, in its own order of columns and groups."""

    weights: torch.Tensor
    """Dequantized, [rows, columns]."""
    scales: torch.Tensor
    """[rows, groups]."""
    zeros: torch.Tensor
    """Whole numbers, [rows, groups]."""
    loss: float
    """Summed over rows."""


def order_of_groups(diagonal: torch.Tensor, group_size: int) -> Order:
    """Those that see most first, groups and inside of each, which stay together; the engine's (quantization/gar.py).

    Args:
        diagonal: The Hessian's, [columns].
    """
    from gptqmodel.quantization.gar import compose_final_perm, compute_global_perm, compute_local_perms

    groups = compute_global_perm(diagonal, group_size)
    return Order(compose_final_perm(compute_local_perms(diagonal, group_size), groups, group_size), groups)


def round_columns(
    weights_RI: torch.Tensor,
    factor: torch.Tensor,
    order: Order,
    *,
    group_size: int,
    bits: int,
    symmetric: bool,
    range_search: bool,
) -> Rounded:
    """Round column by column, the rest of a row making up for each error.

    Args:
        weights_RI: [rows, columns], columns in whole groups.
        factor: Upper Cholesky factor of the inverse Hessian, its columns in `order`, [columns, columns].
        range_search: Look for each group's best range; otherwise it is as wide as its weights.
    """
    import torch

    rounded_IR, levels, loss = _in_order(
        weights_RI[:, order.columns].t().contiguous(), factor, group_size, bits, symmetric, range_search
    )
    rounded_RI = torch.empty_like(weights_RI)
    rounded_RI[:, order.columns] = rounded_IR.t()
    places = order.groups.argsort().tolist()
    scales, zeros = (torch.stack([each[place] for place in places], dim=1) for each in zip(*levels, strict=True))
    return Rounded(rounded_RI, scales, zeros, loss)


def _in_order(
    weights_IR: torch.Tensor, factor: torch.Tensor, group_size: int, bits: int, symmetric: bool, range_search: bool
) -> tuple[torch.Tensor, list[_Levels], float]:
    """Round `weights_IR` in place: (dequantized values [columns, rows], each group's levels, the loss's sum)."""
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
