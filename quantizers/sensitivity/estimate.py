"""How much every module matters, all of them at once: one backward pass, no trial.

A module's output o = W x moves by D = (Q - W) x when its weights are rounded. To second order, the KL divergence of
the model's answers from what they were is half the expected square of what g . D adds to their log-likelihood, with g
its gradient by o (the Fisher information). Inputs x and gradients g of all modules come out of a single pass over the
rows, and each module's Q is made while it is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from configs.errors import StageError
from quantizers.sensitivity.rounding import MEASURED_BITS, rounded

if TYPE_CHECKING:
    import torch


def estimated_losses(
    model: Any,
    linears: Mapping[str, torch.nn.Linear],
    batches: Sequence[torch.Tensor],
    group_size: int,
    report: Callable[[int, int], None],
) -> dict[str, dict[int, float]]:
    """Module -> bits -> nats a token.

    Args:
        model: In evaluation mode; its parameters' gradients are not wanted.
        linears: Module name -> the module.
        batches: Token ids, [rows, tokens]; what a row says next is taken for what the model would.
        group_size: As the modules are rounded.
        report: Told batches done and batches in all.

    Raises:
        StageError: A loss is no number.
    """
    import torch

    found = {name: dict.fromkeys(MEASURED_BITS, 0.0) for name in linears}
    model.requires_grad_(False)
    # The pass back begins at the answers and ends at the embeddings, which no gradient is kept of.
    hooks = [
        model.get_input_embeddings().register_forward_hook(lambda _, __, output: output.detach().requires_grad_()),
        *(_watched(linear, group_size, found[name]) for name, linear in linears.items()),
    ]
    tokens = 0
    try:
        for done, ids in enumerate(batches):
            report(done, len(batches))
            with torch.enable_grad():
                logits = model(ids, use_cache=False).logits[:, :-1].float()
                loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
            loss.backward()
            tokens += ids[:, 1:].numel()
    finally:
        for hook in hooks:
            hook.remove()
    _check_numbers(found)
    return {name: {bits: nats / tokens for bits, nats in of_bits.items()} for name, of_bits in found.items()}


def _watched(linear: torch.nn.Linear, group_size: int, nats: dict[int, float]) -> Any:
    """Have every pass back through a Linear add what rounding it loses to `nats`, bits -> sum over tokens."""

    def forward_hook(_: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        x = inputs[0].detach()

        def backward_hook(gradient: torch.Tensor) -> None:
            for bits in MEASURED_BITS:
                change = rounded(linear.weight, bits, group_size) - linear.weight.float()
                moved = ((x.float() @ change.t()) * gradient.float()).sum(-1)
                nats[bits] += float(moved.square().sum()) / 2

        output.register_hook(backward_hook)

    return linear.register_forward_hook(forward_hook)


def _check_numbers(found: Mapping[str, Mapping[int, float]]) -> None:
    for name, of_bits in found.items():
        for bits, nats in of_bits.items():
            if not math.isfinite(nats):
                raise StageError(
                    f"the estimated loss of {name} in {bits} bits is no number ({nats})",
                    remedy="take float32 for dtype.quantize: activations or gradients leave what a narrower one holds",
                    blame="source",
                )
