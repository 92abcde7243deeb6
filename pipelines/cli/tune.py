"""`quantbench tune RECIPE`"""

import argparse
import json
from pathlib import Path

from rich.console import Console

from pipelines.cli.run import add_recipe_arguments as add_arguments
from pipelines.execution.tune import execute_tune, open_tune
from pipelines.execution.workspace import Workspace
from pipelines.planning.open_run import open_run
from pipelines.records.events import StageOutcome
from pipelines.records.rows import Row
from pipelines.report.console import RunConsole
from pipelines.report.tune_table import print_tune

__all__ = ["HELP", "add_arguments", "execute"]

HELP = "try the serving parameters of a recipe's `tune` section and write those with the best goodput as YAML"


class TuneConsole(RunConsole):
    """Tells a cell's failure in a line: a search expects some, and the whole of it is in the table's file."""

    def on_outcome(self, outcome: StageOutcome, rows: list[Row]) -> None:
        failure = outcome.result.failure
        if failure and outcome.result.stage == "tune":
            brief = failure.model_copy(update={"what": failure.what.strip().splitlines()[0]})
            outcome = outcome.model_copy(update={"result": outcome.result.model_copy(update={"failure": brief})})
        super().on_outcome(outcome, rows)


def execute(args: argparse.Namespace) -> int:
    """Search; 0 with a winner, 1 when no cell kept the SLO, 3 when none could be measured."""
    workspace = Workspace(Path(args.workspace))
    run = open_tune(open_run(args.recipe, args.overrides))
    workspace.create()
    with TuneConsole(run) as console:
        record = execute_tune(run, workspace, console)
    print_tune(Console(stderr=True), record)
    if args.json:
        print(json.dumps(record.model_dump(mode="json"), indent=2))
    return record.exit_code
