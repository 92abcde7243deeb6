"""Decoder layers of several kinds: each gets the positions of its own kind while GPTQModel calls it.

GPTQModel 7.3.6 records what the first decoder layer is called with, and calls all the others with the same
(looper/input_cache.py, looper/forward_executor.py). Layers of Gemma 3 and OLMo 3 are of two kinds, and each kind has
its own rotary table (transformers 5.19, models/gemma3/modeling_gemma3.py): layers of full attention were calibrated on
positions that they never see when they serve. What differs too is how far a layer looks back. Within the window both
look alike, and longer calibration rows are refused (quantizers/calibration/config.py).
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def own_positions(model: Any) -> Iterator[None]:
    """Give every decoder layer of `model` (a causal language model of transformers) its own kind's rotary table."""
    rotary = getattr(model.base_model, "rotary_emb", None)
    if rotary is None or "layer_type" not in inspect.signature(rotary.forward).parameters:
        yield
        return

    layers = model.base_model.layers
    # Gemma 3n's are called with it by its place.
    place = list(inspect.signature(layers[0].forward).parameters).index("position_embeddings")

    def own(kind: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        import torch

        hidden = args[0] if args else kwargs["hidden_states"]
        positions = torch.arange(hidden.shape[-2], device=hidden.device)[None]
        embeddings = rotary(hidden, positions, layer_type=kind)
        if place < len(args):
            return (*args[:place], embeddings, *args[place + 1 :]), kwargs
        return args, kwargs | {"position_embeddings": embeddings}

    hooks = [
        layer.register_forward_pre_hook(
            lambda _, args, kwargs, kind=kind: own(kind, args, kwargs),
            with_kwargs=True,
        )
        for layer, kind in zip(layers, model.config.layer_types, strict=True)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
