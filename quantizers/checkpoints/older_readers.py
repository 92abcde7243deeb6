"""What transformers 4, and the servers that stand on it, need in a folder that transformers 5 wrote.

transformers 5 renamed what it writes into config.json and tokenizer_config.json. transformers 4 refuses the new name of
the tokenizers' class, and takes its own defaults for the rest without a word: a model whose rotary base is another one
then answers rubbish. transformers 5 reads the old names too (configuration_utils.py, modeling_rope_utils.py,
tokenization_utils_base.py), so they are written beside the new ones.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from configs.reading.json_text import read_json_object
from registry.files import write_text_atomically

Members = dict[str, Any]

# Class names of transformers 5 that transformers 4 does not have; the old one means the same to both.
_TOKENIZER_CLASSES = {"TokenizersBackend": "PreTrainedTokenizerFast"}

_OLDER_ROPES = frozenset({"default", "linear", "dynamic", "yarn", "longrope", "llama3"})
"""Rotary embeddings that transformers 4 knows. Old names for another one are read by transformers 5 too, which then
refuses what it has not been given with them."""


def keep_readable(folder: Path) -> None:
    """Write the old names beside the new ones in `folder`; a file that needs none is left byte for byte."""
    _rewrite(folder / "config.json", with_older_model_names)
    _rewrite(folder / "tokenizer_config.json", with_older_tokenizer_names)


def with_older_model_names(config: Members) -> Members:
    """config.json with `torch_dtype`, `rope_theta` and `rope_scaling` where it has `dtype` and `rope_parameters`, and
    Gemma 3's `sliding_window_pattern`.
    """
    added: Members = {}
    if "dtype" in config:
        added["torch_dtype"] = config["dtype"]
    rope = config.get("rope_parameters")
    if isinstance(rope, dict) and _OLDER_ROPES.issuperset(_rope_types(rope)):
        # Gemma 3 has a table for each kind of layer, and the old name of the other one's base is its own.
        whole = rope.get("full_attention", rope)
        local = rope.get("sliding_attention")
        added |= _older_rope(whole) if isinstance(whole, dict) else {}
        if isinstance(local, dict) and "rope_theta" in local:
            added["rope_local_base_freq"] = local["rope_theta"]
    # Before 4.53 Gemma 3's full layers are each n-th, whatever `layer_types` says.
    if str(config.get("model_type")).startswith("gemma3") and isinstance(config.get("layer_types"), list):
        kinds = config["layer_types"]
        every = kinds.index("full_attention") + 1 if "full_attention" in kinds else len(kinds) + 1
        if [kind == "full_attention" for kind in kinds] == [n % every == 0 for n in range(1, len(kinds) + 1)]:
            added["sliding_window_pattern"] = every
    return config | {name: value for name, value in added.items() if name not in config}


def _rope_types(rope: Members) -> set[Any]:
    kinds = [kind for kind in rope.values() if isinstance(kind, dict)] or [rope]
    return {kind.get("rope_type", "default") for kind in kinds}


def _older_rope(rope: Members) -> Members:
    found: Members = {name: rope[name] for name in ("rope_theta", "partial_rotary_factor") if name in rope}
    scaling = {name: value for name, value in rope.items() if name not in found}
    if scaling.get("rope_type", "default") != "default":
        found["rope_scaling"] = scaling
    return found


def with_older_tokenizer_names(config: Members) -> Members:
    """tokenizer_config.json with a class, and a list of further special tokens, by names that both know."""
    changed = dict(config)
    if config.get("tokenizer_class") in _TOKENIZER_CLASSES:
        changed["tokenizer_class"] = _TOKENIZER_CLASSES[config["tokenizer_class"]]
    # A mapping has the same name in both; a list is transformers 5's, and ends transformers 4 with an AttributeError.
    if isinstance(config.get("extra_special_tokens"), list):
        changed.setdefault("additional_special_tokens", changed.pop("extra_special_tokens"))
    return changed


def _rewrite(path: Path, changed: Callable[[Members], Members]) -> None:
    if not path.is_file():
        return
    members = read_json_object(path)
    wanted = changed(members)
    if wanted != members:
        write_text_atomically(path, json.dumps(wanted, indent=2, ensure_ascii=False) + "\n")
