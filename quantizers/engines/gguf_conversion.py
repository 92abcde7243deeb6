"""llama.cpp's converter: a checkpoint's folder as one GGUF file, its tokenizer and chat template in it.

The converter knows a byte-level tokenizer by the digest of what it makes of one long text, and gives up on others.
Where tokenizer.json itself says that it cuts words by a rule that llama.cpp has, that rule is named in place of giving
up; the inspection holds the file's tokenizer against the source's either way.

    python -P -m quantizers.engines.gguf_conversion FOLDER FILE DTYPE
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

from configs.errors import StageError
from configs.reading.json_text import read_json_object
from quantizers.checkpoints.gguf_pre_tokenizer import pre_tokenizer_name
from registry.contracts.base import DType

_TYPES: dict[DType, str] = {"float32": "ALL_F32", "bfloat16": "MOSTLY_BF16", "float16": "MOSTLY_F16"}


def write_gguf(checkpoint_dir: Path, path: Path, dtype: DType) -> None:
    """Write a checkpoint as one GGUF file.

    Args:
        dtype: Of its weights; norms and biases are always float32.

    Raises:
        StageError: The converter does not know the architecture or the tokenizer.
    """
    import gguf
    import torch
    from conversion import get_model_class

    architecture = read_json_object(checkpoint_dir / "config.json")["architectures"][0]
    try:
        model_class = get_model_class(architecture)
    except NotImplementedError as error:
        raise StageError(
            f"llama.cpp's converter does not know {architecture}: {error}",
            remedy="leave gguf out; other methods take this model",
            blame="recipe",
        ) from error
    except AttributeError as error:
        # Its modules name what its own package `gguf` does not have in every version.
        raise StageError(
            f"llama.cpp's converter does not load what it has for {architecture}: {error} is not in its package gguf",
            remedy="leave gguf out; other methods take this model",
            blame="recipe",
        ) from error
    with torch.inference_mode():
        # A draft head is no part of a model here (`CheckpointRecord.passed_over`), and most checkpoints have none.
        model_class.no_mtp = True
        converted = model_class(checkpoint_dir, gguf.LlamaFileType[_TYPES[dtype]], path)
        by_digest = converted.get_vocab_base_pre

        def by_digest_or_rule(tokenizer: Any) -> str:
            try:
                return str(by_digest(tokenizer))
            except NotImplementedError as error:
                return _pre_tokenizer(checkpoint_dir, error)

        converted.get_vocab_base_pre = by_digest_or_rule
        converted.write()


def _pre_tokenizer(checkpoint_dir: Path, error: Exception) -> str:
    name = pre_tokenizer_name(checkpoint_dir)
    if name is None:
        raise StageError(
            "llama.cpp has no rule by which this model's tokenizer cuts words (pre_tokenizer in its tokenizer.json)",
            remedy="leave gguf out; other methods take this model",
            blame="recipe",
        ) from error
    return name


if __name__ == "__main__":
    write_gguf(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), cast(DType, sys.argv[3]))
