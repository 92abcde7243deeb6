"""What is told of a model before anything is prepared: which source a word means, and its outline.

An outline comes from config.json or a GGUF header alone; the prepared checkpoint's record counts what is really there.
"""

import importlib.metadata
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from configs.errors import RequestError
from quantizers.checkpoints import gguf_header
from quantizers.checkpoints.chat_templates import has_chat_template
from quantizers.checkpoints.recognition import TELLING_FILES, refuse_adapter, refuse_quantized
from quantizers.checkpoints.sources import (
    GGUF_NAMES,
    FolderSource,
    GgufSource,
    HubSource,
    PackageGgufSource,
    SourceConfig,
    check_architecture,
    check_source,
    gguf_architecture,
    locate_gguf,
    read_config,
)
from registry.contracts.base import Record

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_TOLD_BY = ("config.json", "tokenizer_config.json", "chat_template.*", *TELLING_FILES)
"""What is fetched of a hub model: kilobytes."""


_MOST = 10**9
_MOST_OF = {"num_hidden_layers": 10_000, "block_count": 10_000}
"""No model has larger sizes; a file that says so is damaged, and would be worked on without end."""


class ModelOutline(Record):
    """Sizes of a dense decoder, as its config or header says."""

    name: str
    """Of its folder, file, package or hub id."""
    architecture: str
    """A key of GGUF_NAMES."""
    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    """Features between the two halves of an MLP."""
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    parameters: int
    """An upper estimate from a config, where embeddings that are perhaps tied count twice; exact from a GGUF header."""
    has_chat_template: bool

    @property
    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """The Linears that a method quantizes: module name -> (out_features, in_features)."""
        queries, pairs = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        hidden, inner = self.hidden_size, self.intermediate_size
        one = {
            "self_attn.q_proj": (queries, hidden),
            "self_attn.k_proj": (pairs, hidden),
            "self_attn.v_proj": (pairs, hidden),
            "self_attn.o_proj": (hidden, queries),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }
        if self.architecture == "Phi3ForCausalLM":  # It keeps what reads the same input as one matrix.
            one = {
                "self_attn.qkv_proj": (queries + 2 * pairs, hidden),
                "self_attn.o_proj": (hidden, queries),
                "mlp.gate_up_proj": (2 * inner, hidden),
                "mlp.down_proj": (hidden, inner),
            }
        return {
            f"model.layers.{layer}.{name}": shape
            for layer in range(self.num_hidden_layers)
            for name, shape in one.items()
        }

    def kv_bytes_per_token(self, bytes_per_value: int) -> int:
        """What the KV cache holds of one token; where some layers look back a window only, an upper estimate."""
        return 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim * bytes_per_value


def source_named(model: str) -> SourceConfig:
    """The source that a word means: a folder, a GGUF file, an installed package with one, or `org/name[@revision]`.

    A hub model's revision becomes the commit that it points to now, so the hub, or what it left on this disk, is asked.

    Raises:
        RequestError: It is none of these, a recipe cannot hold its path, or the hub does not answer.
    """
    path = Path(model)
    try:
        if path.is_dir():
            return FolderSource(kind="folder", path=path.absolute())
        if path.is_file():
            return GgufSource(kind="gguf", path=path.absolute())
    except ValidationError as error:
        raise RequestError(
            f"{model!r} cannot stand in a recipe: {error.errors()[0]['msg']}", remedy="rename it, or link to it"
        ) from None
    except OSError as error:
        raise RequestError(f"{model:.80} cannot be looked at: {error.strerror}", remedy="name another path") from error
    hub_id, _, revision = model.partition("@")
    if _HUB_ID.fullmatch(hub_id) and (revision or not path.parent.exists()):
        return HubSource(kind="hub", id=hub_id, revision=told_folder(hub_id, revision or "main").name)
    if re.fullmatch(r"[\w.-]+", model) and _is_installed(model):
        return PackageGgufSource(kind="package_gguf", package=model)
    raise RequestError(
        f"{model!r} is no model: neither a folder, nor a GGUF file, nor an installed package, nor a hub id",
        remedy="name a folder with config.json, a .gguf file, a package that holds one, or org/name[@revision]",
    )


def outline_of(source: SourceConfig) -> ModelOutline:
    """Read the outline; no weight is read, and none is fetched.

    Raises:
        RequestError: The source is refused (`sources.check_source`), or does not tell a size.
    """
    check_source(source)
    match source:
        case FolderSource():
            return outline_of_folder(source.path)
        case HubSource():
            folder = told_folder(source.id, source.revision)
            refuse_adapter(folder)
            refuse_quantized(folder, read_config(folder), {})
            return outline_of_folder(folder, source.id.rpartition("/")[2])
        case PackageGgufSource():
            return _from_gguf(source.package, locate_gguf(source))
        case GgufSource():
            return _from_gguf(source.path.stem, source.path)


def outline_of_folder(folder: Path, name: str | None = None) -> ModelOutline:
    """Read the outline from a folder's config.json, quantized or not.

    Raises:
        RequestError: Its sizes do not tell its Linears, or one is not told.
    """
    config = read_config(folder)
    check_architecture(config, folder)
    place = folder / "config.json"
    architecture = config["architectures"][0]
    if architecture not in GGUF_NAMES:
        raise RequestError(
            f"the sizes in {place} do not tell the Linears of {architecture}",
            remedy="write its recipe from one of configs/recipes; `quantbench plan` says what this model takes",
        )
    sizes = {
        key: _size(config, key, place)
        for key in (
            "num_hidden_layers",
            "hidden_size",
            "intermediate_size",
            "num_attention_heads",
            "max_position_embeddings",
        )
    }
    heads = sizes["num_attention_heads"]
    outline = ModelOutline(
        name=name or folder.name,
        architecture=architecture,
        **sizes,
        num_key_value_heads=_size(config, "num_key_value_heads", place, heads),
        head_dim=_size(config, "head_dim", place, sizes["hidden_size"] // heads),
        parameters=0,
        has_chat_template=has_chat_template(folder),
    )
    embeddings = 1 if config.get("tie_word_embeddings") else 2
    vocabulary = _size(config, "vocab_size", place)
    return outline.model_copy(
        update={"parameters": _in_layers(outline) + embeddings * vocabulary * outline.hidden_size}
    )


def _in_layers(outline: ModelOutline) -> int:
    return sum(rows * columns for rows, columns in outline.linear_shapes.values())


def _from_gguf(name: str, path: Path) -> ModelOutline:
    try:
        architecture = gguf_architecture(path)
        kind = GGUF_NAMES[architecture]
        told = gguf_header.metadata(path, (f"{kind}.", "tokenizer.chat_template"), lists=False)
        parameters = gguf_header.element_count(path)
    except ValueError as error:
        raise RequestError(f"the header of {path} is broken: {error}", remedy="fetch the file again") from error
    heads, hidden = (_size(told, f"{kind}.{key}", path) for key in ("attention.head_count", "embedding_length"))
    return ModelOutline(
        name=name,
        architecture=architecture,
        num_hidden_layers=_size(told, f"{kind}.block_count", path),
        hidden_size=hidden,
        intermediate_size=_size(told, f"{kind}.feed_forward_length", path),
        num_attention_heads=heads,
        num_key_value_heads=_size(told, f"{kind}.attention.head_count_kv", path, heads),
        head_dim=_size(told, f"{kind}.attention.key_length", path, hidden // heads),
        max_position_embeddings=_size(told, f"{kind}.context_length", path),
        parameters=parameters,
        has_chat_template="tokenizer.chat_template" in told,
    )


def _size(told: Mapping[str, Any], key: str, place: Path, default: int | None = None) -> int:
    value = default if told.get(key) is None else told[key]
    # True is a whole number to Python.
    if type(value) is not int or not 1 <= value <= _MOST_OF.get(key.rpartition(".")[2], _MOST):
        raise RequestError(f"{place} says {key}: {value!r:.40}", remedy="fetch it again, or name another checkpoint")
    return value


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def told_folder(model_id: str, revision: str) -> Path:
    """The snapshot's folder in the hub's cache, named by its commit; holds config and tokenizer config at least."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model_id, revision=revision, allow_patterns=list(_TOLD_BY)))
    except Exception as error:  # The hub's client raises dozens of types; all of them mean the same to a user.
        reason = str(error).strip().splitlines()[0]
        raise RequestError(
            f"{model_id} at {revision} cannot be looked at: it is no folder or file here, and the hub does not give it"
            f" ({type(error).__name__}: {reason})",
            remedy="check id, revision and network, or fetch the model elsewhere and name its folder",
        ) from error
