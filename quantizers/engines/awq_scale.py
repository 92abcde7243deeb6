"""AWQ's scale search: by what rounding does to a group's own outputs, which is a quadratic form.

GPTQModel 7.3.6 (looper/awq_processor.py, `_compute_best_scale`) tries twenty scale vectors for each group of Linears,
rounds the scaled weights and runs the module around the group (attention, the MLP) on every calibration row to see how
far its output moves. Three things are done otherwise here:

1. The engine keeps "a copy" of the weights by `.to(float32).cpu().contiguous()`, which is no copy at all for float32
   weights on a CPU. Each candidate then starts from the ruins of the one before it and the artifact is worthless.
   Here the copy is a copy.
2. The loss is of the Linears' own outputs (Lin et al., 2024, section 3.2, summed over the group), and so needs no
   forward pass: |X (Q - W)^T|^2 = sum_o (q_o - w_o)^T G (q_o - w_o) with G = X^T X. Where the module is a single
   Linear, that is the engine's loss. Elsewhere it is not, and the artifacts are better for it: see docs/findings.md.
3. The twenty ratios are not all tried: from one that is good mostly, steps of 4, 2 and 1 lead to one whose neighbours
   are no better.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_CANDIDATES = 20
"""Ratios, from 0 in steps of a twentieth, as the engine has them."""
_START, _STRIDES = 6, (4, 2, 1)
_TOKENS_AT_ONCE = 4096


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
    """Stand in for `AWQProcessor._compute_best_scale`; the parameters are the engine's, those of modules are not read.

    Args:
        self: The AWQProcessor.
        x: Inputs of `linears2scale`, [rows, tokens, in_features].
        w_mean: Mean normalized magnitude of the weights, [in_features].
        x_mean: Mean magnitude of the inputs, [in_features].
        linears2scale: The Linears that share the scale.

    Returns:
        The best scales, [in_features], and the mean squared error of the Linears' outputs with them.

    Raises:
        ValueError: No scale gives a finite error.
    """
    import torch

    with torch.inference_mode():
        device = linears2scale[0].weight.device
        x_mean, w_mean = x_mean.view(-1).to(device), w_mean.view(-1).to(device)
        hint = getattr(self._scale_context, "prev_scale", None)
        if hint is not None:
            w_mean = w_mean * float(hint)
        gram, tokens = _gram(x, device)
        weights = {linear: linear.weight.detach().clone() for linear in linears2scale}
        elements = tokens * sum(len(weight) for weight in weights.values())

        def loss_of(step: int) -> float:
            scales = _candidate(self, x_mean, w_mean, step / _CANDIDATES)
            total = 0.0
            for linear, weight in weights.items():
                linear.weight.copy_(weight).mul_(scales)
                self._pseudo_quantize_tensor_into(linear.weight, linear.weight)
                linear.weight.div_(scales)
                change = linear.weight.float() - weight.float()
                total += float(((change @ gram) * change).sum())
            return total / elements

        step, loss = _lowest(loss_of)
        for linear, weight in weights.items():
            linear.weight.copy_(weight)
        scales = _candidate(self, x_mean, w_mean, step / _CANDIDATES)
        if not (loss < float("inf") and torch.isfinite(scales).all()):
            raise ValueError("no scale gave a finite loss: the calibration activations or the weights hold NaN")
        return scales.detach().cpu(), loss


def _gram(x: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, int]:
    """X^T X in float32, and over how many tokens."""
    import torch

    tokens = x.reshape(-1, x.shape[-1])
    gram = torch.zeros(tokens.shape[1], tokens.shape[1], device=device)
    for some in tokens.split(_TOKENS_AT_ONCE):
        part = some.to(device, torch.float32)
        gram.addmm_(part.t(), part)
    return gram, len(tokens)


def _lowest(loss_of: Callable[[int], float]) -> tuple[int, float]:
    """A step whose neighbours are no better, and its loss."""
    known: dict[int, float] = {}

    def loss(step: int) -> float:
        if step not in known:
            known[step] = loss_of(step)
        return float("inf") if math.isnan(known[step]) else known[step]

    best = _START
    for stride in _STRIDES:
        while True:
            near = [step for step in (best, best - stride, best + stride) if 0 <= step < _CANDIDATES]
            lowest = min(near, key=loss)
            if lowest == best:
                break
            best = lowest
    return best, loss(best)


def _candidate(self: Any, x_mean: torch.Tensor, w_mean: torch.Tensor, ratio: float) -> torch.Tensor:
    """s = s_x^ratio / s_w^(1 - ratio) (AWQ, section 3.2, with the engine's weight term), balanced around 1."""
    import torch

    if self.duo_scaling:
        scales = (x_mean.pow(ratio) / (w_mean.pow(1 - ratio) + 1e-4)).clamp(min=1e-4)
    else:
        scales = x_mean.pow(ratio).clamp(min=1e-4)
    scales = scales / (scales.max() * scales.min()).sqrt()
    return torch.where(torch.isfinite(scales), scales, torch.ones_like(scales))


@contextlib.contextmanager
def quadratic_scale_search() -> Iterator[None]:
    """Have the engine search scales by `compute_best_scale` inside the block, and run no module for it."""
    from gptqmodel.looper.awq_processor import AWQProcessor

    names = ("_compute_best_scale", "_iter_module_forward_outputs")
    originals = {name: getattr(AWQProcessor, name) for name in names}
    AWQProcessor._compute_best_scale = compute_best_scale
    # What it would compare the modules' outputs with.
    AWQProcessor._iter_module_forward_outputs = lambda self, *args, **kwargs: iter(())
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(AWQProcessor, name, original)
