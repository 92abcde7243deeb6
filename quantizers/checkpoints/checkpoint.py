"""The prepare stage: any source becomes a folder of safetensors with its tokenizer, and a record of what is in it."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import shutil
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import RequestError, StageError, naming
from quantizers.checkpoints.chat_templates import check_chat_templates, has_chat_template
from quantizers.checkpoints.completeness import refuse_incomplete
from quantizers.checkpoints.declared_license import CARD, license_of_card, license_of_gguf
from quantizers.checkpoints.gguf_tokenizer import write_tokenizer
from quantizers.checkpoints.gguf_vocabulary import GgufVocabulary, read_vocabulary
from quantizers.checkpoints.gguf_weights import load_weights
from quantizers.checkpoints.older_readers import keep_readable
from quantizers.checkpoints.recognition import TELLING_FILES
from quantizers.checkpoints.safetensors_header import FLOATS, WEIGHTS_INDEX, read_headers, weight_files
from quantizers.checkpoints.sources import (
    FolderSource,
    GgufSource,
    HubSource,
    PackageGgufSource,
    SourceConfig,
    check_architecture,
    check_folder,
    check_gguf,
    locate_gguf,
    read_config,
)
from quantizers.checkpoints.text_part import Part, write_text_part
from quantizers.checkpoints.tokenizer_files import TOKENIZER_PATTERNS
from quantizers.checkpoints.tokenizer_proof import ProvedTokenizer, prove_folder, prove_gguf
from quantizers.checkpoints.weight_values import beyond_float16
from registry.contracts import CheckpointRecord, FilesJob
from registry.contracts.base import DType
from registry.files import write_text_atomically
from registry.hashing import digest_of_file, manifest_of
from registry.os_faults import check_not_refused
from registry.shared_bytes import Sharing, share

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from registry.stage_process import StageClock

logger = logging.getLogger(__name__)

_COMPANIONS = (
    "config.json",
    "generation_config.json",
    *TOKENIZER_PATTERNS,
    WEIGHTS_INDEX,
    "LICENSE*",
)
"""What belongs to a checkpoint besides its weights. A list of what may come in: pickles and scripts stay outside."""


_OF_PART: dict[Part, str] = {"all": "", "text": "the text part of "}


class PrepareJob(FilesJob):
    """Turn a source into a safetensors checkpoint in `output_dir`."""

    source: SourceConfig
    dtype: DType
    """What GGUF weights are written as; sources that are safetensors already keep their own."""


def prepare(job: PrepareJob, clock: StageClock) -> tuple[CheckpointRecord, dict[str, str]]:
    """Write the checkpoint into `job.output_dir`.

    Returns:
        The record, and distribution name -> version of the libraries that shaped the files.

    Raises:
        RequestError: The source is refused (see quantizers.checkpoints.sources.check_source), or its tokenizer cannot
            be written so that texts have the token ids that the source's own rules give them.
        StageError: A GGUF file or a download broke off.
    """
    versions: dict[str, str] = {}
    sharing: Sharing | None = None
    match job.source:
        case FolderSource(path=path, part=part):
            with clock.part("copy"):
                sharing = _take_folder(path, job.output_dir, part)
            with clock.part("tokenizer"):
                proved = prove_folder(job.output_dir, path)
            origin, original, declared = f"{_OF_PART[part]}folder {path.name}", str(path), license_of_card(path)
        case HubSource(id=model_id, revision=revision, part=part):
            with clock.part("download"):
                snapshot = download(model_id, revision)
            with clock.part("copy"):
                sharing = _take_folder(snapshot, job.output_dir, part)
            with clock.part("tokenizer"):
                proved = prove_folder(job.output_dir, snapshot)
            original = f"{model_id}@{snapshot.name}"
            origin = f"{_OF_PART[part]}hub {original}"
            declared = license_of_card(snapshot)
        case GgufSource() | PackageGgufSource():
            path = locate_gguf(job.source)
            check_gguf(path)
            proved = _convert_gguf(path, job.dtype, job.output_dir, clock)
            origin, original = f"gguf {path.name} ({digest_of_file(path)})", str(path)
            declared = license_of_gguf(path)
            versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "gguf")}
    with clock.part("check"), naming(job.output_dir, original):
        check_chat_templates(job.output_dir)
        record = describe(job.output_dir, origin=origin, note=job.source.note)
    told = {"text_opening": proved.opening, "tokenizer_proof": proved.proof, "license": declared, "weights": sharing}
    return record.model_copy(update=told), versions


def describe(folder: Path, *, origin: str, note: str | None = None) -> CheckpointRecord:
    """The record of a safetensors checkpoint.

    Raises:
        RequestError: Tensors are missing, foreign, of another shape, contradictory or not finite, or the tokenizer
            does not load.
    """
    check_architecture(read_config(folder), folder)
    config, linears, left_whole, passed_over = refuse_incomplete(folder)
    headers = read_headers(folder)
    beyond = beyond_float16(folder)
    tokenizer = _tokenizer(folder)
    manifest = manifest_of(folder)
    bytes_by_dtype: dict[str, int] = {}
    for info in headers.values():
        bytes_by_dtype[info.dtype] = bytes_by_dtype.get(info.dtype, 0) + info.size_bytes
    stored = max(bytes_by_dtype, key=lambda name: bytes_by_dtype[name])
    return CheckpointRecord(
        digest=manifest.digest,
        size_bytes=manifest.size_bytes,
        architecture=config.architectures[0],
        parameters=sum(
            prod(info.shape)
            for name, info in headers.items()
            if name not in passed_over and not (config.tie_word_embeddings and name == "lm_head.weight")
        ),
        dtype=FLOATS[stored],
        max_position_embeddings=_whole_number(config, "max_position_embeddings", folder),
        positions=positions(config),
        sliding_window=sliding_window(config),
        tie_word_embeddings=config.tie_word_embeddings,
        linear_shapes={
            name.removesuffix(".weight"): (info.shape[0], info.shape[1])
            for name, info in headers.items()
            if name.removesuffix(".weight") in linears
        },
        left_whole=sorted(left_whole),
        passed_over=sorted(passed_over),
        beyond_float16=beyond,
        num_attention_heads=_whole_number(config, "num_attention_heads", folder),
        num_key_value_heads=_key_value_heads(config, folder),
        head_size=_head_size(config),
        embedding_rows=config.vocab_size,
        has_bos_or_eos=tokenizer.bos_token_id is not None or tokenizer.eos_token_id is not None,
        has_chat_template=has_chat_template(folder),
        origin=origin,
        note=note,
    )


def positions(config: PretrainedConfig) -> int:
    """Tokens that a model reads at most, by vLLM's reckoning (vllm/config/model.py, `_get_and_verify_max_len`).

    Linear and dynamic rope scaling come on top of `max_position_embeddings`; every other kind, and Gemma 3's, is in it.
    """
    scaling: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    # Models with layers of several kinds have parameters for each kind.
    kinds = [scaling] if "rope_type" in scaling else [kind for kind in scaling.values() if isinstance(kind, dict)]
    factors = [kind.get("factor") or 1.0 for kind in kinds if kind.get("rope_type") in ("linear", "dynamic")]
    scaled = factors and not config.model_type.startswith("gemma3")
    return int(config.max_position_embeddings * (max(factors) if scaled else 1.0))


def sliding_window(config: PretrainedConfig) -> int | None:
    """Tokens that some of a model's layers look back; None where all layers are of one kind."""
    kinds = set(getattr(config, "layer_types", None) or ())
    return getattr(config, "sliding_window", None) if len(kinds) > 1 else None


def _take_folder(source: Path, target: Path, part: Part) -> Sharing:
    check_folder(source, part)
    if part == "all":
        return take_files(source, target)
    _take_companions(source, target)
    (target / WEIGHTS_INDEX).unlink(missing_ok=True)
    write_text_part(source, target)
    _complete(target)
    return "copied"


def _take_companions(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    wanted = {path for pattern in _COMPANIONS for path in source.glob(pattern) if path.is_file()}
    for path in sorted(wanted - set(weight_files(source))):
        shutil.copyfile(path, target / path.name)  # some of them are written anew


def take_files(source: Path, target: Path) -> Sharing:
    """A model's files into `target`; whether its weights, the most of it, share their bytes with the source's."""
    _take_companions(source, target)
    weights = weight_files(source)
    found = {share(path, target / path.name) for path in weights}
    _complete(target)
    sharing: Sharing = "copied" if "copied" in found else "linked" if "linked" in found else "cloned"
    if sharing == "copied":
        size = sum(path.stat().st_size for path in weights)
        logger.warning(
            "%.1f GiB of weights were copied: the workspace's file system shares no bytes with %s. It does where both"
            " are on one XFS or btrfs, or on one file system and nobody may write into the weights (chmod a-w)",
            size / 2**30,
            source,
        )
    return sharing


def _complete(folder: Path) -> None:
    if len(weight_files(folder)) > 1 and not (folder / WEIGHTS_INDEX).exists():
        _write_index(folder)
    keep_readable(folder)


def _write_index(folder: Path) -> None:
    """Name the shards of a complete set: transformers reads shards by the index only, other engines without it too."""
    headers = read_headers(folder)
    index = {
        "metadata": {"total_size": sum(info.size_bytes for info in headers.values())},
        "weight_map": {name: headers[name].file.name for name in sorted(headers)},
    }
    write_text_atomically(folder / WEIGHTS_INDEX, json.dumps(index, indent=2))


def download(model_id: str, revision: str) -> Path:
    """The snapshot's folder in the hub's cache, named by its commit."""
    from huggingface_hub import snapshot_download

    try:
        wanted = [*_COMPANIONS, *TELLING_FILES, CARD, "*.safetensors"]
        folder = snapshot_download(model_id, revision=revision, allow_patterns=wanted)
    except Exception as error:  # The hub's client raises dozens of types; all of them mean the same to a user.
        check_not_refused(error, f"fetching {model_id}", Path.home())
        raise StageError(
            f"{model_id} at revision {revision} cannot be fetched from the hub: {type(error).__name__}: {error}",
            remedy="check id, revision and network, or fetch the model elsewhere and use `kind: folder`",
            blame="source",
        ) from error
    return Path(folder)


def _convert_gguf(path: Path, dtype: DType, target: Path, clock: StageClock) -> ProvedTokenizer:
    vocabulary = read_vocabulary(path)
    with clock.part("import"):
        import transformers  # noqa: F401 - or the first part that needs it would be charged for it
    with clock.part("load"):
        model = load_weights(path, dtype)
    with clock.part("save"):
        _name_special_tokens(model, vocabulary)
        model.save_pretrained(target)
    with clock.part("tokenizer"):
        write_tokenizer(vocabulary, target)
        keep_readable(target)
        return prove_gguf(vocabulary, target, path)


def _name_special_tokens(model: Any, vocabulary: GgufVocabulary) -> None:
    """As the vocabulary numbers them; an answer ends with a turn too, which transformers' conversion does not know."""
    named = {"bos": vocabulary.bos, "eos": vocabulary.eos, "pad": vocabulary.pad}
    for name, token in named.items():
        setattr(model.config, f"{name}_token_id", token)
        setattr(model.generation_config, f"{name}_token_id", token)
    if len(vocabulary.ends) > 1:
        model.generation_config.eos_token_id = vocabulary.ends


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # transformers raises whatever a file makes it stumble over.
        raise RequestError(
            f"transformers cannot read the tokenizer in {folder}: {type(error).__name__}: {error}",
            remedy="fetch the tokenizer's files again",
        ) from error


def _head_size(config: PretrainedConfig) -> int:
    """The largest one where layers differ (Gemma 4)."""
    configs = _configs_of(config)
    return max(int(getattr(one, "head_dim", None) or one.hidden_size // one.num_attention_heads) for one in configs)


def _key_value_heads(config: PretrainedConfig, folder: Path) -> int:
    """As many as attention heads where the config does not say, as the model's class has it; the fewest of a layer."""
    key = "num_key_value_heads"
    return min(
        _whole_number(one, "num_attention_heads" if getattr(one, key, None) is None else key, folder)
        for one in _configs_of(config)
    )


def _configs_of(config: PretrainedConfig) -> Sequence[PretrainedConfig]:
    """A config for each layer where layers differ, since transformers gives no number for all then; else the one."""
    return tuple(config.per_layer_config) if config.is_heterogeneous else (config,)


def _whole_number(config: PretrainedConfig, key: str, folder: Path) -> int:
    value = getattr(config, key, None)
    if not isinstance(value, int) or value < 1:
        raise RequestError(f"{folder}/config.json says {key}: {value!r}", remedy=f"write the model's own {key} there")
    return value
