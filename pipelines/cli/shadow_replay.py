"""`quantbench shadow replay CONFIG`"""

import argparse
import json
from pathlib import Path

from rich.console import Console

from pipelines.cli.run import add_overrides
from pipelines.execution.replay import execute_replay, open_replay
from pipelines.execution.workspace import Workspace
from pipelines.report.replay_table import print_replay
from pipelines.report.work_console import WorkConsole

HELP = "put a log's prompts to champion and candidate, and keep the answers in pairs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The config, and what is changed in it."""
    parser.add_argument("config", type=Path, help="a YAML file such as configs/shadow/demo.yaml")
    add_overrides(parser, "prompts.limit=50")


def execute(args: argparse.Namespace) -> int:
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
