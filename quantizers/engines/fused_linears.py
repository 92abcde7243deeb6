"""Linears that a checkpoint has fused, and GPTQModel would take apart: they are quantized as they are.

An MLP of Phi 3 or GLM has `gate_up_proj`, one matrix, in its files and in vLLM. GPTQModel 7.3.6 has `defuser` split it
in memory, and quantizes and saves `gate_proj` and `up_proj` (models/loader.py, models/definitions/phi3.py, glm.py).
GPTQ rounds each output by itself, and both read the same inputs, so fused they come to the same codes under the name
that an artifact needs. Its definition of Phi 3 leaves out the norms, without which AWQ scales nothing and ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator

_FUSED, _PARTS = "gate_up_proj", ("gate_proj:0", "up_proj:0")
_NORMS = ("input_layernorm", "post_attention_layernorm")
"""Before attention and before the MLP."""


@contextlib.contextmanager
def left_fused(model_type: str, linears: Collection[str]) -> Iterator[None]:
    """GPTQModel's definition of a model type inside the block, with the Linears that the checkpoint has.

    Args:
        model_type: transformers' name.
        linears: Names of the checkpoint's Linears.
    """
    from defuser.modeling import model_patches
    from gptqmodel.models.auto import MODEL_MAP

    tree = MODEL_MAP[model_type].module_tree if model_type in MODEL_MAP else [None]
    layer, patches = tree[-1], model_patches._MODEL_PATCH_REGISTRY
    fused = any(name.endswith(f".mlp.{_FUSED}") for name in linears)
    if not fused or not isinstance(layer, dict) or layer.get("mlp", ())[: len(_PARTS)] != _PARTS:
        yield
        return
    splits = patches.pop(model_type)
    before_attention, before_mlp = ({norm: (f"{norm}:!",)} for norm in _NORMS)
    mlp = (f"{_FUSED}:0", *layer["mlp"][len(_PARTS) :])
    tree[-1] = {**before_attention, "self_attn": layer["self_attn"], **before_mlp, "mlp": mlp}
    try:
        yield
    finally:
        tree[-1], patches[model_type] = layer, splits
