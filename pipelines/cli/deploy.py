"""`quantbench deploy render --target TARGET`"""

import argparse
from pathlib import Path

from configs.errors import RequestError
from configs.loading import load_yaml_model, model_of_overrides
from pipelines.cli.rendered_files import write_rendered
from pipelines.cli.run import add_overrides
from pipelines.execution.deployment import champion_named
from pipelines.execution.workspace import Workspace
from pipelines.recipe.deploy_config import DeployConfig
from pipelines.rendering.deploy.targets import TARGETS, check_target, render

HELP = "write files that serve a measured model, as it was measured, where others run it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, for which platform, and what only its owner knows."""
    parser.add_argument("action", choices=("render",))
    parser.add_argument(
        "artifact",
        nargs="?",
        metavar="ARTIFACT",
        help="a model's name in the run, or the beginning of its digest; default: the champion",
    )
    parser.add_argument("--target", required=True, help=f"one of {', '.join(TARGETS)}")
    parser.add_argument("--alias", metavar="ALIAS", help="the model that an alias points at, in ARTIFACT's place")
    parser.add_argument(
        "--run", metavar="RUN", help="whose numbers are taken: an id or its beginning; default: the last"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings in YAML; docs/deploy.md lists them")
    add_overrides(parser, "storage=pvc://models/w8a8")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write the files there; printed when left out")


def execute(args: argparse.Namespace) -> int:
    """Render; nothing is written unless every file fits its platform's schema."""
    check_target(args.target)
    if args.artifact and args.alias:
        raise RequestError("ARTIFACT and --alias both name a model", remedy="leave one of them out")
    settings = (
        load_yaml_model(args.config, DeployConfig, args.overrides)
        if args.config
        else model_of_overrides(DeployConfig, args.overrides)
    )
    workspace = Workspace(Path(args.workspace))
    champion = champion_named(workspace, args.artifact, args.alias, args.run, settings)
    files = render(champion, args.target).files(champion)
    if args.output is None:
        print("\n".join(f"==> {name} <==\n{text}" for name, text in files.items()), end="")
        return 0
    write_rendered(files, args.output)
    return 0
