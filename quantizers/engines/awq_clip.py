"""AWQ's clip search by Gram matrices: the same choice as the engine's, without multiplying the activations out.

For each group of a row's weights w, AWQ (Lin et al., 2024, arXiv 2306.00978) looks for the clip ratio whose rounded
weights q change the group's output least. GPTQModel 7.3.6 (looper/awq_processor.py, `_compute_best_clip`) forms the
products of [outputs, tokens, inputs] for each of ten ratios. The same mean squared error is a quadratic form,

    mean_t (x_t . (q - w))^2 = (q - w)^T G (q - w),    G = X^T X / T,

and G, [group, group] for each group of inputs, does not depend on the ratio or the output: it is computed once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def compute_best_clip(
    self: Any,
    w: torch.Tensor,
    input_feat: torch.Tensor,
    n_grid: int = 20,
    max_shrink: float = 0.5,
    n_sample_token: int = 512,
) -> torch.Tensor:
    """Stand in for `AWQProcessor._compute_best_clip`; the parameters and their defaults are the engine's.

    Candidates are rounded by the engine's own `_pseudo_quantize_tensor_into` in the weights' dtype, so that the error
    judged is that of the weights that will be written; the error itself is summed in float32.

    Args:
        self: The AWQProcessor.
        w: Weights, [out_features, in_features].
        input_feat: The Linear's inputs, [..., in_features].
        n_grid: Steps into which the range from 1 to 0 is cut.
        max_shrink: The part of the range that is tried.
        n_sample_token: Tokens that are looked at, evenly spread.

    Returns:
        Largest magnitude to keep, [out_features, groups, 1], in the dtype of `w`.
    """
    import torch

    with torch.inference_mode():
        group_size = self.qcfg.group_size if self.qcfg.group_size > 0 else w.shape[1]
        tokens = input_feat.reshape(-1, input_feat.shape[-1])
        tokens = tokens[:: max(1, tokens.shape[0] // n_sample_token)]
        x_GTI = tokens.to(w.device, torch.float32).reshape(tokens.shape[0], -1, group_size).transpose(0, 1)
        gram_GII = x_GTI.transpose(1, 2) @ x_GTI / tokens.shape[0]

        w_OGI = w.reshape(w.shape[0], -1, group_size)
        full = w_OGI.abs().amax(dim=-1, keepdim=True)
        best_clip = full.clone()
        best_error = torch.full_like(full, torch.inf, dtype=torch.float32)
        rounded = torch.empty_like(w_OGI)
        for step in range(int(max_shrink * n_grid)):
            clip = full * (1 - step / n_grid)
            self._pseudo_quantize_tensor_into(torch.clamp(w_OGI, -clip, clip), rounded)
            change_GOI = (rounded.float() - w_OGI.float()).transpose(0, 1)
            error = ((change_GOI @ gram_GII) * change_GOI).sum(-1).transpose(0, 1).unsqueeze(-1)
            better = error < best_error
            best_error = torch.where(better, error, best_error)
            best_clip = torch.where(better, clip, best_clip)
        return best_clip


@contextlib.contextmanager
def gram_clip_search() -> Iterator[None]:
    """Have the engine search clips by Gram matrices inside the block."""
    from gptqmodel.looper.awq_processor import AWQProcessor

    original = AWQProcessor._compute_best_clip
    AWQProcessor._compute_best_clip = compute_best_clip
    try:
        yield
    finally:
        AWQProcessor._compute_best_clip = original
