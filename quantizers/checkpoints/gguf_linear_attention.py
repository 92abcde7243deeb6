"""Linear attention of Qwen 3.5 as a GGUF file has it, and as its checkpoint does.

llama.cpp repeats keys in turns where transformers repeats each in its place, so its converter (conversion/qwen.py,
`_LinearAttentionVReorderBase`) orders value heads otherwise: rows of what gives them, columns of what reads them. It
stores the decay's rate in place of its logarithm, and the kernel of the convolution without its middle axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

KINDS = frozenset({"qwen35", "qwen35moe"})
"""GGUF architectures."""
_PART = ".linear_attn."
_BIAS = f"{_PART}dt_bias"


def written_name(name: str) -> str:
    """The checkpoint's name for a tensor as the converter's table of names has it."""
    return f"{name.removesuffix(_BIAS)}{_PART}dt_proj.bias" if name.endswith(_BIAS) else name


def as_in_checkpoint(name: str, values: torch.Tensor, kind: str, sizes: Mapping[str, Any]) -> torch.Tensor:
    """A tensor of a file of one of `KINDS`, as the checkpoint has it; those outside of linear attention too.

    Args:
        name: The checkpoint's.
        values: The file's, in its shape but with the slowest axis first.
        kind: The file's architecture.
        sizes: Its metadata.
    """
    import torch

    _, part, tensor = name.partition(_PART)
    if not part:
        return values - 1 if name.endswith("norm.weight") else values
    keys, heads = int(sizes[f"{kind}.ssm.group_count"]), int(sizes[f"{kind}.ssm.time_step_rank"])
    before = 2 * keys * int(sizes[f"{kind}.ssm.state_size"])
    width = int(sizes[f"{kind}.ssm.inner_size"]) // heads

    def in_place(rows: torch.Tensor, size: int) -> torch.Tensor:
        by_turn = rows.view(heads // keys, keys, size, *rows.shape[1:])
        return by_turn.transpose(0, 1).reshape(rows.shape)

    match tensor:
        case "in_proj_qkv.weight" | "conv1d.weight":
            values = torch.cat([values[:before], in_place(values[before:], width)])
        case "in_proj_z.weight":
            values = in_place(values, width)
        case "out_proj.weight":
            values = in_place(values.T.contiguous(), width).T.contiguous()
        case "in_proj_a.weight" | "in_proj_b.weight" | "dt_bias":
            values = in_place(values, 1)
        case "A_log":
            values = in_place((-values).log(), 1)
    return values.unsqueeze(1) if tensor == "conv1d.weight" else values
