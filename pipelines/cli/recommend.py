"""`quantbench recommend [RUN]`"""

import argparse
import json
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.text import Text

from configs.errors import QuantbenchError, RequestError
from pipelines.cli import VERDICT_EXIT_CODES
from pipelines.decision.recommend import recommend
from pipelines.execution.finished_runs import run_named
from pipelines.execution.promotion import overrides_of
from pipelines.execution.workspace import Workspace
from pipelines.recipe.policy import Goal, Policy, RecommendConfig
from pipelines.recipe.price_file import read_price
from pipelines.recipe.registry_config import RegistryConfig
from pipelines.records.model_cost import pricing_of
from pipelines.records.run_record import RunRecord
from pipelines.report.console import print_recommendation
from registry.contracts.comparison import Verdict

HELP = "say which artifact of a run to take, and why not the others"

_OUTCOMES: dict[str, Verdict] = {"artifact": "pass", "undecided": "inconclusive", "none": "fail"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which run, and what for."""
    parser.add_argument("run", nargs="?", help="a run's id or its beginning; default: the last run of the workspace")
    goals = get_args(Goal)
    parser.add_argument("--goal", choices=goals, metavar="GOAL", help=f"{', '.join(goals)}; default: the recipe's")
    parser.add_argument(
        "--price",
        type=Path,
        metavar="FILE",
        help="take this price, such as configs/prices/cpu.yaml; default: the run's",
    )


def execute(args: argparse.Namespace) -> int:
    """Print the recommendation; 0 for an artifact, 1 where the baseline stays, 4 where it is undecided."""
    record = run_named(Workspace(Path(args.workspace)), args.run)
    # A recipe from before there were policies has the default one.
    policy = Policy.model_validate(record.config.get("policy", {}))
    # A recipe from before prices had a source has another key for it.
    said = {key: value for key, value in record.config.get("recommend", {}).items() if key != "price_per_hour"}
    config = RecommendConfig.model_validate(said | ({"goal": args.goal} if args.goal else {}))
    registry = RegistryConfig.model_validate(record.config.get("registry", {}))
    price = {"price": read_price(args.price).model_dump(mode="json")} if args.price else {}
    pricing = pricing_of(record.config | price)
    if config.goal == "cheapest" and pricing is None:
        raise RequestError(
            f"run {record.run_id} has no price, so nobody knows what is cheapest",
            remedy="name one: --price configs/prices/cpu.yaml, or another of configs/prices",
        )
    found = recommend(record.rows, policy, config, registry.approval, pricing)
    if args.json:
        print(json.dumps(found.model_dump(mode="json"), indent=2))
    else:
        print_recommendation(Console(), found)
        _print_overrides(record, Workspace(Path(args.workspace)))
    return VERDICT_EXIT_CODES[_OUTCOMES[found.kind]]


def _print_overrides(record: RunRecord, workspace: Workspace) -> None:
    """What was promoted although it may not be."""
    try:
        overrides = overrides_of(record, workspace)
    except QuantbenchError as error:
        Console(stderr=True).print(Text(f"warning: overrides are not shown: {error.what}", "yellow"), soft_wrap=True)
        return
    for row in record.rows:
        for said in overrides.get(row.digest or "", []):
            Console().print(Text(f"{row.name}: {said}", "yellow"), soft_wrap=True)
