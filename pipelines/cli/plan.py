"""`quantbench plan RECIPE`"""

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipelines.cli.run import add_recipe_arguments as add_arguments
from pipelines.execution.workspace import Workspace
from pipelines.planning.open_run import known_checkpoint, open_run
from pipelines.planning.plan import plan_stages
from pipelines.planning.preflight import check_rules

__all__ = ["HELP", "add_arguments", "execute"]

HELP = "say what would run, what is reused and why something is stale; starts nothing"


def execute(args: argparse.Namespace) -> int:
    """Print the plan; 2 when a method cannot be made or served as asked."""
    run = open_run(args.recipe, args.overrides)
    workspace = Workspace(Path(args.workspace))
    planned, reused = plan_stages(run.stages, workspace.cache)
    checkpoint = known_checkpoint(reused)
    if args.json:
        stages = [stage.model_dump(mode="json") for stage in planned]
        print(
            json.dumps(
                {"machine": run.context.machine.model_dump(mode="json"), "stages": stages},
                indent=2,
            )
        )
    else:
        table = Table("stage", "action", "why", title=f"{run.context.config.name} on {run.context.machine.device_name}")
        for stage in planned:
            table.add_row(
                stage.name,
                f"[green]{stage.action}" if stage.action == "reuse" else f"[yellow]{stage.action}",
                stage.reason,
            )
        Console().print(table)
        if checkpoint is None:
            Console().print("rules about shapes are checked once the checkpoint is prepared")
    if checkpoint:
        check_rules(run.context, checkpoint)
    return 0
