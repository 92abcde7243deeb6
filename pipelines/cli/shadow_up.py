"""`quantbench shadow up CONFIG`"""

import argparse
from pathlib import Path

from rich.console import Console

from pipelines.cli.run import add_overrides
from pipelines.execution.gateway import open_gateway, run_gateway
from pipelines.execution.workspace import Workspace

HELP = "answer clients with the champion, show the shadow a share of what they ask, and follow the ledger"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The config, and what is changed in it."""
    parser.add_argument("config", type=Path, help="a YAML file such as configs/shadow/gateway.yaml")
    add_overrides(parser, "listen.port=8081")


def execute(args: argparse.Namespace) -> int:
    """Serve until it is interrupted."""
    workspace, console = Workspace(Path(args.workspace)), Console(stderr=True)
    workspace.check_exists()
    opened = open_gateway(args.config, args.overrides, workspace)
    run_gateway(opened, workspace, lambda text: console.print(text, soft_wrap=True, markup=False, highlight=False))
    return 0
