"""What is refused by architecture says why, by a table of the installed libraries; layers see their own kind's."""

from pathlib import Path

import pytest

from configs.errors import RequestError
from pipelines.environments.definition import MAIN
from quantizers.base import MethodConfig, load_method, parse_config
from quantizers.checkpoints.architectures import architecture_table
from quantizers.checkpoints.sources import GGUF_NAMES, check_architecture
from quantizers.engines.layer_kinds import own_positions
from quantizers.methods.families import MADE_BY_OTHER_ENGINES, family_violations
from tests.tiny_families import make_tiny
from tools import model_table

TABLE = architecture_table()


def test_a_refusal_says_what_the_trial_found_and_nothing_is_refused_for_llama() -> None:
    (line,) = family_violations(MethodConfig(method="bnb_nf4"), "MixtralForCausalLM")
    assert line.startswith("bnb_nf4 is not for MixtralForCausalLM: ")
    assert line.endswith("leave it out, other methods take this model")
    assert family_violations(MethodConfig(method="awq"), "Gemma3ForCausalLM") == []
    assert TABLE.architectures["LlamaForCausalLM"].refused == {}


def test_an_older_engine_makes_what_it_knows() -> None:
    (line,) = family_violations(MethodConfig(method="awq_autoawq"), "SmolLM3ForCausalLM")
    assert "its engine makes Gemma2ForCausalLM, LlamaForCausalLM" in line
    assert family_violations(MethodConfig(method="awq_autoawq"), "") == []
    assert all(makes <= set(TABLE.architectures) for makes in MADE_BY_OTHER_ENGINES.values())


def test_a_model_that_smoothquant_does_not_know_is_made_without_it() -> None:
    smoothing, plain = (parse_config({"method": "w8a8_gptq", "smoothing_strength": one}) for one in (0.8, None))
    (line,) = family_violations(smoothing, "Olmo2ForCausalLM")
    assert line.startswith("w8a8_gptq does not smooth Olmo2ForCausalLM: ")
    assert line.endswith("post_feedforward_layernorm, q_norm; set smoothing_strength to null")
    assert family_violations(plain, "Olmo2ForCausalLM") == []
    assert family_violations(smoothing, "LlamaForCausalLM") == []


def test_the_table_was_made_with_what_is_locked() -> None:
    """Where it was not, `python -m tools.model_table` makes it anew."""
    assert TABLE.versions == model_table.locked_versions()
    environments = {load_method(method).environment for method in model_table.tried_methods()}
    assert environments == {MAIN, *model_table.ENGINES}


def test_the_page_shows_the_table() -> None:
    assert model_table.page_part(TABLE) in model_table.PAGE.read_text("utf-8")


def test_all_that_have_an_outline_are_in_the_table() -> None:
    assert set(GGUF_NAMES) <= set(TABLE.architectures)


@pytest.mark.parametrize(
    ("architecture", "because"),
    [
        ("OlmoeForCausalLM", "GPTQModel does not know it"),
        ("MptForCausalLM", "vLLM does not know it"),
        ("Qwen2VLForConditionalGeneration", "it reads more than text"),
        ("LlamaForCausalLN", "transformers does not know it"),
    ],
)
def test_an_architecture_that_is_not_shared_is_refused_with_who_does_not_know_it(
    architecture: str, because: str
) -> None:
    with pytest.raises(RequestError, match=f"{architecture} in here is not supported: {because}") as refused:
        check_architecture({"architectures": [architecture]}, Path("here"))
    assert "MixtralForCausalLM" in refused.value.remedy


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
    layer = model.model.layers[-1]
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
