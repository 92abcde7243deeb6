"""The weights of a GGUF file as a model of transformers; none is missing, and none is passed over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from configs.errors import RequestError, StageError
from quantizers.checkpoints import gguf_header
from quantizers.checkpoints.completeness import refuse_gaps
from registry.contracts.base import DType


def load_weights(path: Path, dtype: DType) -> Any:
    """Dequantize the file's weights into a model in `dtype`, the one that its metadata describe.

    Raises:
        RequestError: Its tensors are not those of its architecture, or one is not among those that transformers reads.
        StageError: transformers cannot read the file.
    """
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    try:
        # Without `dequantize=True` the model cannot be saved again.
        model, loaded = AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=path.name,
            dtype=getattr(torch, dtype),
            quantization_config=GgufConfig(dequantize=True, gguf_file=path.name),
            output_loading_info=True,
        )
    except Exception as error:  # transformers' GGUF reader raises whatever it stumbles over.
        raise StageError(
            f"transformers cannot read {path}: {type(error).__name__}: {error}", remedy="fetch the GGUF file again"
        ) from error
    refuse_gaps(f"the weights in {path}", loaded["missing_keys"], loaded["unexpected_keys"])
    unread = sorted(gguf_header.tensors(path).keys() - names_read(model, path))
    if unread:
        raise RequestError(
            f"{path} holds tensors that transformers' conversion passes over: {', '.join(unread[:4])}"
            f" ({len(unread)} in all); without them it would be another model",
            remedy="name the original checkpoint in safetensors (rope_freqs stands for a rope scaling that only its"
            " config.json tells)",
        )
    return model


def names_read(model: Any, path: Path) -> set[str]:
    """The names of tensors that transformers reads from `path` into `model`."""
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    processor = TENSOR_PROCESSORS.get(gguf_header.architecture(path), TensorProcessor)(config=model.config.to_dict())
    return set(get_gguf_hf_weights_map(model, processor))
