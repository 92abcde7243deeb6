"""`quantbench run RECIPE`"""

import argparse
import json
from pathlib import Path

from rich.console import Console

from configs.errors import RequestError
from pipelines.cli import VERDICT_EXIT_CODES
from pipelines.execution.dagster_assets import dagster_assets
from pipelines.execution.recipe_call import Ended, RecipeCall
from pipelines.records.rows import worst_verdict
from pipelines.records.run_outcome import RunOutcome
from pipelines.report.console import RunConsole, print_record
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
    """The recipe, whether verdicts count, and what schedulers ask for."""
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
    parser.add_argument(
        "--if-changed",
        action="store_true",
        help="end at once, with 0, when a run would only repeat this recipe's last one",
    )
    parser.add_argument(
        "--overlap",
        choices=["wait", "leave"],
        default="wait",
        help="while another process runs this recipe in this workspace: wait for its end, or leave, with 0",
    )
    parser.add_argument(
        "--json-line",
        action="store_true",
        help="print one line of JSON on stdout at the end, whatever the end is: what happened, for a program",
    )


def execute(args: argparse.Namespace) -> int:
    """Run it; 0 when all was measured, 2 or 3 when not; with --require-pass also 1 and 4 (docs/schedule.md)."""
    if args.json and args.json_line:
        raise RequestError(
            "--json prints the whole record, and --json-line its outcome", remedy="leave one of them out"
        )
    console = Console(stderr=True)

    def warn(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False, highlight=False)

    call = RecipeCall(args.recipe, args.overrides, Path(args.workspace), warn)
    try:
        with dagster_assets(warn) as assets:
            observe = assets.beside(RunConsole)
            ended = call.run(observe, if_changed=args.if_changed, overlap=args.overlap, tell=args.json_line)
            if ended.outcome.status == "unchanged" and ended.record:
                assets.tell_reused(ended.record)
        _print_end(console, ended)
    except (Exception, KeyboardInterrupt) as error:
        _tell(args, call, call.broken_off(error))
        raise
    if args.json and ended.record:
        print(json.dumps(ended.record.model_dump(mode="json"), indent=2))
    exit_code = ended.outcome.exit_code
    if args.require_pass and ended.record and not exit_code:
        exit_code = VERDICT_EXIT_CODES[worst_verdict(ended.record.rows)]
    _tell(args, call, ended.outcome.model_copy(update={"exit_code": exit_code}))
    return exit_code


def _print_end(console: Console, ended: Ended) -> None:
    if ended.outcome.status in ("unchanged", "left"):
        console.print(f"{ended.outcome.status}: {ended.outcome.why}", soft_wrap=True, markup=False, highlight=False)
        return
    if ended.record is not None:
        print_record(console, ended.record, ended.run.context.suite)
        for one in ended.outcome.regressions:
            text = f"worse: {one.artifact}, {one.quantity}: {one.text}"
            console.print(text, style="red", soft_wrap=True, markup=False, highlight=False)
        if ended.run.context.config.profile:
            print_profiles(console, ended.record, ended.workspace.store)


def _tell(args: argparse.Namespace, call: RecipeCall, outcome: RunOutcome) -> None:
    if args.json_line:
        print(outcome.model_dump_json(), flush=True)
    call.tell(outcome)
