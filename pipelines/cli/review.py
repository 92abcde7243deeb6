"""`quantbench review`"""

import argparse
import asyncio
import json
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from configs.errors import RequestError
from pipelines.execution.reviewing import KEY_VARIABLE, Asked, review_keys, serve_review, write_review
from pipelines.execution.workspace import Workspace
from pipelines.recipe.price_file import read_price

HELP = "show all runs on one page that sorts, compares and decides: as a file, or served on this machine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is shown and where."""
    parser.add_argument("--out", type=Path, metavar="FILE", help="write one file that opens offline, and end")
    parser.add_argument("--port", type=int, default=8090, help="of this machine, to serve on (default: 8090)")
    parser.add_argument("--run", metavar="RUN", help="open with this run: its id or its beginning")
    parser.add_argument(
        "--series", action="append", default=[], metavar="TEXT", help="only runs whose series holds this; repeatable"
    )
    parser.add_argument(
        "--price",
        type=Path,
        metavar="FILE",
        help="for runs whose recipe has no price: a file such as those in configs/prices",
    )
    parser.add_argument(
        "--no-mlflow", action="store_true", help="show this workspace's runs only, and ask no tracking server"
    )
    parser.add_argument(
        "--decide",
        action="store_true",
        help=f"let whoever has the key approve, promote and roll back on the page; the key is {KEY_VARIABLE}",
    )
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="with --decide: sha256 of each key, one a line")


def execute(args: argparse.Namespace) -> int:
    """Write the page, or serve it until it is interrupted."""
    workspace, console = Workspace(Path(args.workspace)), Console(stderr=True)
    workspace.check_exists()
    if args.key_file is not None and not args.decide:
        raise RequestError("`--key-file` is for decisions", remedy="add --decide, or leave it out")
    if args.out is not None:
        if args.decide:
            raise RequestError("a file decides nothing", remedy="leave out --out to serve the page, or --decide")
        return _write(args, workspace, console)
    if not 1 <= args.port <= 65535:
        raise RequestError(f"there is no port {args.port}", remedy="name one from 1 to 65535")
    keys = review_keys(args.key_file) if args.decide else []

    def tell(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False, highlight=False)

    asyncio.run(serve_review(workspace, args.port, _asked(args), keys, tell))
    return 0


def _asked(args: argparse.Namespace) -> Asked:
    price = read_price(args.price) if args.price else None
    return Asked(args.run, args.series, not args.no_mlflow, price)


def _write(args: argparse.Namespace, workspace: Workspace, console: Console) -> int:
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("reading runs", total=None)
        size = write_review(
            workspace, args.out, _asked(args), lambda done, total: progress.update(task, completed=done, total=total)
        )
    if args.json:
        print(json.dumps({"file": str(args.out), "bytes": size}))
    else:
        print(f"{args.out}: {size / 2**20:,.1f} MiB, opens offline")
    return 0
