"""AWQ's rounding, once a layer is scaled: GPTQ's in place of a clip and the nearest level.

AWQ (Lin et al., 2024, arXiv 2306.00978) scales the channels that matter and then rounds each weight by itself. What a
weight loses by that can be made up for by the others of its row, as in GPTQ (arXiv 2210.17323), from the same inputs:
the two do not exclude each other, and the artifact has AWQ's format still. GPTQModel 7.3.6 rounds in two steps
(looper/awq_processor.py): `_search_best_clip`, where a layer's Linears and their scaled inputs are at hand, and
`apply_quant`, which takes one Linear after the other. Here the first step rounds and the second is given the result.

The search for clips leaves out queries and keys, whose errors are multiplied by each other; rounding includes them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from quantizers.checkpoints.expert_names import is_expert
from quantizers.engines.column_rounding import Rounded, order_of_groups, round_columns

if TYPE_CHECKING:
    import torch

_DAMPENING = 0.05
"""Share of the mean Hessian diagonal that is added to it, as the default of `gptq`."""
_TOKENS_AT_ONCE = 4096


def round_linear(weights_RI: torch.Tensor, inputs: torch.Tensor, *, group_size: int, bits: int) -> Rounded:
    """Round one Linear with zero points.

    Args:
        weights_RI: [rows, columns], scaled.
        inputs: What it multiplies, [..., columns], scaled.

    Raises:
        torch.linalg.LinAlgError: The inputs are not finite.
    """
    import torch

    tokens = inputs.reshape(-1, inputs.shape[-1])
    hessian = torch.zeros(tokens.shape[1], tokens.shape[1], device=weights_RI.device)
    for some in tokens.split(_TOKENS_AT_ONCE):
        x_TI = some.to(weights_RI.device, torch.float32)
        hessian.addmm_(x_TI.t(), x_TI)
    diagonal = hessian.diagonal()
    diagonal.add_(_DAMPENING * diagonal.mean())
    diagonal[diagonal == 0] = 1  # no column saw anything: there is nothing to make up for
    order = order_of_groups(diagonal, group_size)
    lower = torch.linalg.cholesky(hessian[order.columns][:, order.columns])
    factor = torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)
    return round_columns(
        weights_RI.float(), factor, order, group_size=group_size, bits=bits, symmetric=False, range_search=True
    )


def _round_layer(
    self: Any, layer: torch.nn.Module, named_linears: Mapping[str, torch.nn.Linear], input_feat: Mapping[str, Any]
) -> list[Any]:
    """Stand in for `AWQProcessor._search_best_clip`: round, and clip nothing; the parameters are the engine's."""
    import torch
    from gptqmodel.looper.awq_processor import _resolve_module_exec_device

    with torch.inference_mode():
        self.rounded = {
            name: round_linear(
                linear.weight.data.to(_resolve_module_exec_device(linear)),
                input_feat[name],
                group_size=self.qcfg.group_size,
                bits=self.qcfg.bits,
            )
            for name, linear in named_linears.items()
        }
    return []


def _round_blindly(self: Any, linear: Any) -> Any:
    import torch

    weight = getattr(linear, "module", linear).weight.data
    inputs = torch.eye(weight.shape[1], device=weight.device)
    return round_linear(weight, inputs, group_size=self.qcfg.group_size, bits=self.qcfg.bits)


def _take_rounded(self: Any, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Stand in for `AWQProcessor.pseudo_quantize_tensor`: (rounded weights, scales, zeros) of the Linear whose turn it
    is, in the dtype of `w`."""
    found = next(self.in_turn)
    if found.weights.shape != w.shape:
        raise ValueError(f"weights of {tuple(w.shape)} where {tuple(found.weights.shape)} were rounded")
    return found.weights.to(w.dtype), found.scales.to(w.dtype), found.zeros.to(w.dtype)


@contextlib.contextmanager
def compensated_rounding() -> Iterator[None]:
    """Have the engine round AWQ's layers so inside the block."""
    from gptqmodel.looper.awq_processor import AWQProcessor

    names = ("_search_best_clip", "pseudo_quantize_tensor", "apply_quant")
    originals = {name: getattr(AWQProcessor, name) for name in names}

    def apply_in_turn(self: Any, named_linears: Mapping[str, Any], scales_list: Any) -> None:
        # Where no token reached an expert, the engine has nothing to show of its group: every input counts alike then.
        # The stage refuses the artifact once the engine is done, and the engine ends the process where it raises.
        self.in_turn = iter(
            [
                _round_blindly(self, linear) if name not in self.rounded and is_expert(name) else self.rounded.pop(name)
                for name, linear in named_linears.items()
            ]
        )
        originals["apply_quant"](self, named_linears, scales_list)

    for name, stand_in in zip(names, (_round_layer, _take_rounded, apply_in_turn), strict=True):
        setattr(AWQProcessor, name, stand_in)
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(AWQProcessor, name, original)
