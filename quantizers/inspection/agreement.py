"""Does an artifact hold the source's weights? Module by module: correlation and relative error.

AWQ moves a scale for each input channel out of a module into what comes before it, so its weights agree with the
source's only after that is undone:

* behind a norm (q, k, v, gate, up): the norm's weights lie in both folders, and their ratio is the scale, exactly;
* behind a Linear (o behind v, down behind up): that Linear's rows were divided by the scale and then rounded. The scale
  is fitted row by row, and the *same* numbers are used to undo the columns of the Linear behind it.

What this cannot see: a row of v or up (AWQ only) that is wrong by a factor and whose counterpart column in o or down is
wrong by the inverse factor, which computes the same; and everything outside the Linears, which reloading shows.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from quantizers.inspection.dequantize import TensorFiles, dequantize
from registry.contracts import CheckpointRecord
from registry.contracts.base import Method

if TYPE_CHECKING:
    import torch

_BEHIND_NORM = {
    ".self_attn.": ("input_layernorm",),
    ".mlp.": ("pre_feedforward_layernorm", "post_attention_layernorm"),
}
"""Part of a decoder layer -> the norm before its first Linears: the first name that the model has."""

_BEHIND_LINEAR = {"self_attn.o_proj": "self_attn.v_proj", "mlp.down_proj": "mlp.up_proj"}


_TINY = sys.float_info.min
"""Keeps a module of zeros from a division by zero."""


def compare_weights(
    source: TensorFiles,
    artifact: TensorFiles,
    checkpoint: CheckpointRecord,
    method: Method,
    quantization_config: dict[str, Any],
    report: Callable[[int, int], None],
) -> tuple[dict[str, float], dict[str, float]]:
    """Compare every Linear of `checkpoint`.

    Args:
        source: The checkpoint's tensors.
        artifact: The artifact's tensors.
        checkpoint: Names the Linears and the architecture.
        method: Chooses the artifact's format.
        quantization_config: config.json's.
        report: Told modules done and modules in all.

    Returns:
        Module name -> Pearson correlation, and module name -> Frobenius norm of the difference over the source's.
        A module with weights that are not finite has correlation 0 and relative error 1e9.
    """
    correlation: dict[str, float] = {}
    relative_error: dict[str, float] = {}
    norm_offset = 1.0 if checkpoint.architecture.startswith("Gemma") else 0.0
    for done, module in enumerate(checkpoint.linear_shapes):
        original = source.read(f"{module}.weight").float()
        restored = dequantize(artifact, module, method, quantization_config)
        if method == "awq":
            scale = _norm_ratio(source, artifact, module, norm_offset)
            row_module = _row_partner(module, checkpoint)
            if row_module is not None:
                row_source = source.read(f"{row_module}.weight").float()
                row_artifact = dequantize(artifact, row_module, method, quantization_config)
                scale = _row_fit(
                    row_source, _scaled(row_artifact, _norm_ratio(source, artifact, row_module, norm_offset))
                )
            restored = _scaled(restored, scale)
            if module in {_row_partner(name, checkpoint) for name in _siblings(module)}:
                restored = restored / _row_fit(original, restored)[:, None]
        correlation[module], relative_error[module] = agreement(original, restored)
        report(done + 1, len(checkpoint.linear_shapes))
    return correlation, relative_error


def agreement(original: torch.Tensor, restored: torch.Tensor) -> tuple[float, float]:
    """Pearson correlation and relative Frobenius error of two weight matrices of one shape."""
    if original.shape != restored.shape:
        return 0.0, 1e9
    x, y = original.flatten(), restored.flatten()
    # By scalar products, which read each weight in place: centred copies of both took most of an inspection's time.
    xx, xy, yy = (float(one @ other) for one, other in ((x, x), (x, y), (y, y)))
    if not math.isfinite(yy):
        return 0.0, 1e9
    mean_x, mean_y = float(x.mean()), float(y.mean())
    variances = (xx / len(x) - mean_x**2) * (yy / len(y) - mean_y**2)
    correlation = (xy / len(x) - mean_x * mean_y) / math.sqrt(variances) if variances > 0 else 0.0
    return min(correlation, 1.0), float((x - y).norm()) / max(math.sqrt(xx), _TINY)


def _siblings(module: str) -> list[str]:
    """The Linears of the same decoder layer that can stand behind `module`."""
    layer = module.rsplit(".", 2)[0]
    return [f"{layer}.{name}" for name in _BEHIND_LINEAR]


def _row_partner(module: str, checkpoint: CheckpointRecord) -> str | None:
    """The Linear whose rows carry the inverse of `module`'s column scales; None where shapes rule it out."""
    layer, part, name = module.rsplit(".", 2)
    partner = f"{layer}.{_BEHIND_LINEAR.get(f'{part}.{name}', '')}"
    shapes = checkpoint.linear_shapes
    if partner not in shapes or module not in shapes or shapes[partner][0] != shapes[module][1]:
        return None
    return partner


def _norm_ratio(source: TensorFiles, artifact: TensorFiles, module: str, offset: float) -> torch.Tensor | None:
    """[in_features]: the artifact's norm weights over the source's; None for modules that no norm feeds."""
    import torch

    layer, part, name = module.rsplit(".", 2)
    if f"{part}.{name}" in _BEHIND_LINEAR:
        return None
    for norm in _BEHIND_NORM.get(f".{part}.", ()):
        key = f"{layer}.{norm}.weight"
        if key in source and key in artifact:
            before, after = source.read(key).float() + offset, artifact.read(key).float() + offset
            # A channel that the norm switches off carries nothing, whatever its scale.
            return torch.where(before == 0, torch.zeros_like(before), after / before)
    return None


def _scaled(weights: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    return weights if scale is None else weights * scale


def _row_fit(original: torch.Tensor, restored: torch.Tensor) -> torch.Tensor:
    """[rows]: the factor that each row of `restored` is of `original`'s, by least squares; 1 for rows of nothing."""
    import torch

    factor = (original * restored).sum(1) / original.square().sum(1)
    return torch.where(torch.isfinite(factor) & (factor != 0), factor, torch.ones_like(factor))
