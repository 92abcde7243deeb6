"""`quantbench artifacts list|show|verify|sign|export|import|push`"""

import argparse
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from rich.table import Table

from configs.errors import QuantbenchError, RequestError, StageError
from pipelines.cli.artifacts_import import import_artifact
from pipelines.cli.artifacts_push import push_artifact
from pipelines.execution.export import export
from pipelines.execution.finished_runs import digest_named, last_run, run_named
from pipelines.execution.promotion import overrides_of
from pipelines.execution.verification import Verified, verified_folder, verified_object
from pipelines.execution.workspace import Workspace
from pipelines.report.table import printable
from registry.contracts import ArtifactRecord
from registry.signing import check_public_key, sign, signed_by

HELP = "list the quantized models of the workspace; show, verify, sign, export or push one, or import one"

_OPTIONS = {
    "artifact": ("show", "verify", "sign", "export", "import", "push"),
    "folder": ("export",),
    "key": ("sign",),
    "password_variable": ("sign",),
    "public_key": ("verify",),
    "signed": ("verify",),
    "run": ("show", "verify", "sign", "export", "push"),
    "recipe": ("import",),
    "name": ("import",),
    "to": ("push",),
    "endpoint": ("push",),
    "public": ("push",),
    "yes": ("push",),
}
"""What only some actions know; elsewhere it would be passed over in silence."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, with which artifact, and by which keys."""
    parser.add_argument("action", choices=("list", "show", "verify", "sign", "export", "import", "push"))
    parser.add_argument(
        "artifact",
        nargs="?",
        metavar="ARTIFACT",
        help="its name in the run or the beginning of its digest; `verify` takes an exported folder too, written as a"
        " path (./DIR), and without an ARTIFACT verifies all objects; `import` takes a folder or org/name[@revision]",
    )
    parser.add_argument("folder", nargs="?", metavar="DIR", help="where `export` writes: a new or an empty folder")
    parser.add_argument("--run", metavar="RUN", help="whose names are meant: an id or its beginning; default: the last")
    signing = parser.add_argument_group("sign")
    signing.add_argument("--key", metavar="PEM", help="the private key, an EC key")
    signing.add_argument("--password-variable", metavar="NAME", help="environment variable with the key's password")
    verifying = parser.add_argument_group("verify")
    verifying.add_argument("--public-key", metavar="PEM", help="check the signature, where there is one, by this key")
    verifying.add_argument("--signed", action="store_true", help="what is not signed by that key is an error")
    importing = parser.add_argument_group("import")
    importing.add_argument(
        "--recipe", metavar="RECIPE", help="add an entry to this recipe, whose source is its base model"
    )
    importing.add_argument("--name", metavar="NAME", help="of the entry; default: by its folder or id")
    pushing = parser.add_argument_group("push")
    pushing.add_argument("--to", metavar="ORG/NAME", help="the repository; made where it is not there, private")
    pushing.add_argument("--endpoint", metavar="URL", help="the hub's address; default: HF_ENDPOINT or huggingface.co")
    pushing.add_argument("--public", action="store_true", help="a repository that all may read; refused without")
    pushing.add_argument("--yes", action="store_true", help="send it; without, it is only told")


def execute(args: argparse.Namespace) -> int:
    """Do what was asked for; `verify` ends with 3 when something differs or a signature does not hold."""
    _check_options(args)
    if args.action == "import":
        return import_artifact(args)
    if args.action == "verify" and _is_folder(args.artifact):
        return _verify_folder(Path(args.artifact), args)
    workspace = Workspace(Path(args.workspace))
    workspace.check_exists()
    actions = {"list": _list, "show": _show, "verify": _verify, "sign": _sign, "export": _export, "push": push_artifact}
    return actions[args.action](workspace, args)


def _check_options(args: argparse.Namespace) -> None:
    for name, actions in _OPTIONS.items():
        if getattr(args, name) and args.action not in actions:
            told = {"artifact": "ARTIFACT", "folder": "DIR"}.get(name, f"--{name.replace('_', '-')}")
            raise RequestError(
                f"`artifacts {args.action}` knows no {told}", remedy=f"leave it out; it is for {', '.join(actions)}"
            )
    missing = {
        "ARTIFACT": args.action in ("show", "sign", "export", "import", "push") and not args.artifact,
        "--to": args.action == "push" and not args.to,
        "DIR": args.action == "export" and not args.folder,
        "--key": args.action == "sign" and not args.key,
        "--public-key": args.signed and not args.public_key,
        "an ARTIFACT": args.signed and not args.artifact,
    }
    if wanted := [name for name, is_missing in missing.items() if is_missing]:
        raise RequestError(
            f"`artifacts {args.action}{' --signed' if args.signed else ''}` wants {' and '.join(wanted)} too",
            remedy="see `quantbench artifacts --help`",
        )


def _is_folder(artifact: str | None) -> bool:
    """Whether a path is meant: no model's name holds a slash."""
    return artifact is not None and (os.sep in artifact or artifact in (os.curdir, os.pardir))


def _list(workspace: Workspace, args: argparse.Namespace) -> int:
    artifacts = _artifacts(workspace)
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


def _show(workspace: Workspace, args: argparse.Namespace) -> int:
    digest = digest_named(workspace, args.artifact, args.run)
    record = _artifacts(workspace).get(digest)
    shown = (
        record.model_dump(mode="json")
        if record
        else {"digest": digest, "note": "not an artifact: a checkpoint, calibration set or measurement"}
    )
    signature = workspace.store.signature_file(digest)
    shown |= {"path": str(workspace.store.path(digest)), "signature": str(signature) if signature.is_file() else None}
    shown |= {"overrides": _overrides(workspace, digest, args.run)}
    print(json.dumps(shown, indent=2))
    return 0


def _overrides(workspace: Workspace, digest: str, named: str | None) -> list[str] | None:
    """In words; None where a ledger elsewhere does not tell."""
    run = run_named(workspace, named) if named else last_run(workspace)
    try:
        return overrides_of(run, workspace).get(digest, []) if run else []
    except QuantbenchError as error:
        Console(stderr=True).print(f"warning: {error.what}", soft_wrap=True, markup=False)
        return None


def _artifacts(workspace: Workspace) -> dict[str, ArtifactRecord]:
    """Digest -> record of every artifact that is still in the store, oldest first."""
    entries = [entry for entry in workspace.cache.entries() if entry.key.stage == "quantize"]
    records = [ArtifactRecord.model_validate(entry.result.record) for entry in entries]
    return {record.digest: record for record in records if workspace.store.is_complete(record.digest)}


def _verify(workspace: Workspace, args: argparse.Namespace) -> int:
    store, public_key = workspace.store, Path(args.public_key) if args.public_key else None
    digests = [digest_named(workspace, args.artifact, args.run)] if args.artifact else store.digests()
    if public_key:
        check_public_key(public_key)
    found = []
    with Console(stderr=True).status("verifying") as status:
        for digest in digests:
            status.update(f"verifying {digest}")
            # Of all objects together only some are meant to be signed.
            asked = args.artifact or store.signature_file(digest).is_file()
            found.append(verified_object(store, digest, public_key if asked else None))
    return _tell_verified(found, "run their recipes again, what is damaged is made anew; or remove the folders", args)


def _verify_folder(folder: Path, args: argparse.Namespace) -> int:
    with Console(stderr=True).status(f"verifying {folder}"):
        found = verified_folder(folder, Path(args.public_key) if args.public_key else None)
    return _tell_verified([found], "have it exported or fetched again, and load nothing of this one", args)


def _tell_verified(found: list[Verified], remedy: str, args: argparse.Namespace) -> int:
    failed = any(one.failed(args.signed) for one in found)
    if args.json:
        told = {
            one.name: {
                "differences": one.differences,
                "signature": one.signature._asdict() if one.signature else None,
            }
            for one in found
        }
        print(json.dumps(told, indent=2))
    else:
        for one in found:
            print("\n  ".join(printable(line) for line in _lines_about(one)))
        if any(one.differences for one in found):
            print(f"remedy: {remedy}")
        elif args.public_key and not any(one.signature for one in found):
            print("none of them is signed")
        elif failed:
            print("remedy: load it only once it is known who made it; `quantbench artifacts sign` signs what is yours")
    return StageError.exit_code if failed else 0


def _lines_about(one: Verified) -> list[str]:
    """Names of files may come from whoever sent the folder."""
    lines = [f"{one.name}: {'whole' if not one.differences else 'DAMAGED'}", *one.differences]
    if one.signature:
        lines.append(f"{'NOT AS SIGNED: it ' if one.signature.verdict == 'fail' else ''}{one.signature.reason}")
    return lines


def _sign(workspace: Workspace, args: argparse.Namespace) -> int:
    digest = digest_named(workspace, args.artifact, args.run)
    signature = workspace.store.signature_file(digest)
    before = signed_by(signature) if signature.is_file() else None
    with Console(stderr=True).status(f"signing {digest}"):
        key = sign(workspace.store, digest, Path(args.key), _password(args.password_variable))
    if args.json:
        print(json.dumps({"digest": digest, "signature": str(signature), "key": key}, indent=2))
        return 0
    print(f"{digest}: signed with the key {key}\n  {signature}")
    if before not in (None, key):
        print(f"  the signature with the key {before} is gone")
    return 0


def _password(variable: str | None) -> str | None:
    if variable is None:
        return None
    if not os.environ.get(variable):
        raise RequestError(
            f"the environment variable {variable} is not set", remedy=f"read -rs {variable} && export {variable}"
        )
    return os.environ[variable]


def _export(workspace: Workspace, args: argparse.Namespace) -> int:
    with _progress() as (progress, task):
        exported = export(
            workspace,
            args.artifact,
            args.run,
            Path(args.folder),
            lambda done, whole: progress.update(task, completed=done, total=whole),
        )
    if args.json:
        print(json.dumps(exported._asdict() | {"folder": str(exported.folder)}, indent=2))
        return 0
    signed = "with its signature" if exported.signed else "not signed: `quantbench artifacts sign` comes before"
    print(f"{exported.folder}: {exported.digest}, {signed}\n  its card tells of run {exported.run_id}")
    return 0


@contextmanager
def _progress() -> Iterator[tuple[Progress, TaskID]]:
    columns = (TextColumn("copying"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield progress, progress.add_task("copying", total=None)
