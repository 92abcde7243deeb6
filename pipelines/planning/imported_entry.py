"""A quantized checkpoint from elsewhere, looked at, and the entry of a recipe by which a run takes it in."""

import json
import re
import secrets
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from configs.errors import RequestError, blaming
from configs.loading import load_yaml_model
from configs.reading.text import read_text
from pipelines.recipe.run_config import RunConfig
from quantizers.checkpoints.checkpoint import download
from quantizers.checkpoints.first_look import source_named
from quantizers.checkpoints.packed_tensors import check_quantized
from quantizers.checkpoints.safetensors_header import read_headers, weight_files
from quantizers.checkpoints.schemes import Scheme
from quantizers.checkpoints.sources import FolderSource, HubSource, read_config
from quantizers.inspection.inspection import bits_per_weight
from registry.files import write_text_atomically

_METHODS = re.compile(r"methods:\s*(#.*)?")
_RECIPE_BYTES = 1 << 20


class LookedAt(NamedTuple):
    """What a checkpoint's names and headers say."""

    origin: str
    """Its folder, or `org/name@commit`."""
    source: FolderSource | HubSource
    scheme: Scheme
    architecture: str
    linears: Collection[str]
    """Names of those that are quantized."""
    size_bytes: int
    """All weight files together."""
    bits_per_weight: float

    @property
    def entry(self) -> dict[str, Any]:
        """For the `methods` of a recipe."""
        return {
            "method": f"{self.scheme.format}_imported",
            "source": self.source.model_dump(mode="json", exclude_defaults=True),
        }


def look_at(model: str) -> LookedAt:
    """Look at a folder, or at `org/name[@revision]` of the hub, which is fetched into the hub's cache.

    Raises:
        RequestError: It is no quantized checkpoint that is read here, or not what its config.json says.
        StageError: The hub does not give it.
    """
    source = source_named(model)
    if not isinstance(source, FolderSource | HubSource):
        raise RequestError(
            f"{model} is GGUF, which is read as a recipe's `source` and not as an artifact",
            remedy="name a folder or a hub model in safetensors",
        )
    folder = source.path if isinstance(source, FolderSource) else download(source.id, source.revision)
    with blaming("source"):
        scheme, shapes = check_quantized(folder)
    return LookedAt(
        origin=str(folder) if isinstance(source, FolderSource) else f"{source.id}@{source.revision}",
        source=source,
        scheme=scheme,
        architecture=str(read_config(folder)["architectures"][0]),
        linears=tuple(shapes),
        size_bytes=sum(path.stat().st_size for path in weight_files(folder)),
        bits_per_weight=bits_per_weight(read_headers(folder), dict(shapes)),
    )


def entry_line(name: str, looked: LookedAt) -> str:
    """The entry as one line of YAML, which JSON is."""
    return f"{name}: {json.dumps(looked.entry)}"


def add_to_recipe(recipe: Path, name: str, looked: LookedAt) -> None:
    """Put the entry behind the last one of `methods`; the rest of the file stays as it was written.

    Raises:
        RequestError: The recipe has an entry of that name, no `methods` of its own, or would not be sound with it.
    """
    if name in load_yaml_model(recipe, RunConfig).methods:
        raise RequestError(f"{recipe} has an entry {name} already", remedy="choose another --name, or edit that entry")
    lines = read_text(recipe, _RECIPE_BYTES).splitlines()
    start = next((place for place, line in enumerate(lines) if _METHODS.fullmatch(line.rstrip())), None)
    if start is None:
        raise RequestError(
            f"{recipe} has no `methods:` with an entry a line",
            remedy=f"write it there yourself:\n  {entry_line(name, looked)}",
        )
    behind = next((place for place in range(start + 1, len(lines)) if re.match(r"[^\s#]", lines[place])), len(lines))
    entries = [place for place in range(start + 1, behind) if re.match(r"\s+[^\s#]", lines[place])]
    indent = re.match(r"\s+", lines[entries[0]])[0] if entries else "  "  # type: ignore[index]
    place = entries[-1] + 1 if entries else start + 1
    text = "\n".join([*lines[:place], f"{indent}{entry_line(name, looked)}", *lines[place:]]) + "\n"
    # Beside it, where what it includes is found.
    trial = recipe.with_name(f".{recipe.name}.{secrets.token_hex(4)}")
    try:
        write_text_atomically(trial, text)
        load_yaml_model(trial, RunConfig)
    finally:
        trial.unlink(missing_ok=True)
    write_text_atomically(recipe, text)
