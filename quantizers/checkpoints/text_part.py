"""The language model of a checkpoint that reads images or sound too, as a checkpoint of its own.

Such a checkpoint has the language model's config inside its own (`text_config`), and the tensors under a prefix, which
differs from class to class and from version to version of transformers. The input embedding tells it: there is one.
Everything else stays behind. Whether what was taken is whole is asked of the language model's class, as of any source.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from configs.errors import RequestError
from quantizers.checkpoints.architectures import architecture_table
from quantizers.checkpoints.safetensors_header import SINGLE_FILE, TensorInfo, read_headers
from registry.files import write_text_atomically

Part = Literal["all", "text"]

_EMBEDDING, _HEAD = "embed_tokens.weight", "lm_head.weight"
_BASE = "model."
"""Under which a language model's own checkpoint has all but its head."""


def text_architecture(config: Mapping[str, Any]) -> str | None:
    """The architecture of the language model inside a model's config; None where there is none that is made here."""
    kind, known = _inner_kind(config), architecture_table().architectures
    return next((name for name, row in known.items() if row.model_type == kind), None)


def as_text(config: Mapping[str, Any], place: Path) -> dict[str, Any]:
    """The language model's members of a whole model's config (RequestError where none is made here)."""
    architecture = text_architecture(config)
    if architecture is None:
        told = f"says text_config.model_type: {_inner_kind(config)!r}" if config.get("text_config") else "has none"
        raise RequestError(
            f"{place} has no text part that is made here: its config.json {told}",
            remedy="leave `part` out where it is a language model as a whole; docs/models.md has what is made",
        )
    return {**config["text_config"], "architectures": [architecture]}


def _inner_kind(config: Mapping[str, Any]) -> str | None:
    inner = config.get("text_config")
    return inner.get("model_type") if isinstance(inner, dict) else None


def own_names(headers: Mapping[str, TensorInfo], place: Path) -> dict[str, str]:
    """Tensor of the whole checkpoint -> its name in the language model's own (RequestError where that is not told)."""
    embeddings = [name for name in headers if name.endswith(f".{_EMBEDDING}")]
    if len(embeddings) != 1:
        raise RequestError(
            f"the text part of {place} is not told by its tensors: {len(embeddings)} end with {_EMBEDDING}",
            remedy="take its language model out with its own tools, and name that",
        )
    prefix = embeddings[0].removesuffix(_EMBEDDING)
    found = {name: _BASE + name.removeprefix(prefix) for name in headers if name.startswith(prefix)}
    return found | {name: _HEAD for name in headers if name == _HEAD or name.endswith(f".{_HEAD}")}


def write_text_part(source: Path, target: Path) -> None:
    """Write config.json and weights of the language model in `source` into `target`, which is there; a shard at a time.

    Raises:
        RequestError: The source has no text part that is made here, or transformers does not know the whole model.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file
    from transformers import AutoConfig

    headers = read_headers(source)
    names = own_names(headers, source)
    try:
        whole = AutoConfig.from_pretrained(source)
    except Exception as error:  # transformers raises whatever a config makes it stumble over.
        raise RequestError(
            f"transformers cannot read {source}/config.json: {type(error).__name__}: {error}",
            remedy="take its language model out with its own tools, and name that",
        ) from error
    config = whole.get_text_config()
    config.architectures = as_text(whole.to_dict(), source)["architectures"]
    # What the whole model's class does with its head, which its language model's may do otherwise.
    tied_without = _HEAD not in names.values() and config.tie_word_embeddings
    config.tie_word_embeddings = bool(whole.tie_word_embeddings or tied_without)
    members = {**config.to_dict(), "dtype": str(whole.dtype or config.dtype).removeprefix("torch.")}
    write_text_atomically(target / "config.json", json.dumps(members, indent=2, sort_keys=True) + "\n")
    shards: dict[Path, list[str]] = defaultdict(list)
    for name in names:
        shards[headers[name].file].append(name)
    for number, (file, held) in enumerate(sorted(shards.items()), 1):
        name = SINGLE_FILE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        with safe_open(file, framework="pt") as opened:
            save_file({names[one]: opened.get_tensor(one) for one in held}, target / name, {"format": "pt"})
