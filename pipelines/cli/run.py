"""`quantbench run RECIPE`"""

import argparse
import json
from pathlib import Path

from rich.console import Console

from pipelines.cli import VERDICT_EXIT_CODES
from pipelines.execution.run import execute_run
from pipelines.execution.workspace import Workspace
from pipelines.planning.open_run import open_run
from pipelines.records.rows import worst_verdict
from pipelines.report.console import RunConsole
from pipelines.report.profiles import print_profiles

HELP = "quantize, inspect, measure, record and report what a recipe asks for; resumes where it stopped"


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """The recipe and what is changed in it."""
    parser.add_argument("recipe", type=Path, help="a YAML file such as configs/recipes/demo.yaml")
    add_overrides(parser, "methods.gptq.group_size=32")


def add_overrides(parser: argparse.ArgumentParser, example: str) -> None:
    """What is changed in a config."""
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"change one value, such as {example}",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The recipe, and whether verdicts count."""
    add_recipe_arguments(parser)
    parser.add_argument(
        "--profile",
        dest="overrides",
        action="append_const",
        const="profile=true",
        help="keep a profiler trace of a few engine steps of each model; measurements without one are repeated",
    )
    parser.add_argument(
        "--require-pass",
        action="store_true",
        help="end with 1 when an artifact fails a gate, with 4 when one is inconclusive",
    )


def execute(args: argparse.Namespace) -> int:
    """Run it; 0 when all was measured, 3 when a stage failed; with --require-pass also 1 and 4."""
    workspace = Workspace(Path(args.workspace))
    run = open_run(args.recipe, args.overrides)
    workspace.create()
    with RunConsole(run) as console:
        record = execute_run(run, workspace, console)
    console.print_end(record)
    if run.context.config.profile:
        print_profiles(Console(stderr=True), record, workspace.store)
    if args.json:
        print(json.dumps(record.model_dump(mode="json"), indent=2))
    if record.exit_code or not args.require_pass:
        return record.exit_code
    return VERDICT_EXIT_CODES[worst_verdict(record.rows)]
