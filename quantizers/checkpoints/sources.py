"""Where a model comes from, and everything that can be refused about it before a stage is started."""

import difflib
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from configs.base import StrictModel
from configs.errors import RequestError
from configs.quantities import Label, LocalPath
from configs.reading.json_text import read_json_object
from quantizers.checkpoints import gguf_header
from quantizers.checkpoints.architectures import architecture_table
from quantizers.checkpoints.chat_templates import check_chat_templates
from quantizers.checkpoints.expert_names import packed_experts
from quantizers.checkpoints.gguf_vocabulary import check_vocabulary
from quantizers.checkpoints.model_texts import check_model_texts
from quantizers.checkpoints.recognition import refuse_adapter, refuse_quantized, refuse_unfetched
from quantizers.checkpoints.safetensors_header import (
    SINGLE_FILE,
    WEIGHTS_INDEX,
    TensorInfo,
    read_headers,
    weight_files,
)
from quantizers.checkpoints.text_part import Part, as_text, own_names, text_architecture
from quantizers.checkpoints.tokenizer_files import tokenizer_files
from registry.shared_bytes import would_share

GGUF_NAMES: dict[str, str] = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3",
    "Phi3ForCausalLM": "phi3",
    "SmolLM3ForCausalLM": "smollm3",
}
"""Architecture -> GGUF's name for it, of those whose GGUF files are read, and whose outline sizes alone tell."""

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


class _Source(StrictModel):
    note: str | None = None
    """Shown wherever the model's numbers are shown, such as: rounded to 4 bits once before."""


class _CheckpointSource(_Source):
    part: Part = "all"
    """`text`: of a model that reads images or sound too, its language model alone; the rest is left behind."""


class FolderSource(_CheckpointSource):
    """A folder with safetensors, config.json and tokenizer."""

    kind: Literal["folder"]
    path: LocalPath


class GgufSource(_Source):
    """A GGUF file; its weights are dequantized."""

    kind: Literal["gguf"]
    path: LocalPath


class PackageGgufSource(_Source):
    """A GGUF file that an installed Python distribution carries; the distribution's code is never run."""

    kind: Literal["package_gguf"]
    package: Label
    file: Label = "*.gguf"
    """Glob over the distribution's files; it has to match exactly one."""


class HubSource(_CheckpointSource):
    """A Hugging Face model at a revision."""

    kind: Literal["hub"]
    id: Annotated[Label, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    revision: Label
    """A commit, or a tag or branch, such as `main`: each run asks the hub which commit that is now, and records it."""


SourceConfig = Annotated[FolderSource | GgufSource | PackageGgufSource | HubSource, Field(discriminator="kind")]


def check_source(source: SourceConfig) -> None:
    """Refuse what prepare would refuse, in milliseconds and without the network.

    Raises:
        RequestError: Missing files, pickle weights, remote code, an unsupported architecture, a missing tokenizer,
            a checkpoint that is quantized already, or something that is no model at all.
    """
    match source:
        case FolderSource():
            check_folder(source.path, source.part)
        case GgufSource() | PackageGgufSource():
            check_gguf(locate_gguf(source))
        case HubSource():
            # What the hub holds is seen after the download; the id's form was checked by the model itself.
            return


def checkpoint_bytes(source: SourceConfig) -> int | None:
    """What the prepared checkpoint's weights take on disk; None for a hub model that was not downloaded before.

    A GGUF file's weights become bfloat16, two bytes each.

    Raises:
        RequestError: The folder's index or the GGUF header is broken.
    """
    match source:
        case FolderSource(part="text"):
            headers = read_headers(source.path)
            return sum(headers[name].size_bytes for name in own_names(headers, source.path))
        case FolderSource():
            return sum(path.stat().st_size for path in weight_files(source.path))
        case HubSource():
            return _downloaded_bytes(source)
        case GgufSource() | PackageGgufSource():
            path = locate_gguf(source)
            try:
                return 2 * gguf_header.element_count(path)
            except ValueError as error:
                raise RequestError(f"the header of {path} is broken: {error}", remedy="fetch the file again") from error


def shared_bytes(source: SourceConfig, folder: Path) -> int:
    """How many of `checkpoint_bytes` are not written a second time into `folder`, which is there.

    Raises:
        RequestError: The folder's index is broken.
    """
    match source:
        case FolderSource(part="text") | HubSource(part="text"):
            return 0
        case FolderSource():
            weights = weight_files(source.path)
        case HubSource():
            found = _downloaded(source)
            weights = sorted(found.parent.glob("*.safetensors")) if found else []
        case GgufSource() | PackageGgufSource():
            return 0
    return sum(path.stat().st_size for path in weights if would_share(path, folder))


def _downloaded_bytes(source: HubSource) -> int | None:
    """The same from what lies in the hub's cache on this disk."""
    found = _downloaded(source)
    if found is None or found.name != WEIGHTS_INDEX:
        return found.stat().st_size if found else None
    # A download that broke off leaves an index without all of its shards.
    total = _members(found).get("metadata", {}).get("total_size")
    return int(total) if total is not None else None


def _downloaded(source: HubSource) -> Path | None:
    """The shards' index in the hub's cache, or the only file; None where neither is there."""
    from huggingface_hub import try_to_load_from_cache

    names = (WEIGHTS_INDEX, SINGLE_FILE)
    found = (try_to_load_from_cache(source.id, name, revision=source.revision) for name in names)
    return next((Path(path) for path in found if isinstance(path, str)), None)


def check_folder(folder: Path, part: Part = "all") -> None:
    """Refuse a folder that is no safe, complete, supported safetensors checkpoint (RequestError)."""
    config, headers = check_files(folder, part)
    refuse_quantized(folder, config, headers)
    _refuse_packed_experts(folder, headers)
    if not any(info.dtype in ("F32", "BF16", "F16") and len(info.shape) == 2 for info in headers.values()):
        raise RequestError(
            f"the safetensors in {folder} hold no weight matrices in float32, bfloat16 or float16",
            remedy="name a checkpoint in one of these types",
        )


def _refuse_packed_experts(folder: Path, headers: Mapping[str, TensorInfo]) -> None:
    """Of a class that has experts by a switch of its config (Gemma 4), all but them would be made smaller."""
    if packed := packed_experts({name: info.shape for name, info in headers.items()}):
        raise RequestError(
            f"the files in {folder} keep a layer's experts in one tensor ({packed[0]} and {len(packed) - 1} more),"
            " which no method takes apart: they would stay in 16 bits",
            remedy="name a model without such experts; docs/models.md has the mixtures that are made",
        )


def check_files(folder: Path, part: Part = "all") -> tuple[dict[str, Any], dict[str, TensorInfo]]:
    """Refuse a folder that is no safe, complete, supported model in safetensors, quantized or not (RequestError).

    Returns:
        config.json's members, and the headers of all tensors.
    """
    refuse_adapter(folder)
    config = read_config(folder)
    _refuse_remote_code(folder, config)
    check_model_texts(folder)
    check_architecture(as_text(config, folder) if part == "text" else config, folder)
    files = weight_files(folder)
    if not files:
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)
        if pickles:
            raise RequestError(
                f"{folder} holds pickle weights only ({', '.join(pickles[:3])}), which run code when they are loaded",
                remedy="convert the checkpoint to safetensors on a machine that you can lose",
            )
        raise RequestError(f"{folder} holds no weights", remedy="put the *.safetensors files beside config.json")
    refuse_unfetched([*files, *tokenizer_files(folder)])
    headers = read_headers(folder)
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise RequestError(
            f"{folder} holds no tokenizer ({', '.join(_TOKENIZER_FILES)})",
            remedy="copy the tokenizer's files from the place that the weights came from",
        )
    check_chat_templates(folder)
    if part == "text":
        own_names(headers, folder)
    return config, headers


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder without members that are null, which means absent (RequestError without one)."""
    path = folder / "config.json"
    if not folder.is_dir():
        raise RequestError(f"the model folder {folder} does not exist", remedy="mend the source's path")
    if not path.is_file():
        raise RequestError(f"{folder} is no model: it has no config.json", remedy="name the folder of a checkpoint")
    refuse_unfetched([path])
    return _members(path)


def _members(path: Path) -> dict[str, Any]:
    """The members of a JSON object without those that are null."""
    return {key: value for key, value in read_json_object(path).items() if value is not None}


def check_architecture(config: dict[str, Any], place: Path) -> None:
    """Refuse a config whose architecture no method makes or no engine serves (RequestError with the nearest name)."""
    named = config.get("architectures") or []
    if not named:
        raise RequestError(f"{place} is no model: its config.json names no architecture", remedy=_supported())
    table = architecture_table()
    if named[0] not in table.architectures and (inner := text_architecture(config)):
        raise RequestError(
            f"the model in {place}, {named[0]}, reads more than text, which is not quantized here",
            remedy=f"set `part: text` in its source for its language model alone, {inner}",
        )
    if named[0] not in table.architectures:
        why = table.unknown.get(named[0], "transformers does not know it")
        raise RequestError(
            f"the architecture {named[0]} in {place} is not supported: {why}", remedy=_supported(named[0])
        )


def told_architecture(source: SourceConfig) -> str | None:
    """The architecture that a sound source's config or header names; None where it has to be fetched to be known."""
    match source:
        case FolderSource():
            config = read_config(source.path)
            return str((as_text(config, source.path) if source.part == "text" else config)["architectures"][0])
        case HubSource():
            return None
        case GgufSource() | PackageGgufSource():
            return gguf_architecture(locate_gguf(source))


def gguf_architecture(path: Path) -> str:
    """The architecture that a sound GGUF file's header means."""
    kind = gguf_header.architecture(path)
    return next(one for one, of_gguf in GGUF_NAMES.items() if of_gguf == kind)


def locate_gguf(source: GgufSource | PackageGgufSource) -> Path:
    """The GGUF file that a source means.

    Raises:
        RequestError: The file or the distribution is missing, or the glob does not match exactly one file.
    """
    if isinstance(source, GgufSource):
        if not source.path.is_file():
            raise RequestError(f"the GGUF file {source.path} does not exist", remedy="mend the source's path")
        return source.path
    try:
        files = importlib.metadata.files(source.package) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise RequestError(
            f"the Python distribution {source.package!r} is not installed", remedy=f"pip install {source.package}"
        ) from error
    found = [Path(str(file.locate())) for file in files if file.match(source.file)]
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise RequestError(
            f"{source.file!r} has to match one file of the distribution {source.package!r}; it matches: {names}",
            remedy="set the source's `file`",
        )
    return found[0]


def check_gguf(path: Path) -> None:
    """Refuse a file that is not a whole GGUF model, or has an unsupported architecture or tokenizer (RequestError)."""
    refuse_unfetched([path])
    try:
        parts = gguf_header.split_count(path)
        name = gguf_header.architecture(path) if parts <= 1 else ""
        if parts <= 1:
            gguf_header.tensors(path)
    except ValueError as error:
        raise RequestError(
            f"{path} is no model: {error}", remedy="name a whole GGUF file of version 2 or 3, or fetch it again"
        ) from error
    if parts > 1:
        raise RequestError(
            f"{path} is one of {parts} parts of a model",
            remedy="join them first (llama.cpp: `llama-gguf-split --merge FIRST_PART WHOLE`) and name the whole file",
        )
    if name not in GGUF_NAMES.values():
        raise RequestError(f"the GGUF architecture {name!r} in {path} is not supported", remedy=_supported(name))
    check_vocabulary(path)


def _refuse_remote_code(folder: Path, config: dict[str, Any]) -> None:
    tokenizer = folder / "tokenizer_config.json"
    mapped = "auto_map" in config or (tokenizer.is_file() and "auto_map" in _members(tokenizer))
    scripts = sorted(path.name for path in folder.glob("*.py"))
    if mapped or scripts:
        what = f"Python files ({', '.join(scripts[:3])})" if scripts else "an `auto_map` that names Python code"
        raise RequestError(
            f"the checkpoint in {folder} brings {what}; code that comes with weights is never run",
            remedy="use a checkpoint whose architecture is part of transformers, without auto_map and *.py files",
        )


def _supported(name: str = "") -> str:
    known = architecture_table().architectures
    near = difflib.get_close_matches(name, [*known, *GGUF_NAMES.values()], n=1)
    return (f"the nearest supported one is {near[0]}; " if near else "") + f"supported: {', '.join(known)}"
