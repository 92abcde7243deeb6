"""`quantbench artifacts list|show|verify`"""

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipelines.execution.workspace import Workspace
from registry.contracts import ArtifactRecord

HELP = "list the quantized models of the workspace, show one's record, or verify its bytes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do and with which artifact."""
    parser.add_argument("action", choices=("list", "show", "verify"))
    parser.add_argument(
        "digest", nargs="?", help="the beginning of a digest; `verify` without one verifies all objects"
    )


def execute(args: argparse.Namespace) -> int:
    """Print what was asked for; `verify` ends with 3 when something differs."""
    workspace = Workspace(Path(args.workspace))
    workspace.check_exists()
    if args.action == "verify":
        return _verify(workspace, args)
    artifacts = _artifacts(workspace)
    if args.action == "show":
        digest = workspace.store.resolve(args.digest or "")
        record = artifacts.get(digest)
        shown = (
            record.model_dump(mode="json")
            if record
            else {"digest": digest, "note": "not an artifact: a checkpoint, calibration set or measurement"}
        )
        print(json.dumps(shown | {"path": str(workspace.store.path(digest))}, indent=2))
        return 0
    if args.json:
        print(json.dumps([record.model_dump(mode="json") for record in artifacts.values()], indent=2))
        return 0
    table = Table("name", "method", "digest", "MiB", "bits/weight", "fallbacks", "made in s")
    for record in artifacts.values():
        table.add_row(
            record.name,
            record.method,
            record.digest.removeprefix("sha256:")[:12],
            f"{record.size_bytes / 2**20:.1f}",
            f"{record.bits_per_weight:.2f}",
            str(record.fallback_count),
            f"{record.duration_seconds:.0f}",
        )
    Console().print(table)
    return 0


def _artifacts(workspace: Workspace) -> dict[str, ArtifactRecord]:
    """Digest -> record of every artifact that is still in the store, oldest first."""
    entries = [entry for entry in workspace.cache.entries() if entry.key.stage == "quantize"]
    records = [ArtifactRecord.model_validate(entry.result.record) for entry in entries]
    return {record.digest: record for record in records if workspace.store.is_complete(record.digest)}


def _verify(workspace: Workspace, args: argparse.Namespace) -> int:
    store = workspace.store
    digests = [store.resolve(args.digest)] if args.digest else store.digests()
    found = {digest: store.verify(digest) for digest in digests}
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        for digest, differences in found.items():
            print(
                f"{digest}: {'whole' if not differences else 'DAMAGED'}"
                + "".join(f"\n  {line}" for line in differences)
            )
        if any(found.values()):
            print("remedy: run their recipes again, what is damaged is made anew; or remove the folders")
    return 3 if any(found.values()) else 0
