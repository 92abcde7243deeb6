"""`quantbench shadow observe CONFIG`"""

import argparse
from pathlib import Path

from rich.console import Console

from configs.loading import load_yaml_model
from pipelines.cli.run import add_overrides
from pipelines.execution.observing import observe
from pipelines.execution.workspace import Workspace
from pipelines.recipe.gateway_config import GatewayConfig

HELP = "record pairs of what Envoy serves, by a config that `shadow render --target envoy` took"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The config, and what is changed in it."""
    parser.add_argument("config", type=Path, help="a YAML file such as configs/shadow/gateway.yaml")
    add_overrides(parser, "render.observer_port=9003")


def execute(args: argparse.Namespace) -> int:
    """Record until it is interrupted."""
    workspace, console = Workspace(Path(args.workspace)), Console(stderr=True)
    config = load_yaml_model(args.config, GatewayConfig, args.overrides)
    workspace.create()
    observe(config, workspace, lambda text: console.print(text, soft_wrap=True, markup=False, highlight=False))
    return 0
