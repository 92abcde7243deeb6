"""What is refused by architecture says why, with a source that still says so; layers of several kinds see their own."""

from importlib.metadata import distribution, version
from pathlib import Path

import pytest

from quantizers.checkpoints.sources import ARCHITECTURES
from quantizers.engines.layer_kinds import own_positions
from quantizers.methods.families import (
    GPTQMODEL_VERSION,
    MADE_BY_OLDER_ENGINES,
    REFUSALS,
    Refusal,
    family_violations,
)
from tests.tiny_families import make_tiny


def test_awq_is_refused_for_gemma_and_nothing_is_for_llama() -> None:
    (line,) = family_violations("awq", "Gemma3ForCausalLM")
    assert "leave it out" in line
    assert family_violations("gptq", "Gemma3ForCausalLM") == []
    assert family_violations("awq", "LlamaForCausalLM") == []


def test_an_older_engine_makes_what_it_knows() -> None:
    (line,) = family_violations("awq_autoawq", "SmolLM3ForCausalLM")
    assert "its engine makes Gemma2ForCausalLM, LlamaForCausalLM" in line
    assert family_violations("awq_autoawq", "") == []
    assert all(makes <= set(ARCHITECTURES) for makes in MADE_BY_OLDER_ENGINES.values())


@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: row.architecture)
def test_the_source_still_says_so(row: Refusal) -> None:
    assert version("gptqmodel") == GPTQMODEL_VERSION
    assert row.says in Path(str(distribution("gptqmodel").locate_file(row.source))).read_text(encoding="utf-8")


@pytest.mark.slow
def test_each_layer_of_gemma_3_gets_the_positions_of_its_own_kind(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(make_tiny("Gemma3ForCausalLM", tmp_path), dtype=torch.float32)
    hidden = torch.randn(1, 9, 128, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(9)[None]
    sliding, full = (
        model.model.rotary_emb(hidden, positions, layer_type=kind) for kind in ("sliding_attention", "full_attention")
    )
    layer = model.model.layers[1]
    assert layer.self_attn.layer_type == "full_attention"
    with torch.inference_mode():
        right = layer(hidden, position_embeddings=full)
        wrong = layer(hidden, position_embeddings=sliding)
        with own_positions(model):
            mended = layer(hidden, position_embeddings=sliding)
        after = layer(hidden, position_embeddings=sliding)
    assert torch.equal(mended, right)
    assert not torch.allclose(wrong, right)
    assert torch.equal(after, wrong)


def test_a_model_of_one_kind_of_layer_is_left_alone(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(make_tiny("LlamaForCausalLM", tmp_path))
    with own_positions(model):
        assert not model.model.layers[0]._forward_pre_hooks
