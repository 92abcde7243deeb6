"""The Linears that an outline works out are those that transformers makes of the same config."""

import json
from pathlib import Path

import pytest

from quantizers.checkpoints.first_look import outline_of, source_named
from quantizers.checkpoints.sources import GGUF_NAMES
from tests.unit.quantizers.test_quantizer_sources import TENSORS, write_safetensors

pytestmark = pytest.mark.engine

SIZES = {
    "num_hidden_layers": 2,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "vocab_size": 64,
    "pad_token_id": 0,
}


@pytest.mark.parametrize("architecture", GGUF_NAMES)
def test_the_shapes_are_those_of_the_model_class(architecture: str, tmp_path: Path) -> None:
    import torch
    import transformers

    model_class = getattr(transformers, architecture)
    head = {} if architecture == "Phi3ForCausalLM" else {"head_dim": 32}
    with torch.device("meta"):
        model = model_class(model_class.config_class(**SIZES, **head))
    linears = {
        name: tuple(module.weight.shape)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and ".layers." in name
    }
    folder = tmp_path / "model"
    model.config.architectures = [architecture]
    model.config.save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    write_safetensors(folder / "model.safetensors", TENSORS)
    outline = outline_of(source_named(str(folder)))
    assert outline.linear_shapes == linears
    tied = json.loads((folder / "config.json").read_text()).get("tie_word_embeddings")
    assert outline.parameters - sum(a * b for a, b in linears.values()) == (1 if tied else 2) * 64 * 96
