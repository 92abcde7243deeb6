"""`quantbench shadow replay CONFIG`"""

import argparse
import json
from pathlib import Path

from rich.console import Console

from pipelines.cli import common_arguments
from pipelines.cli.run import add_overrides
from pipelines.execution.replay import execute_replay, open_replay
from pipelines.execution.workspace import Workspace
from pipelines.report.replay_table import print_replay
from pipelines.report.work_console import WorkConsole

HELP = "ask two models what users asked, and keep the answers in pairs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, each action with its own arguments beside the common ones."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    replay = actions.add_parser(
        "replay", parents=[common_arguments()], help="a log's prompts through champion and candidate"
    )
    replay.add_argument("config", type=Path, help="a YAML file such as configs/shadow/demo.yaml")
    add_overrides(replay, "prompts.limit=50")


def execute(args: argparse.Namespace) -> int:
    """Do what was asked for."""
    return {"replay": _replay}[args.action](args)


def _replay(args: argparse.Namespace) -> int:
    """Replay; 0 when every prompt was asked."""
    workspace, console = Workspace(Path(args.workspace)), Console(stderr=True)
    with WorkConsole(args.config.stem, console) as shown:
        shown.on_progress("reading the log")
        replay = open_replay(args.config, args.overrides, workspace)
        workspace.create()
        result = execute_replay(replay, workspace, shown.on_progress)
    print_replay(console, result)
    if args.json:
        told = {"record": result.record.model_dump(mode="json"), "summary": result.summary.model_dump(mode="json")}
        print(json.dumps(told, indent=2))
    return 0
