"""`quantbench shadow render CONFIG --target TARGET`"""

import argparse
from pathlib import Path

from configs.loading import load_yaml_model
from pipelines.cli.rendered_files import write_rendered
from pipelines.cli.run import add_overrides
from pipelines.recipe.gateway_config import GatewayConfig
from pipelines.rendering.targets import TARGETS, render

HELP = "write the gateway's policy for an engine that exists: Gateway API, Argo Rollouts, KServe, Envoy"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The config, what is changed in it, and for whom."""
    parser.add_argument("config", type=Path, help="a YAML file such as configs/shadow/gateway.yaml")
    add_overrides(parser, "split.share=0.05")
    parser.add_argument("--target", required=True, choices=list(TARGETS), help="whose file is written")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write the file there; printed when left out")


def execute(args: argparse.Namespace) -> int:
    """Render; nothing is written unless the file fits the target's schema."""
    rendered = render(load_yaml_model(args.config, GatewayConfig, args.overrides), args.target)
    text = rendered.text(args.config.name)
    if args.output is None:
        print(text, end="")
        return 0
    write_rendered({rendered.name: text}, args.output)
    return 0
