"""AWQ's scale search: the engine's candidates and loss, in fewer multiplications, and safe in float32.

GPTQModel 7.3.6 (looper/awq_processor.py, `_compute_best_scale`) tries twenty scale vectors for each group of Linears,
rounds the scaled weights and runs the group's module on every calibration row to see how far its output moves. Three
things are done otherwise here, none of which changes what is chosen:

1. The engine keeps "a copy" of the weights by `.to(float32).cpu().contiguous()`, which is no copy at all for float32
   weights on a CPU. Each candidate then starts from the ruins of the one before it and the artifact is worthless.
   Here the copy is a copy.
2. Where the module is a single Linear, the loss is a quadratic form and needs no forward pass:
   |X (Q - W)^T|^2 = sum_o (q_o - w_o)^T G (q_o - w_o) with G = X^T X.
3. Elsewhere the loss is a sum of squares: once the sum of a candidate is above the best total, the rest cannot bring it
   down, and the candidate is dropped. A module that takes nothing beside its input, an MLP, treats each token alone;
   there the tokens that cost the first candidate most come first, so that the others show early what they are worth.
   Rows go through the module a thousand tokens at a time and not one by one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_CANDIDATES = 20
_ORDER = sorted(range(_CANDIDATES), key=lambda step: abs(step - 6))
"""From the middle outwards: the best ratio lies there mostly, and the sooner it is found the sooner others drop out."""
_TOKENS_AT_ONCE = 1024


def compute_best_scale(
    self: Any,
    x: torch.Tensor,
    w_mean: torch.Tensor,
    x_mean: torch.Tensor,
    module2inspect: torch.nn.Module,
    linears2scale: list[torch.nn.Linear],
    fp16_output: Any,
    kwargs: dict[str, Any] | None = None,
) -> tuple[torch.Tensor, float]:
    """Stand in for `AWQProcessor._compute_best_scale`; the parameters are the engine's.

    Args:
        self: The AWQProcessor.
        x: Inputs of `linears2scale`, [rows, tokens, in_features].
        w_mean: Mean normalized magnitude of the weights, [in_features].
        x_mean: Mean magnitude of the inputs, [in_features].
        module2inspect: The module whose output is compared.
        linears2scale: The Linears that share the scale.
        fp16_output: What `module2inspect` answers with its own weights, whole or in chunks of rows.
        kwargs: Further arguments of the module.

    Returns:
        The best scales, [in_features], and their mean squared error.
    """
    import torch

    with torch.inference_mode():
        device = linears2scale[0].weight.device
        x_mean, w_mean = x_mean.view(-1).to(device), w_mean.view(-1).to(device)
        hint = getattr(self._scale_context, "prev_scale", None)
        if hint is not None:
            w_mean = w_mean * float(hint)
        weights = {linear: linear.weight.detach().clone() for linear in linears2scale}
        loss_of = _loss_function(self, x, module2inspect, linears2scale, fp16_output, kwargs or {})

        best_loss, best_scales = float("inf"), None
        for step in _ORDER:
            scales = _candidate(self, x_mean, w_mean, step / _CANDIDATES)
            for linear, weight in weights.items():
                linear.weight.copy_(weight).mul_(scales)
                self._pseudo_quantize_tensor_into(linear.weight, linear.weight)
                linear.weight.div_(scales)
            loss = loss_of(best_loss)
            if loss < best_loss:
                best_loss, best_scales = loss, scales
        for linear, weight in weights.items():
            linear.weight.copy_(weight)
        if best_scales is None or not torch.isfinite(best_scales).all():
            raise ValueError("no scale gave a finite loss: the calibration activations or the weights hold NaN")
        return best_scales.detach().cpu(), best_loss


def _candidate(self: Any, x_mean: torch.Tensor, w_mean: torch.Tensor, ratio: float) -> torch.Tensor:
    """s = s_x^ratio / s_w^(1 - ratio) (AWQ, section 3.2, with the engine's weight term), balanced around 1."""
    import torch

    if self.duo_scaling:
        scales = (x_mean.pow(ratio) / (w_mean.pow(1 - ratio) + 1e-4)).clamp(min=1e-4)
    else:
        scales = x_mean.pow(ratio).clamp(min=1e-4)
    scales = scales / (scales.max() * scales.min()).sqrt()
    return torch.where(torch.isfinite(scales), scales, torch.ones_like(scales))


def _loss_function(
    self: Any,
    x: torch.Tensor,
    module: torch.nn.Module,
    linears: list[torch.nn.Linear],
    reference: Any,
    kwargs: dict[str, Any],
) -> Callable[[float], float]:
    """The mean squared change of the module's output as a function of a bound above which it need not be exact."""
    import torch

    if linears == [module]:
        weight = linears[0].weight
        original = weight.detach().float().clone()
        flat = x.reshape(-1, x.shape[-1]).to(weight.device, torch.float32)
        gram = flat.T @ flat
        elements = int(flat.shape[0] * weight.shape[0])

        def quadratic_loss(bound: float) -> float:
            change = weight.float() - original
            loss = float(((change @ gram) * change).sum()) / elements
            return loss

        return quadratic_loss

    return _ForwardLoss(self, x, module, reference, kwargs)


class _ForwardLoss:
    """The loss of a module whose output has to be computed, as `_loss_function` describes it."""

    def __init__(self, processor: Any, x: torch.Tensor, module: torch.nn.Module, reference: Any, kwargs: Any) -> None:
        import torch

        self._processor, self._module, self._kwargs = processor, module, kwargs
        self._x = x
        self._reference = torch.cat(list(processor._iter_reference_output_chunks(x, reference)))
        self._tokens_apart = not kwargs
        if self._tokens_apart:  # an MLP: no mask, no positions
            self._x = x.reshape(-1, x.shape[-1])
            self._reference = self._reference.reshape(-1, self._reference.shape[-1])
            self._rows_at_once = _TOKENS_AT_ONCE
        else:
            self._rows_at_once = max(1, _TOKENS_AT_ONCE // x.shape[-2])

    def __call__(self, bound: float) -> float:
        import torch

        losses: list[torch.Tensor] = []
        total, elements = 0.0, int(self._reference.numel())
        for expected, output in self._chunks():
            limits = torch.finfo(output.dtype)
            change = expected.to(output.device, output.dtype) - output.clip(limits.min, limits.max)
            losses.append(change.float().square().flatten(1).sum(1))
            total += float(losses[-1].sum())
            if total / elements >= bound:
                break
        if self._tokens_apart and bound == float("inf"):
            order = torch.cat(losses).argsort(descending=True)
            self._x = self._x[order.to(self._x.device)]
            self._reference = self._reference[order.to(self._reference.device)]
        return total / elements

    def _chunks(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """(expected, found) outputs of as many rows at once as the multiplications are fast with."""
        processor = self._processor
        engines_own, processor._quant_batch_size = processor._quant_batch_size, self._rows_at_once
        try:
            yield from zip(
                processor._iter_reference_output_chunks(self._x, self._reference),
                processor._iter_module_forward_outputs(self._x, self._module, self._kwargs),
                strict=True,
            )
        finally:
            processor._quant_batch_size = engines_own


@contextlib.contextmanager
def exact_scale_search() -> Iterator[None]:
    """Have the engine search scales by `compute_best_scale` inside the block."""
    from gptqmodel.looper.awq_processor import AWQProcessor

    original = AWQProcessor._compute_best_scale
    AWQProcessor._compute_best_scale = compute_best_scale
    try:
        yield
    finally:
        AWQProcessor._compute_best_scale = original
