"""What llama.cpp's converter does to linear attention is undone, head by head."""

import pytest

from quantizers.checkpoints.gguf_linear_attention import as_in_checkpoint, written_name

KEYS, HEADS, WIDTH, STATE = 2, 6, 3, 5
SIZES = {
    "qwen35.ssm.group_count": KEYS,
    "qwen35.ssm.time_step_rank": HEADS,
    "qwen35.ssm.state_size": STATE,
    "qwen35.ssm.inner_size": HEADS * WIDTH,
}
IN_TURNS = [0, 3, 1, 4, 2, 5]
"""The checkpoint's value heads in the file's order: the first of each key, the second of each, and so on."""
PART = "model.layers.0.linear_attn."


def written(rows: list[int], width: int) -> list[int]:
    """Rows of heads in the file's order."""
    return [rows[head * width + one] for head in IN_TURNS for one in range(width)]


@pytest.mark.parametrize(("tensor", "width"), [("in_proj_z.weight", WIDTH), ("in_proj_a.weight", 1), ("dt_bias", 1)])
def test_value_heads_are_in_their_places_again(tensor: str, width: int) -> None:
    import torch

    rows = list(range(HEADS * width))
    found = as_in_checkpoint(PART + tensor, torch.tensor(written(rows, width)).float()[:, None], "qwen35", SIZES)
    assert found[:, 0].tolist() == rows


@pytest.mark.parametrize("tensor", ["in_proj_qkv.weight", "conv1d.weight"])
def test_queries_and_keys_stay_where_they_are(tensor: str) -> None:
    import torch

    before, rows = list(range(2 * KEYS * STATE)), list(range(100, 100 + HEADS * WIDTH))
    stored = torch.tensor(before + written(rows, WIDTH)).float()[:, None].repeat(1, 4)
    found = as_in_checkpoint(PART + tensor, stored, "qwen35", SIZES)
    assert found.flatten(1)[:, 0].tolist() == before + rows
    assert found.shape == ((38, 1, 4) if tensor == "conv1d.weight" else (38, 4))


def test_columns_rates_and_norms() -> None:
    import torch

    rows = list(range(HEADS * WIDTH))
    columns = as_in_checkpoint(f"{PART}out_proj.weight", torch.tensor([written(rows, WIDTH)]).float(), "qwen35", SIZES)
    assert columns.tolist() == [rows]
    rates = -torch.tensor(written([1, 2, 3, 4, 5, 6], 1)).float().exp()
    assert as_in_checkpoint(f"{PART}A_log", rates, "qwen35", SIZES).tolist() == pytest.approx([1, 2, 3, 4, 5, 6])
    ones = torch.ones(4)
    assert as_in_checkpoint("model.norm.weight", ones, "qwen35", SIZES).tolist() == [0] * 4
    assert as_in_checkpoint(f"{PART}norm.weight", ones, "qwen35", SIZES).tolist() == [1] * 4
    assert written_name(f"{PART}dt_bias") == f"{PART}dt_proj.bias"
