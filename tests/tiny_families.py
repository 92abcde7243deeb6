"""A tiny random checkpoint of any architecture of transformers, with a tokenizer of the kind that it has.

The config class has the names, and says by its defaults what kind of layers there are; sizes are made small by name.
Weights are larger than a class makes them, and some channels much larger than others, as in trained models: without
that, norms, experts and scales hardly show in the logits.
"""

import dataclasses
import shutil
import tempfile
from pathlib import Path
from typing import Any

from quantizers.checkpoints.gguf_tokenizer import write_tokenizer
from quantizers.checkpoints.gguf_vocabulary import read_vocabulary
from tests.tiny_gguf import write_spm
from tests.tiny_llama import make_tiny_tokenizer

SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "word_embed_proj_dim"), 128),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers"), 2),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "ffn_hidden_size", "intermediate_size_mlp"), 256),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 128),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "num_experts_per_tok", "moe_k", "moe_topk"), 2),
    "head_dim": 32,
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 64),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "query_pre_attn_scalar"), 32),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 512),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "n_shared_experts", "num_dense_layers"), 1),
    **{"vocab_size": 512, "sliding_window": 64, "vocab_size_per_layer_input": 512, "hidden_size_per_layer_input": 64},
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 128),
    **{"linear_num_key_heads": 2, "linear_num_value_heads": 4},
    **{"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 2, "num_nextn_predict_layers": 0, "rotary_dim": 16},
}
_EYES = {
    **{"hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 64},
    **{"num_attention_heads": 4, "num_key_value_heads": 4, "image_size": 28, "patch_size": 14},
}
_OWN: dict[str, dict[str, Any]] = {
    **{without: {"sliding_window": None} for without in ("mistral", "mixtral", "phi3")},
    # As the smaller one of the two: llama.cpp knows the larger one, with windows, by its number of layers.
    "exaone4": {"sliding_window": None, "layer_types": ["full_attention"] * 2},
    # Which transformers 5 writes no more, and llama.cpp's converter reads.
    "cohere2": {"rotary_pct": 1.0},
    "gemma4_text": {
        **{"global_head_dim": 64, "num_experts": None, "moe_intermediate_size": None},
        **{"num_hidden_layers": 4, "num_kv_shared_layers": 2},
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "gemma3n_text": {"num_kv_shared_layers": 0, "activation_sparsity_pattern": [0.0] * 5, "laurel_rank": 64},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "phi": {"num_key_value_heads": 4, "intermediate_size": 512},
    "qwen3_moe": {"norm_topk_prob": True},
    "smollm3": {"no_rope_layers": [1, 0]},
    **{
        latent: {"num_key_value_heads": 4}
        for latent in ("deepseek_v2", "deepseek_v3", "deepseek_v32", "minicpm3", "glm4_moe_lite", "glm_moe_dsa")
    },
}
"""What a config wants besides, or has in all real models and not by its defaults; attention by latent vectors has as
many key-value heads as heads."""
_SENTENCEPIECE = frozenset({"ernie4_5", "ernie4_5_moe", "gemma", "gemma2", "gemma3_text", "minicpm3", "phi3"})
"""Whose checkpoints have a tokenizer.model, which llama.cpp's converter reads."""
_SENTENCEPIECE_SIZES = {"vocab_size": 600, "bos_token_id": 1}
_PATTERNS = {
    **{"cohere2": 4, "gemma3_text": 6, "gemma3n_text": 5, "olmo3": 4},
    **{"qwen3_5_text": 4, "qwen3_5_moe_text": 4},
}
"""Layers until the last one reads without a window or is no linear one: llama.cpp knows them by that number."""


def tiny_config(model_type: str) -> Any:
    """A config of transformers' `model_type` with two layers, one of each kind where there are two kinds.

    Where kinds come in a pattern it has one round of that.
    """
    from transformers import CONFIG_MAPPING

    config_class = CONFIG_MAPPING[model_type]
    defaults = config_class().to_dict()
    told = {name: value for name, value in SIZES.items() if name in defaults}
    for kinds in ("layer_types", "mlp_layer_types"):
        if defaults.get(kinds):
            own = list(dict.fromkeys(defaults[kinds]))
            told[kinds] = [own[0], own[-1]]
    if layers := _PATTERNS.get(model_type):
        told |= {"num_hidden_layers": layers, "layer_types": defaults["layer_types"][:layers]}
    if model_type in _SENTENCEPIECE:
        told |= _SENTENCEPIECE_SIZES
    return config_class(**told | _OWN.get(model_type, {}))


def _make_tokenizer(model_type: str, path: Path) -> None:
    if model_type not in _SENTENCEPIECE:
        make_tiny_tokenizer(path)
        return
    with tempfile.TemporaryDirectory() as room:
        prefix = not model_type.startswith("gemma")
        file = write_spm(Path(room) / "vocabulary.gguf", padding_token_id=2, add_space_prefix=prefix)
        found = read_vocabulary(file)
        # Without those that its tokenizer.model has not.
        tokens, types, scores = (
            one[: _SENTENCEPIECE_SIZES["vocab_size"]] for one in (found.tokens, found.types, found.scores)
        )
        write_tokenizer(dataclasses.replace(found, tokens=tokens, types=types, scores=scores), path)
        shutil.copy(file.parent / "tokenizer.model", path)


def make_tiny(architecture: str, path: Path, seed: int = 0) -> Path:
    """Write a random bfloat16 checkpoint of `architecture`, a class of transformers, into `path` and return `path`."""
    import torch
    import transformers

    return make_tiny_of(getattr(transformers, architecture).config_class.model_type, path, seed, torch.bfloat16)


def make_tiny_of(model_type: str, path: Path, seed: int = 0, dtype: Any = None, *, lonely_expert: bool = False) -> Path:
    """The same of a model type; see `make_tiny`.

    Args:
        model_type: transformers' name.
        path: The folder.
        seed: Of the weights.
        dtype: Of the weights; bfloat16 when None.
        lonely_expert: Each token goes to one expert, and never to the last of each layer.
    """
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = tiny_config(model_type)
    if lonely_expert:
        config.num_experts_per_tok = 1
    model = AutoModelForCausalLM.from_config(config, dtype=dtype or torch.bfloat16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.mul_(3)
            elif "norm" in name and name.endswith("weight"):
                parameter.add_(0.5 * torch.rand(parameter.shape).to(parameter.dtype))
        model.get_input_embeddings().weight[:, ::16] *= 8
        if lonely_expert:
            for layer in model.model.layers:
                router = layer.mlp.gate.weight
                router[1], router[-1] = -router[0], 0
    model.save_pretrained(path)
    _make_tokenizer(model_type, path)
    return path


def make_tiny_reader(model_type: str, path: Path, **saving: Any) -> Any:
    """Write a random bfloat16 model of `model_type` that reads images too into `path`, and return it.

    Args:
        saving: Of `save_pretrained`.
    """
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForImageTextToText

    torch.manual_seed(0)
    config_class = CONFIG_MAPPING[model_type]
    # Gemma 4's are none by default.
    eyes = config_class().vision_config or CONFIG_MAPPING[f"{model_type}_vision"]()
    sizes = {name: size for name, size in _EYES.items() if name in eyes.to_dict()}
    text = tiny_config(config_class().get_text_config().model_type).to_dict()
    config = config_class(text_config=text, vision_config={**sizes, "model_type": eyes.model_type})
    for name in ("image_token_id", "image_token_index"):
        if hasattr(config, name):
            setattr(config, name, 400)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(path, **saving)
    make_tiny_tokenizer(path)
    return model
