"""What lies in a folder that looks like a checkpoint and is none: told from names and headers, in milliseconds."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from configs.errors import RequestError
from quantizers.checkpoints.safetensors_header import TensorInfo

TELLING_FILES = ("adapter_config.json", "quantize_config.json", "quant_config.json", "hf_quant_config.json")
"""Files by which an adapter or a quantized checkpoint is known; fetched for that, and no part of a checkpoint."""

_POINTER = b"version https://git-lfs.github.com/spec/"
_UNFINISHED_SUFFIXES = (".incomplete", ".aria2", ".part", ".crdownload")
"""What downloaders put behind the name of a file that they are still writing."""

PACKED_NAMES = re.compile(
    r"\.(qweight|qzeros|g_idx|SCB|weight_packed|weight_scale|weight_scale_inv|weight_zero_point)$"
    r"|\.weight\.(absmax|quant_map|nested_absmax|quant_state\.[\w.]+)$"
)
"""Tensors that only quantized checkpoints have: GPTQ and AWQ, bitsandbytes, compressed-tensors, fp8."""


def refuse_adapter(folder: Path) -> None:
    """Refuse a folder with an adapter in it (RequestError): transformers would load its base model instead."""
    if (folder / "adapter_config.json").is_file():
        raise RequestError(
            f"{folder} holds an adapter (adapter_config.json), which changes a base model and is none",
            remedy="merge it into its base model first (peft: `merge_and_unload`, then `save_pretrained`) and name the"
            " merged folder; where the folder holds a whole model beside it, move adapter_config.json away",
        )


def refuse_quantized(folder: Path, config: Mapping[str, Any], headers: Mapping[str, TensorInfo]) -> None:
    """Refuse a checkpoint that is quantized already, by config or by tensors (RequestError)."""
    quantization = config.get("quantization_config")
    packed = sorted(name for name in headers if PACKED_NAMES.search(name))
    if not quantization and not packed:
        return
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    beside = [name for name in TELLING_FILES[1:] if (folder / name).is_file()]
    signs = ["config.json has a quantization_config"] if quantization else []
    signs += [f"it holds {packed[0]}"] if packed else []
    raise RequestError(
        f"the checkpoint in {folder} is quantized already ({method or 'an unnamed method'}): {', '.join(signs)}"
        + (f", {beside[0]} lies beside" if beside else ""),
        remedy="name the original checkpoint in 16 or 32 bits",
    )


def refuse_unfetched(files: Iterable[Path]) -> None:
    """Refuse files that a download has not brought in whole (RequestError); files that are not there are no matter."""
    for file in files:
        if not file.is_file():
            continue
        unfinished = [
            file.name + suffix for suffix in _UNFINISHED_SUFFIXES if (file.parent / (file.name + suffix)).exists()
        ]
        if unfinished:
            raise RequestError(
                f"{file} is still being downloaded, or its download broke off: {unfinished[0]} lies beside it",
                remedy="let the download end, or fetch the file again",
            )
        with file.open("rb") as opened:
            begins = opened.read(len(_POINTER))
        if not begins:
            raise RequestError(f"{file} is empty", remedy="fetch the file again")
        if begins == _POINTER:
            raise RequestError(
                f"{file} is a Git LFS pointer and not the file itself", remedy="run `git lfs pull` in its repository"
            )
