"""`quantbench registry request|approve|reject|promote|rollback|adopt|history`"""

import argparse
import getpass
import json
import socket
from collections import defaultdict
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.table import Table
from rich.text import Text

from configs.errors import RequestError
from pipelines.execution.finished_runs import run_named
from pipelines.execution.promotion import ModelRegistry
from pipelines.execution.workspace import Workspace
from pipelines.recipe.registry_config import Role
from pipelines.records.run_record import RunRecord
from registry.ledger import Entry, Kind, faults_of

HELP = "approve artifacts, move the aliases that servers follow, go back, and see who did what"

_TOLD: dict[str, Kind] = {"request": "request", "approve": "approve", "reject": "reject"}
_OF_MODELS = (*_TOLD, "promote")
_OF_ALIASES = ("rollback", "adopt")
_ROLES: tuple[Role, ...] = get_args(Role)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, with what, and why."""
    parser.add_argument("action", choices=(*_OF_MODELS, *_OF_ALIASES, "history"))
    parser.add_argument(
        "name",
        nargs="?",
        help="a model's name in the run (request, approve, reject, promote; default: the recommended one), or an alias:"
        f" {', '.join(_ROLES)} (rollback, adopt, history)",
    )
    parser.add_argument(
        "--to", default="candidate", choices=_ROLES, metavar="ALIAS", help="what `promote` moves (default: candidate)"
    )
    add_run_arguments(parser)
    parser.add_argument("--why", default="", metavar="TEXT", help="written into the ledger")
    parser.add_argument("--override", metavar="REASON", help="promote what the policy or its approval forbids")
    parser.add_argument("--verify", action="store_true", help="with `history`: check that no entry was changed or lost")


def execute(args: argparse.Namespace) -> int:
    """Do it and print what was written; `promote` ends with 1 or 4 where policy or approval stand against it, `history
    --verify` with 3 when the ledger is not whole."""
    workspace, console = Workspace(Path(args.workspace)), Console(stderr=True)
    run = run_named(workspace, args.run)
    registry = registry_of(args, workspace, console)
    if args.action == "history":
        return _history(registry, args)
    if args.override is not None and (args.action != "promote" or not args.override.strip()):
        raise RequestError("`--override` gives `promote` a reason", remedy='--override "why it is to be taken"')
    if args.action in _OF_ALIASES:
        alias = _role(args)
        written = registry.rollback(alias, args.why) if args.action == "rollback" else registry.adopt(alias)
    else:
        subject = registry.subject(args.name or _recommended(run))
        if args.action == "promote":
            with console.status(f"verifying {subject.size_bytes / 2**20:,.0f} MiB of {subject.name}"):
                written = registry.promote(subject, args.to, args.why, args.override)
        else:
            written = registry.tell(subject, _TOLD[args.action], args.why)
    print(json.dumps(written.model_dump(mode="json"), indent=2) if args.json else told(written))
    return 0


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Which registered model, and who writes into its ledger."""
    parser.add_argument("--run", metavar="RUN", help="a run's id or its beginning; default: the last run")
    parser.add_argument("--who", metavar="NAME", help="default: this user at this machine")


def registry_of(args: argparse.Namespace, workspace: Workspace, console: Console) -> ModelRegistry:
    """The registered model of a run."""
    who = args.who or f"{getpass.getuser()}@{socket.gethostname()}"
    return ModelRegistry(run_named(workspace, args.run), workspace, who, lambda text: _warn(console, text))


def _warn(console: Console, text: str) -> None:
    console.print(Text(f"warning: {text}", "yellow"), soft_wrap=True)


def told(entry: Entry) -> str:
    """One entry in a line."""
    what, _, of = entry.stream.partition(":")
    if what == "approval":
        return f"{entry.kind}: {entry.name}, version {entry.version_to} of {entry.model}, by {entry.who}"
    if what == "ramp":
        return f"{entry.kind}: ramp of {entry.model}, version {entry.version_to} ({entry.name}), by {entry.who}"
    if what == "verdict":
        return f"verdict of {entry.model}: {entry.artifact}, by {entry.who}"
    to = f"{entry.version_to or 'none'}{f' ({entry.name})' if entry.name else ''}"
    moved = f"{of} of {entry.model}: version {entry.version_from or 'none'} -> {to}"
    return f"{entry.kind}: {moved}, by {entry.who}" + (f", OVERRIDE: {entry.override}" if entry.override else "")


def _role(args: argparse.Namespace) -> Role:
    for role in _ROLES:
        if args.name == role:
            return role
    said = f"not {args.name}" if args.name else "and none is named"
    raise RequestError(
        f"`registry {args.action}` takes an alias, {said}",
        remedy=f"name one of {', '.join(_ROLES)}; what each is called in MLflow is `registry.aliases` in the recipe",
    )


def _recommended(run: RunRecord) -> str:
    choice = run.recommendation.choice if run.recommendation else None
    if choice is None:
        raise RequestError(
            f"run {run.run_id} recommends no artifact", remedy="name one; `quantbench recommend` says why there is none"
        )
    return choice


def _history(registry: ModelRegistry, args: argparse.Namespace) -> int:
    stream = f"alias:{registry.config.aliases.of(_role(args))}" if args.name else None
    entries = registry.ledger.entries(registry.model, stream)
    streams: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        streams[entry.stream].append(entry)
    faults = [fault for one in streams.values() for fault in _faults(registry, one)] if args.verify else []
    if args.json:
        print(json.dumps({"entries": [one.model_dump(mode="json") for one in entries], "faults": faults}, indent=2))
        return 3 if faults else 0
    table = Table(title=f"{registry.model}: {len(entries)} entries")
    for title in ("when", "what", "who", "why"):
        table.add_column(title)
    for entry in sorted(entries, key=lambda one: (one.at, one.sequence)):
        why = "; ".join(text for text in (entry.why, entry.override and f"OVERRIDE: {entry.override}") if text)
        cells = (f"{entry.at:%Y-%m-%d %H:%M:%S}", told(entry).partition(", by ")[0], entry.who, why)
        table.add_row(*map(Text, cells))
    console = Console()
    console.print(table)
    for fault in faults:
        console.print(Text(f"NOT WHOLE: {fault}", "bold red"))
    if args.verify and not faults:
        console.print(Text("whole: no entry was changed or lost", "green"))
    return 3 if faults else 0


def _faults(registry: ModelRegistry, entries: list[Entry]) -> list[str]:
    """What is wrong with the entries of one stream, and with the verdicts that they name."""
    first = entries[0]
    found = faults_of(entries, registry.ledger.projected(first.model, first.stream))
    named = {entry.verdict for entry in entries if entry.verdict is not None}
    lost = {verdict for verdict in named if not registry.ledger.keeps(verdict)}
    for entry in entries:
        if entry.verdict in lost:
            found.append(f"{entry.stream}, row {entry.sequence}: what it was judged by is gone, or was changed")
    return found
