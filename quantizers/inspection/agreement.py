"""Does an artifact hold the source's weights? Module by module: correlation and relative error.

AWQ moves a scale for each input channel out of a module into what comes before it, and so does SmoothQuant, which
checkpoints made elsewhere went through; their weights agree with the source's only after that is undone:

* behind a norm (q, k, v, gate, up): the norm's weights lie in both folders, and each side's columns are multiplied by
  its own. Dividing by the scale, which is their ratio, would magnify the rounding of columns that the norm all but
  switches off: SmolLM2's norms have weights of 1e-5 among ones;
* behind a Linear (o behind v, down behind up): that Linear's rows were divided by the scale and then rounded. The scale
  is fitted row by row, and the *same* numbers are used to undo the columns of the Linear behind it.

SmoothQuant moves scales into norms alone.

Columns that nothing reads are left out: those whose input is always zero, behind a norm weight or a row of zeros.
Methods that look at activations may write anything there.

What this cannot see: a row of v or up (AWQ only) that is wrong by a factor and whose counterpart column in o or down is
wrong by the inverse factor, which computes the same; and everything outside the Linears, which reloading shows.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from quantizers.inspection.dequantize import TensorFiles, Tensors, dequantize
from registry.contracts import CheckpointRecord
from registry.contracts.base import Method, format_of

if TYPE_CHECKING:
    import torch

_BEHIND_NORM = {
    "self_attn": ("input_layernorm",),
    "linear_attn": ("input_layernorm",),
    "mlp": ("pre_feedforward_layernorm", "post_attention_layernorm", "input_layernorm"),
}
"""Part of a decoder layer -> the norm before its first Linears: the first name that the model has."""

_BEHIND_LINEAR = {"o_proj": "v_proj", "down_proj": "up_proj", "w2": "w3"}
"""Linears behind another one of the same part."""
_BEHIND_OTHERS = frozenset({"out_proj", "c_proj", "q_b_proj", "kv_b_proj"})
"""Linears that read neither the norm before their part nor a Linear of it: behind a recurrence, an activation, a norm
of their own."""
_BESIDE = {"up_proj": "gate_proj", "w3": "w1"}
"""What the outputs of a Linear are multiplied with."""

_FROM_ONE = ("GemmaFor", "Gemma2For", "Gemma3For", "Qwen3NextFor", "Qwen3_5")
"""How the names of architectures begin whose norms multiply by one plus their weights."""

_SMOOTHED: frozenset[Method] = frozenset({"w8a8_gptq"})
"""Methods whose scales lie in norms alone: no rows are scaled, and none are fitted."""

_LAYER = re.compile(r"^(?P<layer>.+\.layers\.\d+)\.(?P<part>[^.]+)\.")
_TINY = sys.float_info.min
"""Keeps a module of zeros from a division by zero."""
_NOT_COMPARABLE = 1e9
"""The relative error of what cannot be compared, and the largest that is told."""
_ROUNDED = 2**-8
"""The relative error of numbers that were stored in bfloat16 and are else the same, at most."""
_NO_VARIANCE = 1e-6
"""Of the mean square: less is lost in the rounding of float32 sums."""


def compare_weights(
    source: TensorFiles,
    artifact: Tensors,
    checkpoint: CheckpointRecord,
    method: Method,
    quantization_config: dict[str, Any],
    report: Callable[[int, int], None],
) -> tuple[dict[str, float | None], dict[str, float]]:
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
        None stands for a correlation that is not defined (see `agreement`). A module with weights that are not finite
        has correlation 0 and relative error 1e9.
    """
    correlation: dict[str, float | None] = {}
    relative_error: dict[str, float] = {}
    norm_offset = 1.0 if checkpoint.architecture.startswith(_FROM_ONE) else 0.0
    scaled = format_of(method) == "awq" or _norms_differ(source, artifact, checkpoint)
    for done, module in enumerate(checkpoint.linear_shapes):
        read = _columns_read(source, module, checkpoint, norm_offset)
        original = source.read(f"{module}.weight").float()
        restored = dequantize(artifact, module, method, quantization_config)
        if scaled:
            original = _as_fed(original, source, module, norm_offset)
            restored = _as_fed(restored, artifact, module, norm_offset)
            row_module = None if method in _SMOOTHED else _row_partner(module, checkpoint)
            if row_module is not None:
                row_source = _as_fed(source.read(f"{row_module}.weight").float(), source, row_module, norm_offset)
                row_artifact = dequantize(artifact, row_module, method, quantization_config)
                row_artifact = _as_fed(row_artifact, artifact, row_module, norm_offset)
                restored = restored * _row_fit(row_source, row_artifact)
            if method not in _SMOOTHED and module in {_row_partner(name, checkpoint) for name in _siblings(module)}:
                restored = restored / _row_fit(_kept(original, read), _kept(restored, read))[:, None]
        if original.shape == restored.shape:
            original, restored = _kept(original, read), _kept(restored, read)
        correlation[module], relative_error[module] = agreement(original, restored)
        report(done + 1, len(checkpoint.linear_shapes))
    return correlation, relative_error


def agreement(original: torch.Tensor, restored: torch.Tensor) -> tuple[float | None, float]:
    """Pearson correlation and relative Frobenius error of two weight matrices of one shape.

    A matrix of equal numbers has no variance and so no correlation with anything: None, and the error alone judges. The
    error of a matrix of zeros is 0 where zeros were restored.
    """
    if original.shape != restored.shape:
        return 0.0, _NOT_COMPARABLE
    x, y = original.flatten(), restored.flatten()
    if not len(x):
        return None, 0.0
    # By scalar products, which read each weight in place: centred copies of both took most of an inspection's time.
    xx, xy, yy = (float(one @ other) for one, other in ((x, x), (x, y), (y, y)))
    if not math.isfinite(yy):
        return 0.0, _NOT_COMPARABLE
    difference = float((x - y).norm())
    error = min(difference / max(math.sqrt(xx), _TINY), _NOT_COMPARABLE) if difference else 0.0
    mean_x, mean_y = float(x.mean()), float(y.mean())
    variance_x, variance_y = xx / len(x) - mean_x**2, yy / len(y) - mean_y**2
    if variance_x <= _NO_VARIANCE * xx / len(x) or variance_y <= _NO_VARIANCE * yy / len(y):
        return None, error
    return min((xy / len(x) - mean_x * mean_y) / math.sqrt(variance_x * variance_y), 1.0), error


def _columns_read(
    source: TensorFiles, module: str, checkpoint: CheckpointRecord, norm_offset: float
) -> torch.Tensor | None:
    """[in_features] of bool: inputs of `module` that are not zero whatever the text; None where that is not known."""
    import torch

    part, _, name = module.rpartition(".")
    if name not in _BEHIND_LINEAR:
        norm = _norm_of(source, module)
        return None if norm is None else source.read(norm).float() + norm_offset != 0
    behind = [one for one in (_BEHIND_LINEAR[name], _BESIDE.get(_BEHIND_LINEAR[name])) if one]
    rows = [_rows_that_give(source, f"{part}.{one}") for one in behind if f"{part}.{one}.weight" in source]
    if len(rows) < len(behind):
        return None
    read = torch.stack(rows).all(0)
    if name == "o_proj":
        # Each head of values is read by all the heads of queries that share it.
        shared = checkpoint.num_attention_heads // checkpoint.num_key_value_heads
        read = read.view(checkpoint.num_key_value_heads, -1).repeat_interleave(shared, 0).flatten()
    return read if len(read) == checkpoint.linear_shapes[module][1] else None


def _rows_that_give(source: TensorFiles, module: str) -> torch.Tensor:
    """[out_features] of bool: outputs that are not zero whatever the input."""
    gives: torch.Tensor = (source.read(f"{module}.weight") != 0).any(1)
    bias = f"{module}.bias"
    return gives | (source.read(bias) != 0) if bias in source else gives


def _kept(weights: torch.Tensor, columns: torch.Tensor | None) -> torch.Tensor:
    return weights if columns is None or bool(columns.all()) else weights[:, columns]


def _siblings(module: str) -> list[str]:
    """The Linears of the same part that can stand behind `module`."""
    part = module.rpartition(".")[0]
    return [f"{part}.{name}" for name in _BEHIND_LINEAR]


def _row_partner(module: str, checkpoint: CheckpointRecord) -> str | None:
    """The Linear whose rows carry the inverse of `module`'s column scales; None where shapes rule it out."""
    part, _, name = module.rpartition(".")
    partner = f"{part}.{_BEHIND_LINEAR.get(name, '')}"
    shapes = checkpoint.linear_shapes
    if partner not in shapes or module not in shapes or shapes[partner][0] != shapes[module][1]:
        return None
    return partner


def _as_fed(weights: torch.Tensor, files: Tensors, module: str, offset: float) -> torch.Tensor:
    """Each column by the weight of the norm before it in these files; as they are where no norm feeds the module."""
    norm = _norm_of(files, module)
    return weights if norm is None else weights * (files.read(norm).float() + offset)


def _norms_differ(source: TensorFiles, artifact: Tensors, checkpoint: CheckpointRecord) -> bool:
    """Whether scales were moved into norms, as SmoothQuant and AWQ do in whatever format they are stored."""
    norms = {norm for module in checkpoint.linear_shapes if (norm := _norm_of(source, module)) is not None}
    return any(
        name in artifact and agreement(source.read(name).float(), artifact.read(name).float())[1] > _ROUNDED
        for name in norms
    )


def _norm_of(source: Tensors, module: str) -> str | None:
    """The weights of the norm that a module reads; None where it is not one of a part's first Linears."""
    layer, name = _LAYER.match(module), module.rpartition(".")[2]
    if layer is None or name in _BEHIND_LINEAR or name in _BEHIND_OTHERS:
        return None
    part = layer["part"] if layer["part"] in _BEHIND_NORM else "mlp"
    names = (f"{layer['layer']}.{norm}.weight" for norm in _BEHIND_NORM[part])
    return next((name for name in names if name in source), None)


def _row_fit(original: torch.Tensor, restored: torch.Tensor) -> torch.Tensor:
    """[rows]: the factor that each row of `restored` is of `original`'s, by least squares; 1 for rows of nothing."""
    import torch

    factor = (original * restored).sum(1) / original.square().sum(1)
    return torch.where(torch.isfinite(factor) & (factor != 0), factor, torch.ones_like(factor))
