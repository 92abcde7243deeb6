"""`quantbench workspace size|gc`"""

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console

from configs.errors import RequestError, StageError
from pipelines.execution.housekeeping import Wish, collect, planned
from pipelines.execution.workspace import Workspace
from pipelines.execution.workspace_size import workspace_size
from pipelines.planning.garbage import Asked
from pipelines.report.housekeeping import print_collection, print_size

HELP = "say what takes the workspace's space, and remove what nobody needs"

_DAY_NS = 24 * 3600 * 10**9
_OPTIONS = ("keep_runs", "older_than", "answers_gib", "drop_runs", "shadow_older_than", "yes")
"""That only `gc` knows."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, and what is to stay."""
    parser.add_argument("action", choices=("size", "gc"))
    collecting = parser.add_argument_group("gc")
    collecting.add_argument("--yes", action="store_true", help="remove it; without, it is only told")
    collecting.add_argument(
        "--keep-runs", type=_count, metavar="N", help="what the last N runs of each recipe made stays (default: 10)"
    )
    collecting.add_argument(
        "--older-than", type=_amount, metavar="DAYS", help="what runs made that ended later than that stays too"
    )
    collecting.add_argument(
        "--answers-gib", type=_amount, metavar="GIB", help="how much kept answers may take (default: 10)"
    )
    collecting.add_argument(
        "--drop-runs", action="store_true", help="records and pages of the other runs go too, not only their logs"
    )
    collecting.add_argument(
        "--shadow-older-than",
        type=_amount,
        metavar="DAYS",
        help="shadow folders go that nothing was written to for so long; without, all stay",
    )


def execute(args: argparse.Namespace) -> int:
    """Tell or do it; 3 where something could not be removed."""
    given = [name for name in _OPTIONS if getattr(args, name) not in (None, False)]
    if args.action == "size" and given:
        raise RequestError(
            f"`workspace size` knows no --{given[0].replace('_', '-')}", remedy="leave it out; it is for `gc`"
        )
    workspace = Workspace(Path(args.workspace))
    workspace.check_exists()
    if args.action == "size":
        size = workspace_size(workspace)
        if args.json:
            print(json.dumps(size.model_dump(mode="json"), indent=2))
        else:
            print_size(Console(), size)
        return 0
    told = collect(workspace, _wish(args), _tell_waiting) if args.yes else planned(workspace, _wish(args))
    if args.json:
        print(json.dumps(told.model_dump(mode="json"), indent=2))
    else:
        print_collection(Console(), told)
    return StageError.exit_code if told.problems else 0


def _wish(args: argparse.Namespace) -> Wish:
    asked = Asked()
    if args.keep_runs is not None:
        asked = asked._replace(keep_runs=args.keep_runs)
    if args.older_than is not None:
        asked = asked._replace(older_than_ns=round(args.older_than * _DAY_NS))
    if args.answers_gib is not None:
        asked = asked._replace(answers_bytes=round(args.answers_gib * 2**30))
    if args.shadow_older_than is not None:
        asked = asked._replace(shadow_older_than_ns=round(args.shadow_older_than * _DAY_NS))
    return Wish(asked, drop_runs=args.drop_runs)


def _tell_waiting(process: str) -> None:
    print(f"waiting for the stage of process {process}, which must not be disturbed", file=sys.stderr)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of runs, 1 or more")
    return int(text)


def _amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to a million")
    return value
