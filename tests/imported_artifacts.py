"""Quantized checkpoints as others hand them on, and lies to tell in them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def copy_of(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target))


def change_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Edit config.json in place."""
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def say(folder: Path, **members: Any) -> None:
    """Other members of quantization_config."""
    change_config(folder, lambda config: config["quantization_config"].update(members))


def change_tensors(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Edit the tensors of the only weights file, a dict by name, in place."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({name: one.contiguous() for name, one in tensors.items()}, folder / "model.safetensors", {"format": "pt"})


def as_gptq(source: Path, target: Path, *, group_size: int = 64, reordered: bool = False) -> Path:
    """A checkpoint in GPTQ's format, rounded to nearest: packed here, by the format's description."""
    import torch

    def packed(weight: Any) -> dict[str, Any]:
        rows, columns = weight.shape
        groups = torch.arange(columns, dtype=torch.int32) // group_size
        if reordered:
            groups = groups[torch.randperm(columns, generator=torch.Generator().manual_seed(1))]
        count = columns // group_size
        scales = torch.stack([weight[:, groups == one].abs().amax(1) / 7 for one in range(count)])
        codes = (weight / scales[groups.long()].T).round().clamp(-8, 7) + 8
        # Version 1 of the format keeps every zero point less one: 8 is written as 7.
        zeros = torch.full((count, rows), 7)
        return {
            "qweight": _words(codes.T.int(), 0, range(8)),
            "qzeros": _words(zeros.int(), 1, range(8)),
            "scales": scales.half(),
            "g_idx": groups,
        }

    told = {"quant_method": "gptq", "bits": 4, "group_size": group_size, "desc_act": reordered, "sym": True}
    return _converted(source, target, packed, told)


def as_awq(source: Path, target: Path, *, group_size: int = 64) -> Path:
    """The same in AWQ's format, with zero points and without scales for channels."""
    import torch

    def packed(weight: Any) -> dict[str, Any]:
        rows, columns = weight.shape
        grouped = weight.T.reshape(columns // group_size, group_size, rows)
        low, high = grouped.amin(1, keepdim=True), grouped.amax(1, keepdim=True)
        scales = (high - low) / 15
        zeros = (-low / scales).round()
        codes = (grouped / scales).round().add(zeros).clamp(0, 15).reshape(columns, rows)
        order = (0, 2, 4, 6, 1, 3, 5, 7)
        return {
            "qweight": _words(codes.int(), 1, order),
            "qzeros": _words(zeros[:, 0].int(), 1, order),
            "scales": scales[:, 0].to(torch.float16),
        }

    told = {"quant_method": "awq", "bits": 4, "group_size": group_size, "zero_point": True, "version": "gemm"}
    return _converted(source, target, packed, told)


def _words(codes: Any, dim: int, order: Any) -> Any:
    """Eight neighbours a word; the n-th place of the word, from below, holds the neighbour `order[n]`."""
    import torch

    parts = codes.unflatten(dim, (-1, 8)).movedim(dim + 1, 0)
    words = sum(parts[neighbour].long() << 4 * place for place, neighbour in enumerate(order))
    return words.to(torch.int32)  # type: ignore[union-attr]


def _converted(source: Path, target: Path, packed: Callable[[Any], dict[str, Any]], told: dict[str, Any]) -> Path:
    copy_of(source, target)

    def convert(tensors: dict[str, Any]) -> None:
        for name in [name for name in tensors if name.endswith("_proj.weight")]:
            module = name.removesuffix(".weight")
            tensors.update({f"{module}.{own}": one for own, one in packed(tensors.pop(name).float()).items()})

    change_tensors(target, convert)
    change_config(target, lambda config: config.update(quantization_config=told))
    return target
