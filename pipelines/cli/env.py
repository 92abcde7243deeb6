"""`quantbench env list|sync|check|remove`"""

import argparse
import json
from typing import Any

from rich.console import Console
from rich.table import Table

from configs.errors import RequestError, StageError
from pipelines.environments.definition import MAIN, Environment, environment_named, environment_names
from pipelines.environments.folders import folder_of, made, state_of
from pipelines.environments.making import check, remove, sync
from pipelines.planning.device import detect_machine

HELP = "list the environments of engines that cannot live beside ours; make, check or remove them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do and with which environments."""
    parser.add_argument("action", choices=("list", "sync", "check", "remove"))
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="environments; `list` and `check` take all without one"
    )


def execute(args: argparse.Namespace) -> int:
    """Do what was asked for; `check` ends with 3 when something is wrong."""
    if args.action in ("sync", "remove") and not args.names:
        raise RequestError(
            f"`env {args.action}` wants to know which", remedy=f"name one or more of {', '.join(_others())}"
        )
    device = detect_machine().device
    chosen = [environment_named(name, device) for name in args.names or environment_names()]
    return {"list": _list, "sync": _sync, "check": _check, "remove": _remove}[args.action](chosen, args)


def _others() -> list[str]:
    return [name for name in environment_names() if name != MAIN]


def _list(chosen: list[Environment], args: argparse.Namespace) -> int:
    if args.json:
        print(json.dumps([_told(one) for one in chosen], indent=2))
        return 0
    table = Table("environment", "purpose", "used by", "state", "packages")
    for one in chosen:
        used_by = ", ".join(one.definition.used_by)
        table.add_row(one.name, one.definition.purpose, used_by, state_of(one), str(len(one.versions)))
    Console().print(table)
    return 0


def _told(environment: Environment) -> dict[str, Any]:
    there = made(environment)
    return {
        "name": environment.name,
        "device": environment.device,
        "digest": environment.digest,
        "purpose": environment.definition.purpose,
        "used_by": environment.definition.used_by,
        "folder": None if environment.name == MAIN else str(folder_of(environment)),
        "made": there.model_dump(mode="json") if there else None,
        "versions": environment.versions,
    }


def _sync(chosen: list[Environment], args: argparse.Namespace) -> int:
    console = Console(stderr=True)
    for one in chosen:
        with console.status(f"environment {one.name}") as status:
            # The first line tells the size, and stays where there is no terminal for the others.
            told: list[str] = []

            def say(text: str, status: Any = status, told: list[str] = told) -> None:
                if not told:
                    console.print(text)
                told.append(text)
                status.update(text)

            there = sync(one, say)
        if not args.json:
            print(
                f"{one.name}: {len(one.versions)} packages, {there.size_bytes / 2**30:.1f} GiB, {folder_of(one)}"
                + (f"; made in {there.seconds:.1f} s" if told else "; made already")
            )
    if args.json:
        print(json.dumps([_told(one) for one in chosen], indent=2))
    return 0


def _check(chosen: list[Environment], args: argparse.Namespace) -> int:
    if not args.names:
        chosen = [one for one in chosen if one.name == MAIN or made(one)]
    found = {one.name: check(one) for one in chosen}
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        for name, wrong in found.items():
            print(f"{name}: {'as its lock says' if not wrong else 'WRONG'}" + "".join(f"\n  {line}" for line in wrong))
        if any(found.values()):
            print("remedy: make it anew: quantbench env remove NAME, then quantbench env sync NAME (main: make setup)")
    return StageError.exit_code if any(found.values()) else 0


def _remove(chosen: list[Environment], args: argparse.Namespace) -> int:
    if MAIN in args.names:
        raise RequestError(f"environment {MAIN} is the one of this command", remedy="`make distclean` removes it")
    freed = {one.name: remove(one.name) for one in chosen}
    if args.json:
        print(json.dumps(freed, indent=2))
    else:
        for name, size in freed.items():
            print(f"{name}: {f'{size / 2**30:.1f} GiB removed' if size else 'was not made'}")
    return 0
