"""What correlation and error say of odd matrices, and that columns which nothing reads are not compared."""

from pathlib import Path
from typing import Any

import pytest

from quantizers.inspection.agreement import agreement, compare_weights
from quantizers.inspection.dequantize import TensorFiles
from quantizers.inspection.inspection import check_agreement
from registry.contracts import CheckpointRecord
from tests.records import checkpoint_record

LAYER = "model.layers.0"
SHAPES = {
    f"{LAYER}.self_attn.q_proj": (8, 8),
    f"{LAYER}.self_attn.v_proj": (4, 8),
    f"{LAYER}.self_attn.o_proj": (8, 8),
    f"{LAYER}.mlp.gate_proj": (12, 8),
    f"{LAYER}.mlp.up_proj": (12, 8),
    f"{LAYER}.mlp.down_proj": (8, 12),
}
Q, V, OUT, DOWN = (
    f"{LAYER}.{name}" for name in ("self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.down_proj")
)


@pytest.mark.parametrize(("value", "kept"), [(0.0, True), (3.0, True), (0.0, False), (3.0, False)])
def test_a_matrix_without_variance_is_judged_by_its_error(value: float, kept: bool) -> None:
    import torch

    original = torch.full((16, 16), value)
    restored = original * 1.01 if kept else torch.randn(16, 16)
    correlation, error = agreement(original, restored)
    assert correlation is None
    assert check_agreement({"a": correlation}, {"a": error}).passed == kept


def test_weights_that_are_off_by_a_factor_are_caught() -> None:
    import torch

    original = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    correlation, error = agreement(original, original * 5)
    check = check_agreement({"a": correlation, "b": 0.99}, {"a": error, "b": 0.1})
    assert not check.passed
    assert "a (relative error 4) (1 in all)" in check.detail


def test_weights_that_became_nothing_are_caught() -> None:
    import torch

    correlation, error = agreement(torch.randn(16, 16), torch.zeros(16, 16))
    assert (correlation, error) == (None, pytest.approx(1.0))
    check = check_agreement({"a": correlation, "b": 0.99}, {"a": error, "b": 0.1})
    assert not check.passed
    assert "a (without variance; relative error 1)" in check.detail


def record() -> CheckpointRecord:
    sizes = {"linear_shapes": SHAPES, "num_attention_heads": 4, "num_key_value_heads": 2}
    return checkpoint_record("sha256:c").model_copy(update=sizes)


def correlations(tmp_path: Path, source: dict[str, Any], ruined: dict[str, Any]) -> dict[str, float | None]:
    """Of 8-bit rows of `source`, of which some weights were replaced."""
    from safetensors.torch import save_file

    packed = {}
    for module in SHAPES:
        weights = ruined.get(module, source[f"{module}.weight"])
        rows = weights.abs().amax(1).clamp(min=1e-6)
        packed[f"{module}.weight"] = (weights / rows[:, None] * 127).round().to(weights.dtype).char()
        packed[f"{module}.SCB"] = rows
    for name, tensors in (("source", source), ("artifact", packed)):
        (tmp_path / name).mkdir()
        save_file({key: one.contiguous() for key, one in tensors.items()}, tmp_path / name / "model.safetensors")
    with TensorFiles(tmp_path / "source") as one, TensorFiles(tmp_path / "artifact") as other:
        return compare_weights(one, other, record(), "bnb_int8", {}, lambda done, total: None)[0]


def sound() -> dict[str, Any]:
    import torch

    torch.manual_seed(0)
    tensors = {f"{module}.weight": torch.randn(shape) for module, shape in SHAPES.items()}
    return tensors | {
        f"{LAYER}.{norm}.weight": torch.ones(8) for norm in ("input_layernorm", "post_attention_layernorm")
    }


def test_columns_behind_a_norm_of_zero_are_left_out(tmp_path: Path) -> None:
    source = sound()
    source[f"{LAYER}.input_layernorm.weight"][:6] = 0
    ruined = source[f"{Q}.weight"].clone()
    ruined[:, :6] = 0
    found = correlations(tmp_path, source, {Q: ruined})
    assert found[Q] is not None
    assert found[Q] > 0.99


def test_columns_that_are_read_are_compared(tmp_path: Path) -> None:
    source = sound()
    ruined = source[f"{Q}.weight"].clone()
    ruined[:, :6] = 0
    found = correlations(tmp_path, source, {Q: ruined})
    assert found[Q] is not None
    assert found[Q] < 0.9


def test_columns_behind_rows_of_zeros_are_left_out(tmp_path: Path) -> None:
    """Two heads of queries share each head of values: rows 0 and 1 feed columns 0 to 3, rows 2 and 3 the others."""
    source = sound()
    source[f"{V}.weight"][:2] = 0
    source[f"{LAYER}.mlp.gate_proj.weight"][:9] = 0
    outputs, down = source[f"{OUT}.weight"].clone(), source[f"{DOWN}.weight"].clone()
    outputs[:, :4] = 0
    down[:, :9] = 0
    found = correlations(tmp_path, source, {OUT: outputs, DOWN: down})
    assert min(value for value in found.values() if value is not None) > 0.99


def test_a_module_of_which_nothing_is_read_is_not_judged(tmp_path: Path) -> None:
    import torch

    source = sound()
    source[f"{LAYER}.input_layernorm.weight"].zero_()
    found = correlations(tmp_path, source, {Q: torch.randn(8, 8)})
    assert found[Q] is None


@pytest.mark.parametrize(("gain", "agrees"), [(1e-5, True), (1.0, False)])
def test_a_column_that_its_norm_all_but_switches_off_counts_for_as_much(
    tmp_path: Path, gain: float, agrees: bool
) -> None:
    """SmoothQuant gives such a column a scale of a thousandth, and a step of rounding is a hundred times its weight."""
    import torch
    from safetensors.torch import save_file

    source = sound()
    norm = f"{LAYER}.input_layernorm.weight"
    source[norm][3] = gain
    scales = torch.linspace(0.5, 2, 8)
    scales[3] = 1e-3
    stored = {name: tensor for name, tensor in source.items() if "norm" in name} | {norm: source[norm] / scales}
    for module in SHAPES:
        weights = source[f"{module}.weight"]
        if module in (Q, V):
            weights = weights * scales
        step = weights.abs().amax(1, keepdim=True) / 127
        codes = (weights / step).round()
        if module == Q:
            codes[:, 3] += 1
        stored |= {f"{module}.weight": codes.to(torch.int8), f"{module}.weight_scale": step}
    for name, tensors in (("source", source), ("artifact", stored)):
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
    with TensorFiles(tmp_path / "source") as one, TensorFiles(tmp_path / "artifact") as other:
        found, _ = compare_weights(one, other, record(), "w8a8_gptq", {}, lambda done, total: None)
    assert found[Q] is not None
    assert (found[Q] > 0.99) == agrees


def test_the_output_of_a_recurrence_reads_no_norm(tmp_path: Path) -> None:
    """What scales the norm before linear attention scales its inputs alone; that norm counts from one in Qwen 3.5."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    shapes = {f"{LAYER}.linear_attn.in_proj_qkv": (24, 8), f"{LAYER}.linear_attn.out_proj": (8, 16)}
    norm, scales = f"{LAYER}.input_layernorm.weight", torch.rand(8) + 0.5
    source = {f"{module}.weight": torch.randn(shape) for module, shape in shapes.items()} | {norm: torch.rand(8)}
    artifact = source | {
        norm: (1 + source[norm]) / scales - 1,
        f"{LAYER}.linear_attn.in_proj_qkv.weight": source[f"{LAYER}.linear_attn.in_proj_qkv.weight"] * scales,
    }
    for name, tensors in (("source", source), ("artifact", artifact)):
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
    told = {"linear_shapes": shapes, "architecture": "Qwen3_5ForCausalLM"}
    checkpoint = checkpoint_record("sha256:c").model_copy(update=told)
    with TensorFiles(tmp_path / "source") as one, TensorFiles(tmp_path / "artifact") as other:
        found, _ = compare_weights(one, other, checkpoint, "awq", {}, lambda done, total: None)
    assert min(value for value in found.values() if value is not None) > 0.999
