"""The weights of an artifact, in safetensors or in one GGUF file, by the names that its checkpoint has for them."""

from __future__ import annotations

from pathlib import Path

from quantizers.checkpoints.gguf_tensors import GgufFile
from quantizers.checkpoints.safetensors_header import TensorInfo, read_headers, weight_files

GGUF_FILE = "model.gguf"
"""Of an artifact of ours."""


def gguf_file(folder: Path) -> Path | None:
    """The GGUF file of an artifact's folder; None where its weights are in safetensors."""
    path = folder / GGUF_FILE
    return path if path.is_file() else None


def stored_files(folder: Path) -> list[Path]:
    """The files that hold an artifact's weights (raises as `weight_files` does)."""
    path = gguf_file(folder)
    return weight_files(folder) if path is None else [path]


def stored_headers(folder: Path, checkpoint_dir: Path) -> dict[str, TensorInfo]:
    """Tensor name -> what an artifact's files say of it.

    Args:
        folder: The artifact's.
        checkpoint_dir: What it was made of.

    Raises:
        RequestError: A file is broken.
    """
    path = gguf_file(folder)
    if path is None:
        return read_headers(folder)
    file = GgufFile(path, read_headers(checkpoint_dir))
    return file.headers | file.unnamed
