"""`quantbench artifacts import`: look at what was quantized elsewhere, and have a recipe's run take it in."""

import argparse
import json
import re
from pathlib import Path

from rich.console import Console

from configs.errors import RequestError
from pipelines.planning.imported_entry import LookedAt, add_to_recipe, entry_line, look_at
from pipelines.report.table import printable
from quantizers.methods.card import readers_of


def import_artifact(args: argparse.Namespace) -> int:
    """Say what it is; with `--recipe`, add it to its methods."""
    with Console(stderr=True).status(f"looking at {args.artifact}"):
        looked = look_at(args.artifact)
    name = args.name or _name_of(looked)
    if args.recipe:
        add_to_recipe(Path(args.recipe), name, looked)
    if args.json:
        print(json.dumps(_facts(looked) | {"name": name, "entry": looked.entry}, indent=2))
        return 0
    print("\n".join(printable(line) for line in _lines(looked)))
    if args.recipe:
        print(
            f"{args.recipe}: entry {name} added; `quantbench run {args.recipe}` takes it in, inspects and measures it"
        )
    else:
        print(f"for the `methods` of a recipe whose source is its base model:\n  {entry_line(name, looked)}")
    return 0


def _name_of(looked: LookedAt) -> str:
    """By its folder or id, in a name's letters."""
    last = re.split(r"[/@]", looked.origin)[-2 if "@" in looked.origin else -1]
    name = re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-")[:40].strip("-")
    if not name:
        raise RequestError(f"{looked.origin} has no name that an artifact can have", remedy="give one: --name NAME")
    return name


def _facts(looked: LookedAt) -> dict[str, object]:
    return {
        "origin": looked.origin,
        "architecture": looked.architecture,
        "format": looked.scheme.format,
        **looked.scheme.parameters,
        "linears": len(looked.linears),
        "size_bytes": looked.size_bytes,
        "bits_per_weight": looked.bits_per_weight,
        "read_by": readers_of(looked.scheme.format, None, looked.linears),
    }


def _lines(looked: LookedAt) -> list[str]:
    scheme = looked.scheme
    groups = "a scale a row" if scheme.group_size == -1 else f"groups of {scheme.group_size}"
    zeros = "" if scheme.symmetric else ", zero points"
    order = ", columns in order of activation" if scheme.reordered else ""
    return [
        f"{looked.origin}: {looked.architecture}, {scheme.format}, {scheme.bits} bits, {groups}{zeros}{order}",
        f"  {len(looked.linears)} Linears in {looked.bits_per_weight:.2f} bits a weight,"
        f" {looked.size_bytes / 2**20:.1f} MiB" + (f", by {scheme.made_by}" if scheme.made_by else ""),
        f"  read by {readers_of(scheme.format, None, looked.linears)}",
        "  its tensors are those that its config.json promises; the run compares its weights with the source's",
    ]
