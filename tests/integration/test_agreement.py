"""Packed formats written by hand, read back by `dequantize`, and AWQ's folded scales undone by `compare_weights`."""

from pathlib import Path
from typing import Any

import pytest

from quantizers.inspection.agreement import compare_weights
from quantizers.inspection.dequantize import TensorFiles
from registry.contracts import CheckpointRecord

pytestmark = pytest.mark.engine

GROUP = 32
SHAPES = {
    "model.layers.0.self_attn.q_proj": (64, 64),
    "model.layers.0.self_attn.v_proj": (64, 64),
    "model.layers.0.self_attn.o_proj": (64, 64),
    "model.layers.0.mlp.gate_proj": (96, 64),
    "model.layers.0.mlp.up_proj": (96, 64),
    "model.layers.0.mlp.down_proj": (64, 96),
}
NORMS = ("model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm")
AWQ_PLACES = (0, 2, 4, 6, 1, 3, 5, 7)
"""The neighbour that stands at each 4-bit place of a word, lowest first."""


def record() -> CheckpointRecord:
    return CheckpointRecord(
        digest="sha256:0",
        size_bytes=1,
        architecture="LlamaForCausalLM",
        parameters=1,
        dtype="float32",
        max_position_embeddings=64,
        positions=64,
        tie_word_embeddings=True,
        linear_shapes=SHAPES,
        beyond_float16={},
        num_attention_heads=2,
        num_key_value_heads=2,
        head_size=32,
        embedding_rows=16,
        has_bos_or_eos=True,
        has_chat_template=False,
        origin="made by a test",
    )


def source_tensors() -> dict[str, Any]:
    import torch

    torch.manual_seed(0)
    tensors = {f"{name}.weight": torch.randn(shape) for name, shape in SHAPES.items()}
    return tensors | {f"{name}.weight": torch.rand(64) + 0.5 for name in NORMS}


def rounded(weight: Any) -> tuple[Any, Any, Any]:
    """[out, in] weights -> codes [in, out], zeros [groups, out] and scales [groups, out], asymmetric 4 bits."""
    groups = weight.T.reshape(-1, GROUP, len(weight))
    low, high = groups.amin(1), groups.amax(1)
    scales = (high - low) / 15
    zeros = (-low / scales).round().clamp(0, 15)
    codes = (groups / scales[:, None] + zeros[:, None]).round().clamp(0, 15)
    return codes.reshape(-1, len(weight)).int(), zeros.int(), scales


def packed(codes: Any, places: tuple[int, ...]) -> Any:
    """[rows, columns] codes -> [rows, columns / 8] words."""
    import torch

    eights = codes.reshape(len(codes), -1, 8).long()
    words = sum(eights[:, :, neighbour] << (4 * place) for place, neighbour in enumerate(places))
    return torch.where(words >= 1 << 31, words - (1 << 32), words).int().contiguous()


def pack_module(weight: Any, method: str) -> dict[str, Any]:
    import torch

    codes, zeros, scales = (tensor.contiguous() for tensor in rounded(weight))
    if method == "awq":
        return {"qweight": packed(codes, AWQ_PLACES), "qzeros": packed(zeros, AWQ_PLACES), "scales": scales}
    # Version 1 stores zero points less one; this one wraps at 4 bits as the format does.
    zeros = zeros.clamp(min=1)
    return {
        "qweight": packed(codes.T.contiguous(), tuple(range(8))).T.contiguous(),
        "qzeros": packed(zeros - 1, tuple(range(8))),
        "scales": scales,
        "g_idx": torch.arange(len(codes), dtype=torch.int32) // GROUP,
    }


def fold(tensors: dict[str, Any]) -> dict[str, Any]:
    """Move random input scales of every module into its norm or the Linear before it, as AWQ does."""
    import torch

    layer = "model.layers.0"
    folds = {
        f"{layer}.input_layernorm": ["self_attn.q_proj", "self_attn.v_proj"],
        f"{layer}.post_attention_layernorm": ["mlp.gate_proj", "mlp.up_proj"],
        f"{layer}.self_attn.v_proj": ["self_attn.o_proj"],
        f"{layer}.mlp.up_proj": ["mlp.down_proj"],
    }
    folded = dict(tensors)
    for before, behind in folds.items():
        scales = torch.rand(tensors[f"{layer}.{behind[0]}.weight"].shape[1]) * 3 + 0.3
        weight = folded[f"{before}.weight"]
        folded[f"{before}.weight"] = weight / (scales if weight.ndim == 1 else scales[:, None])
        for name in behind:
            folded[f"{layer}.{name}.weight"] = folded[f"{layer}.{name}.weight"] * scales
    return folded


def compared(tmp_path: Path, method: Any, source: dict[str, Any], artifact: dict[str, Any]) -> dict[str, float]:
    from safetensors.torch import save_file

    stored = {f"{name}.weight": artifact[f"{name}.weight"] for name in NORMS}
    for name in SHAPES:
        parts = pack_module(artifact[f"{name}.weight"], method)
        stored |= {f"{name}.{part}": tensor for part, tensor in parts.items()}
    for name, tensors in (("source", source), ("artifact", stored)):
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
    with TensorFiles(tmp_path / "source") as left, TensorFiles(tmp_path / "artifact") as right:
        config = {"bits": 4, "checkpoint_format": "gptq"}
        return compare_weights(left, right, record(), method, config, lambda done, total: None)[0]


def test_gptq_agrees(tmp_path: Path) -> None:
    source = source_tensors()
    assert min(compared(tmp_path, "gptq", source, source).values()) > 0.99


def test_awq_agrees_once_its_folds_are_undone(tmp_path: Path) -> None:
    source = source_tensors()
    assert min(compared(tmp_path, "awq", source, fold(source)).values()) > 0.98


def test_awq_scales_that_were_not_folded_are_caught(tmp_path: Path) -> None:
    """Weights were scaled, the norm before them was not: the model computes something else."""
    source = source_tensors()
    artifact = fold(source)
    artifact["model.layers.0.input_layernorm.weight"] = source["model.layers.0.input_layernorm.weight"]
    correlation = compared(tmp_path, "awq", source, artifact)
    assert correlation["model.layers.0.self_attn.q_proj"] < 0.95
    assert correlation["model.layers.0.mlp.gate_proj"] > 0.98


@pytest.mark.parametrize("name", ["self_attn.v_proj", "mlp.up_proj", "mlp.down_proj", "self_attn.q_proj"])
def test_awq_weights_of_another_row_order_are_caught(tmp_path: Path, name: str) -> None:
    source = source_tensors()
    artifact = fold(source)
    key = f"model.layers.0.{name}.weight"
    artifact[key] = artifact[key].flip(0)
    assert compared(tmp_path, "awq", source, artifact)[f"model.layers.0.{name}"] < 0.5
