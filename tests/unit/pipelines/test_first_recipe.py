"""A first recipe takes what the model's sizes and the machine allow, says why, and reads as what was chosen."""

from pathlib import Path
from typing import Any

import pytest

from configs.errors import RequestError
from configs.loading import load_yaml_model
from pipelines.planning.device import MachineRecord
from pipelines.planning.first_recipe import FEWEST_POSITIONS, FirstRecipe
from pipelines.planning.recipe_text import text_of
from pipelines.recipe.run_config import RunConfig
from quantizers.checkpoints.first_look import ModelOutline
from quantizers.checkpoints.sources import FolderSource, HubSource

SLOW = MachineRecord(
    device="cpu",
    device_name="an old CPU",
    fast_bfloat16=False,
    cpu_flags=["avx2", "avx512bw", "avx512dq", "avx512f", "avx512vl"],
    threads=2,
    memory_bytes=24 << 30,
)
FAST = SLOW.model_copy(
    update={"fast_bfloat16": True, "device_name": "a new CPU", "cpu_flags": [*SLOW.cpu_flags, "avx512_vnni"]}
)
GPU = FAST.model_copy(update={"device": "cuda", "device_name": "a GPU", "gpu_memory_bytes": 80 << 30})


def model(
    architecture: str, layers: int, hidden: int, inner: int, heads: int, pairs: int, head: int, **other: Any
) -> ModelOutline:
    facts = {
        "name": "Some Model 1B",
        "architecture": architecture,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": pairs,
        "head_dim": head,
        "max_position_embeddings": 8192,
        "parameters": 1_000_000_000,
        "has_chat_template": True,
    }
    return ModelOutline.model_validate(facts | other)


LLAMA_8B = model("LlamaForCausalLM", 32, 4096, 14336, 32, 8, 128, parameters=8_030_000_000)
SMOLLM2 = model("LlamaForCausalLM", 30, 576, 1536, 9, 3, 64, parameters=134_515_008)
QWEN3 = model("Qwen3ForCausalLM", 28, 1024, 3072, 16, 8, 128)
PHI2 = model("PhiForCausalLM", 32, 2560, 10_240, 32, 32, 80)
GLM4 = model("Glm4ForCausalLM", 40, 4096, 13_696, 32, 2, 128)
GEMMA3_270M = model("Gemma3ForCausalLM", 18, 640, 2048, 4, 1, 256)
GEMMA3_1B = model("Gemma3ForCausalLM", 26, 1152, 6912, 4, 1, 256)
ROWS_OF_96 = model("LlamaForCausalLM", 2, 96, 416, 3, 3, 32)
ROWS_OF_200 = model("LlamaForCausalLM", 2, 96, 200, 3, 3, 32)
ROWS_OF_301 = model("LlamaForCausalLM", 2, 96, 301, 3, 3, 32)


def group_sizes(recipe: FirstRecipe) -> dict[str, int | None]:
    return {name: entry.get("group_size") for name, entry in recipe.methods.items()}


def comments(text: str) -> str:
    return " ".join(line.strip().removeprefix("# ") for line in text.splitlines() if line.strip().startswith("#"))


def recipe_for(outline: ModelOutline, machine: MachineRecord = SLOW) -> FirstRecipe:
    return FirstRecipe(FolderSource(kind="folder", path=Path("/models/it")), outline, machine)


@pytest.mark.parametrize(
    ("outline", "gptq", "awq"),
    [
        (LLAMA_8B, 128, 128),
        (QWEN3, 128, 128),
        (SMOLLM2, 64, 64),
        (ROWS_OF_96, 32, 32),
        (ROWS_OF_200, -1, None),
    ],
)
def test_the_widest_group_that_divides_every_row_is_taken(outline: ModelOutline, gptq: int, awq: int | None) -> None:
    recipe = recipe_for(outline, GPU)
    sizes = group_sizes(recipe)
    assert (sizes.get("gptq"), sizes.get("awq")) == (gptq, awq)
    assert ("awq" in recipe.left_out) == (awq is None)
    assert ("gptq" in recipe.passed_over) == (gptq != 128)


def test_a_method_that_an_engine_gets_wrong_for_the_model_is_left_out() -> None:
    """GPTQModel smooths Phi 2 wrongly, and vLLM does not find the Linears of a GPTQ of GLM 4."""
    phi, glm = recipe_for(PHI2, GPU), recipe_for(GLM4, GPU)
    assert ("awq" in phi.left_out, set(phi.methods)) == (True, {"gptq", "int8", "nf4", "rtn", "w8a8"})
    assert ("gptq" in glm.left_out, set(glm.methods)) == (True, {"awq", "int8", "nf4", "rtn", "w8a8"})


@pytest.mark.parametrize("outline", [GEMMA3_270M, GEMMA3_1B])
def test_gemma_s_wide_heads_and_odd_sizes(outline: ModelOutline) -> None:
    """640 and 1152 are multiples of 128, and so are 4 heads of 256."""
    sizes = group_sizes(recipe_for(outline))
    assert sizes["gptq"] == 128
    assert {"int8", "nf4"} <= set(sizes)


def test_where_no_packing_fits_what_is_left_is_made_and_the_rest_is_told() -> None:
    recipe = recipe_for(ROWS_OF_301, GPU)
    assert list(recipe.methods) == ["int8", "w8a8"]
    text = text_of(recipe)
    for name in ("gptq", "awq", "nf4", "rtn"):
        assert f"# Not {name}: " in text
    assert "words of 8 packed 4-bit weights" in comments(text)


@pytest.mark.parametrize("machine", [SLOW, FAST, GPU], ids=lambda one: one.device_name)
@pytest.mark.parametrize("outline", [LLAMA_8B, SMOLLM2, GEMMA3_1B, ROWS_OF_301], ids=lambda one: str(one.hidden_size))
def test_the_text_reads_as_what_was_chosen(outline: ModelOutline, machine: MachineRecord, tmp_path: Path) -> None:
    recipe = recipe_for(outline, machine)
    text = text_of(recipe)
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    assert load_yaml_model(path, RunConfig) == recipe.config
    for section in ("calibration:", "methods:", "device:", "evaluation:", "serving:", "checks:", "load:"):
        before = text[: text.index(f"\n{section}")].splitlines()[-1]
        assert before.startswith("# "), f"no reason is given above {section}"
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("name", ["a: b #c", "a \"b\" 'c'", "ümlaut 模型", "true", "1:30", "-.-", "Q8_0.v1", "x" * 200])
def test_no_name_changes_what_the_text_says(name: str, tmp_path: Path) -> None:
    source = FolderSource(kind="folder", path=tmp_path / name, note=name)
    recipe = FirstRecipe(source, SMOLLM2.model_copy(update={"name": name}), SLOW)
    path = tmp_path / "recipe.yaml"
    path.write_text(text_of(recipe), encoding="utf-8")
    assert load_yaml_model(path, RunConfig) == recipe.config


def test_a_hub_model_keeps_its_commit() -> None:
    commit = "0e9e39f249a16976918f6564b8830bc894c89659"
    text = text_of(FirstRecipe(HubSource(kind="hub", id="org/name", revision=commit), LLAMA_8B, GPU))
    assert f'  kind: "hub"\n  id: "org/name"\n  revision: "{commit}"\n' in text


@pytest.mark.parametrize(
    ("machine", "says"),
    [
        (SLOW, "cpu here and serves in float32: the baseline, int8; bfloat16: nf4, rtn, gptq, awq."),
        (FAST, "cpu here and serves in bfloat16: the baseline, nf4, int8, rtn, w8a8, gptq, awq."),
        (GPU, "cuda here and serves in bfloat16: the baseline, nf4, int8, rtn, w8a8, gptq, awq."),
    ],
    ids=["slow", "fast", "GPU"],
)
def test_what_auto_gives_is_said(machine: MachineRecord, says: str) -> None:
    assert says in comments(text_of(recipe_for(SMOLLM2, machine)))


def test_few_positions_bound_context_and_calibration() -> None:
    few = recipe_for(SMOLLM2.model_copy(update={"max_position_embeddings": FEWEST_POSITIONS}), GPU)
    assert few.config.serving.max_model_len == few.config.calibration.tokens == FEWEST_POSITIONS
    assert recipe_for(SMOLLM2, GPU).config.calibration.tokens == 512
    with pytest.raises(RequestError, match=f"has {FEWEST_POSITIONS - 1} positions"):
        recipe_for(SMOLLM2.model_copy(update={"max_position_embeddings": FEWEST_POSITIONS - 1}))


def test_without_a_chat_template_calibration_uses_none() -> None:
    plain = recipe_for(SMOLLM2.model_copy(update={"has_chat_template": False}))
    assert not plain.config.calibration.chat_template
    assert "The tokenizer has no chat template." in comments(text_of(plain))


def test_the_kv_cache_holds_all_requests_or_what_the_memory_allows() -> None:
    # 2 x 30 layers x 3 heads x 64 values x 4 bytes, of 16 requests of 1024 tokens: 0.70 GiB.
    assert recipe_for(SMOLLM2).kv_cache_gib == 0.75
    assert recipe_for(SMOLLM2, FAST).kv_cache_gib == 0.5
    small = recipe_for(LLAMA_8B, SLOW.model_copy(update={"memory_bytes": 2 << 30}))
    assert small.kv_cache_gib == 0.5
    assert not recipe_for(LLAMA_8B, GPU).warnings


def test_what_does_not_fit_the_memory_is_told_in_the_file_too() -> None:
    recipe = recipe_for(LLAMA_8B)
    (warning,) = recipe.warnings
    assert "the weights take about 29.9 GiB in float32, and there are 24.0 GiB" in warning
    assert "# WARNING: the weights take about 29.9 GiB" in text_of(recipe)
    (on_gpu,) = recipe_for(LLAMA_8B, GPU.model_copy(update={"gpu_memory_bytes": 16 << 30})).warnings
    assert "tensor_parallel_size" in on_gpu
