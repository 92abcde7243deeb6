"""`quantbench shadow route FOLDER|--run ID`"""

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from configs.errors import RequestError
from configs.loading import load_yaml_model
from pipelines.execution.routes import Routed, Wanted, pairs_to_route, route_of, run_to_route
from pipelines.execution.workspace import Workspace
from pipelines.report.route_page import write_route_page
from pipelines.report.route_table import print_route
from registry.contracts.route import RouteKind
from registry.sealed import write_sealed
from serving_checks.replay.classes import ClassesConfig

HELP = "say which prompts a cheap artifact may answer for a stated loss, from records, and write the route"

_KINDS: tuple[RouteKind, ...] = ("cascade", "classes", "classifier")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Whose records, what may be lost, and where the route goes."""
    parser.add_argument("folder", type=Path, nargs="?", metavar="FOLDER", help="the folder of a replay or a gateway")
    parser.add_argument("--run", metavar="ID", help="in a folder's place: the items of a run, by its id, or `last`")
    parser.add_argument("--artifact", metavar="NAME", help="with --run: the cheap one, beside the baseline")
    parser.add_argument(
        "--cheap", choices=["candidate", "champion"], default="candidate", help="with FOLDER: which side is cheap"
    )
    parser.add_argument(
        "--loss", type=_percent, default=0.01, metavar="POINTS", help="what may be lost, in points (default: 1)"
    )
    parser.add_argument(
        "--least-share",
        type=_percent,
        default=0.1,
        metavar="PERCENT",
        help="a route that serves less cheaply is refused (default: 10)",
    )
    parser.add_argument(
        "--alpha", type=_alpha, default=0.05, help="chance of a route that loses more, over all methods (default: 0.05)"
    )
    parser.add_argument(
        "--method",
        action="append",
        choices=_KINDS,
        help="judge this one; may be given again (default: all, each with an equal part of alpha)",
    )
    parser.add_argument(
        "--classes", type=Path, metavar="FILE", help="find classes by these rules, as `class_by` has them"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write a supported route, for a gateway")
    parser.add_argument("--page", type=Path, metavar="FILE", help="draw the curves into an HTML page")


def execute(args: argparse.Namespace) -> int:
    """Judge the routes; 0 where one is supported, 1 where none is."""
    progress = Console(stderr=True)
    routed = _routed(args)
    wanted = Wanted(args.loss, args.alpha, args.least_share, tuple(dict.fromkeys(args.method or _KINDS)))
    record = route_of(routed, wanted, lambda text: progress.print(text, soft_wrap=True, markup=False, highlight=False))
    if args.json:
        print(json.dumps(record.model_dump(mode="json"), indent=2))
    else:
        print_route(Console(), record)
    if args.page:
        write_route_page(record, args.page)
    if args.output and record.chosen:
        write_sealed(args.output, record)
    return 0 if record.chosen else 1


def _routed(args: argparse.Namespace) -> Routed:
    if (args.folder is None) == (args.run is None):
        raise RequestError("whose records?", remedy="name either a folder of pairs or a run by --run, and not both")
    classes = load_yaml_model(args.classes, ClassesConfig) if args.classes else None
    workspace = Workspace(Path(args.workspace))
    if args.run is None:
        if args.artifact:
            raise RequestError("--artifact names an artifact of a run", remedy="add --run, or leave it out")
        return pairs_to_route(args.folder, args.cheap, classes, workspace)
    return run_to_route(workspace, None if args.run == "last" else args.run, args.artifact, classes)


def _percent(text: str) -> float:
    return _within(text, 100.0) / 100


def _alpha(text: str) -> float:
    return _within(text, 0.5)


def _within(text: str, most: float) -> float:
    """A number above 0, which is what argparse is told of otherwise."""
    value: Any = float(text)
    if not 0 < value <= most:
        raise argparse.ArgumentTypeError(f"a number above 0 and up to {most:g} is wanted")
    return float(value)
