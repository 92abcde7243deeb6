"""A tiny random checkpoint of every architecture that is supported, with the tokenizer of the tiny Llama."""

from pathlib import Path
from typing import Any

from tests.tiny_llama import make_tiny_tokenizer

_SHAPE = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 512,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
_GEMMA = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 64, "query_pre_attn_scalar": 32}

FAMILIES: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {},
    "MistralForCausalLM": {"sliding_window": None},
    "Qwen2ForCausalLM": {},
    "Qwen3ForCausalLM": {},
    "Gemma2ForCausalLM": _GEMMA,
    "Gemma3ForCausalLM": _GEMMA,
    "Phi3ForCausalLM": {"sliding_window": None},
    "SmolLM3ForCausalLM": {"no_rope_layers": [1, 0]},
}
"""Architecture -> what its config wants besides the common shape; Gemma's two kinds of layers are one each."""


def make_tiny(architecture: str, path: Path, seed: int = 0) -> Path:
    """Write a random bfloat16 checkpoint of `architecture` into `path` and return `path`."""
    import torch
    import transformers

    torch.manual_seed(seed)
    model_type = getattr(transformers, architecture)
    config = model_type.config_class(**_SHAPE, **FAMILIES[architecture])
    model_type(config).to(torch.bfloat16).save_pretrained(path)
    make_tiny_tokenizer(path)
    return path
