"""Into which norm SmoothQuant's scales go, by the names of a model's modules; other models are refused."""

import pytest

from configs.errors import StageError
from quantizers.engines.llmcompressor_engine import smoothed

LINEARS = [f"model.layers.0.{name}" for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")]
LINEARS += [f"model.layers.0.mlp.{name}_proj" for name in ("gate", "up", "down")]


def with_norms(*names: str) -> list[str]:
    return [*LINEARS, *(f"model.layers.0.{name}" for name in names)]


def test_the_second_of_two_norms_feeds_the_mlp() -> None:
    attention, mlp = smoothed(with_norms("input_layernorm", "post_attention_layernorm"))
    assert attention == (["re:.*[.]q_proj$", "re:.*[.]k_proj$", "re:.*[.]v_proj$"], "re:.*[.]input_layernorm$")
    assert mlp == (["re:.*[.]gate_proj$", "re:.*[.]up_proj$"], "re:.*[.]post_attention_layernorm$")


def test_of_four_norms_the_third_feeds_the_mlp() -> None:
    four = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
    assert smoothed(with_norms(*four))[1][1] == "re:.*[.]pre_feedforward_layernorm$"


def test_fused_linears_are_smoothed_as_one() -> None:
    modules = ["a.qkv_proj", "a.gate_up_proj", "a.input_layernorm", "a.post_attention_layernorm"]
    assert [linears for linears, _ in smoothed(modules)] == [["re:.*[.]qkv_proj$"], ["re:.*[.]gate_up_proj$"]]


@pytest.mark.parametrize(
    "norms", [(), ("input_layernorm",), ("post_attention_layernorm", "post_feedforward_layernorm")]
)
@pytest.mark.parametrize("others", [[], ["model.layers.0.mlp.experts"]])
def test_a_model_whose_norms_stand_elsewhere_is_refused(norms: tuple[str, ...], others: list[str]) -> None:
    with pytest.raises(StageError, match="before the MLP's") as caught:
        smoothed([*with_norms(*norms), *others])
    assert "smoothing_strength to null" in caught.value.remedy


def test_of_a_mixture_attention_alone_is_smoothed() -> None:
    modules = [*with_norms("input_layernorm", "post_attention_layernorm"), "model.layers.0.mlp.experts"]
    assert [norm for _, norm in smoothed(modules)] == ["re:.*[.]input_layernorm$"]
