"""AWQ's scales go where a layer shows that they belong: the engine's own fold changes what these layers compute."""

from pathlib import Path
from typing import Any

import pytest

from configs.errors import StageError
from quantizers.engines.awq_fold import fold
from quantizers.engines.gptqmodel_engine import import_engine
from tests.tiny_families import make_tiny

pytestmark = pytest.mark.slow

BEFORE_MLP = "post_attention_layernorm"
"""The norm that GPTQModel's definitions name before gate and up projection, whatever the model."""


@pytest.fixture(autouse=True)
def _engine() -> None:
    """The engine imports torchvision, which is not installed."""
    import_engine(1)


def layer_of(architecture: str, path: Path) -> tuple[Any, Any]:
    """The first decoder layer in float32, and what it was called with."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(make_tiny(architecture, path), dtype=torch.float32)
    layer, calls = model.model.layers[0], []
    hook = layer.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
    with torch.inference_mode():
        model(torch.arange(5, 40)[None], use_cache=False)
    hook.remove()
    return layer, calls[0]


def scales() -> Any:
    import torch

    return torch.linspace(0.3, 3, 128)


def output(layer: Any, call: Any) -> Any:
    import torch

    args, kwargs = call
    with torch.inference_mode():
        found = layer(*args, **kwargs)
    return found[0] if isinstance(found, tuple) else found


@pytest.mark.parametrize(
    "architecture", ["LlamaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM", "Olmo2ForCausalLM"]
)
def test_the_layer_computes_what_it_did(architecture: str, tmp_path: Path) -> None:
    import torch

    layer, call = layer_of(architecture, tmp_path)
    before, weight = output(layer, call), layer.mlp.gate_proj.weight.clone()
    fold(layer, [(BEFORE_MLP, ("mlp.gate_proj", "mlp.up_proj"), scales(), 0.0)], None, call)
    assert torch.allclose(output(layer, call), before, atol=1e-3, rtol=1e-3)
    is_scaled = not torch.equal(layer.mlp.gate_proj.weight, weight)
    assert is_scaled == (architecture != "Olmo2ForCausalLM")  # Its MLP reads no norm.


@pytest.mark.parametrize("architecture", ["Gemma2ForCausalLM", "Gemma3ForCausalLM", "Olmo2ForCausalLM"])
def test_the_engine_s_own_fold_changes_it(architecture: str, tmp_path: Path) -> None:
    """When this no longer holds, ours may go."""
    from gptqmodel.quantization.awq.quantize.scale import apply_scale

    layer, call = layer_of(architecture, tmp_path)
    before = output(layer, call)
    apply_scale(layer, [(BEFORE_MLP, ("mlp.gate_proj", "mlp.up_proj"), scales(), 0.0)])
    assert float((output(layer, call) - before).norm() / before.norm()) > 0.1


def test_a_fold_that_cannot_be_right_ends_the_stage(tmp_path: Path) -> None:
    layer, call = layer_of("LlamaForCausalLM", tmp_path)
    with pytest.raises(StageError, match="AWQ's scales change what a decoder layer computes") as refused:
        # The inputs of the output projection are the values', two heads for four: the ranks do not fit.
        fold(layer, [("mlp.gate_proj", ("mlp.down_proj",), scales().repeat(2), 0.0)], None, call)
    assert refused.value.blame == "engine"
