"""`quantbench artifacts push`: an artifact with card and bill of materials to a model on a hub; first only told."""

import argparse
import json
import re

from rich.console import Console

from configs.errors import RequestError
from pipelines.execution.hub_push import HubPush, Push
from pipelines.execution.workspace import Workspace

_REPO = re.compile(r"[\w.-]+/[\w.-]+")


def push_artifact(workspace: Workspace, args: argparse.Namespace) -> int:
    """Say what would be sent; with `--yes`, send it."""
    if not _REPO.fullmatch(args.to):
        raise RequestError(f"{args.to:.100} is no repository of a hub", remedy="write ORG/NAME")
    pushing = HubPush(workspace, args.artifact, args.run, args.to, args.endpoint, public=args.public)
    with Console(stderr=True).status(f"looking at {args.to}"):
        looked = pushing.look()
    commit = pushing.push(looked) if args.yes else None
    if args.json:
        print(json.dumps(looked._asdict() | {"commit": commit}, indent=2))
        return 0
    print("\n".join(_lines(looked, commit, public=args.public)))
    return 0


def _lines(looked: Push, commit: str | None, *, public: bool) -> list[str]:
    place = f"{looked.endpoint}/{looked.repo}"
    if looked.head and not looked.sent and not looked.removed:
        return [f"{place}: commit {looked.head} holds {looked.digest} already; nothing to send"]
    lines = [
        f"{place}: {looked.digest}, {'with its signature' if looked.signed else 'not signed'}",
        f"  its card tells of run {looked.run_id}",
    ]
    if looked.head is None:
        lines.append(f"  the repository is new, and {'PUBLIC' if public else 'private'}")
    lines += [f"  {'sent' if commit else 'to send'}: {name}, {size:,} bytes" for name, size in looked.sent.items()]
    lines += [f"  {'removed' if commit else 'to remove'}: {name}" for name in looked.removed]
    lines.append(f"commit {commit}, read back and held against it" if commit else "nothing was sent; --yes sends it")
    return lines
