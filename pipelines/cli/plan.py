"""`quantbench plan RECIPE`"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from evals.judging.reach import Reach, reach
from evals.suites.resolve import resolve
from evals.suites.suite import Suite
from pipelines.cli.run import add_recipe_arguments as add_arguments
from pipelines.execution.workspace import Workspace
from pipelines.planning.concurrency import Sharing, sharing_of, sharing_of_nodes
from pipelines.planning.open_run import known_checkpoint, open_run
from pipelines.planning.plan import PlannedStage, plan_stages, with_beside
from pipelines.planning.preflight import check_rules
from pipelines.recipe.executor_config import ExecutorConfig, RayExecutor
from quantizers.checkpoints.sources import checkpoint_bytes
from registry.contracts import EvaluationRecord, MeasurementRecord, StageResult

__all__ = ["HELP", "add_arguments", "execute"]

HELP = "say what would run, what is reused and why something is stale; starts nothing"


def execute(args: argparse.Namespace) -> int:
    """Print the plan and the verdicts within reach; 2 when a method cannot be made or served as asked."""
    run = open_run(args.recipe, args.overrides)
    workspace = Workspace(Path(args.workspace))
    planned, reused = plan_stages(run.stages, workspace.cache)
    checkpoint = known_checkpoint(reused)
    config, machine = run.context.config, run.context.machine
    if isinstance(config.executor, RayExecutor):
        sharing = sharing_of_nodes(config, None)
    else:
        sharing = sharing_of(config, machine, _model_bytes(reused) or checkpoint_bytes(config.source))
    planned = with_beside(planned, run.stages, sharing)
    categories = reach(resolve(run.context.suite, run.context.config.evaluation.data), _baseline(reused))
    if args.json:
        facts = {
            "machine": run.context.machine.model_dump(mode="json"),
            "concurrency": sharing.model_dump(mode="json"),
            "stages": [stage.model_dump(mode="json") for stage in planned],
            "left_out": run.left_out,
            "verdicts": [one.model_dump(mode="json") for one in categories],
        }
        print(json.dumps(facts, indent=2))
    else:
        table = Table("stage", "action", "why", "goes on beside it", title=f"{config.name} on {machine.device_name}")
        for stage in planned:
            table.add_row(
                stage.name,
                f"[green]{stage.action}" if stage.action == "reuse" else f"[yellow]{stage.action}",
                stage.reason,
                _beside(stage),
            )
        Console().print(table)
        Console().print(_sharing(config.executor, sharing), soft_wrap=True)
        for name, why in run.left_out.items():
            Console().print(f"[yellow]{name} is left out: {why}")
        Console().print(_verdicts(run.context.suite, categories))
        if checkpoint is None:
            Console().print("rules about shapes are checked once the checkpoint is prepared")
    if checkpoint:
        check_rules(run.context, checkpoint)
    return 0


def _baseline(reused: Mapping[str, StageResult]) -> EvaluationRecord | None:
    """What the baseline scored, where that is kept."""
    measured = reused.get("measure:baseline")
    return MeasurementRecord.model_validate(measured.record).evaluation if measured else None


def _model_bytes(reused: Mapping[str, StageResult]) -> int | None:
    prepared = reused.get("prepare")
    return prepared.object.size_bytes if prepared and prepared.object else None


def _sharing(executor: ExecutorConfig, sharing: Sharing) -> str:
    """How many stages at a time, where, and why."""
    if isinstance(executor, RayExecutor):
        return (
            f"on the Ray cluster {executor.address}, through {executor.store}: as many stages at a time as it has nodes"
            " (the run asks them), one on each; nothing is measured beside anything"
        )
    if sharing.stages == 1:
        return f"one stage at a time: {sharing.reason}"
    return (
        f"{sharing.stages} stages at a time: {sharing.reason}. Artifacts are made beside each other; load tests, memory"
        " and proofs are alone"
    )


def _beside(stage: PlannedStage) -> str:
    """What may be made while a model is measured; `--json` has all pairs."""
    if not stage.name.startswith("measure:"):
        return ""
    made = dict.fromkeys(name.partition(":")[2] for name in stage.beside if ":" in name)
    others = [name for name in stage.beside if ":" not in name]
    return "; ".join([*others, *([f"making {', '.join(made)}"] if made else [])])


def _verdicts(suite: Suite, categories: Sequence[Reach]) -> Table:
    """Which verdicts the suite can reach on an artifact."""
    table = Table("category", "items", "margin", "verdict", title=f"verdicts that suite {suite.name} can reach")
    table.add_column("a pass if nothing is lost and")
    for one in categories:
        items = "?" if one.items is None else f"{one.items:,}"
        said = one.said if one.can_pass else f"[yellow]{one.said}"
        chance = f"{one.assumption}: {one.chance:.0%}"
        table.add_row(one.category, items, f"{100 * one.margin:g} %", said, chance)
    return table
