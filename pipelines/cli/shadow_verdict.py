"""`quantbench shadow verdict FOLDER`"""

import argparse
import json
from pathlib import Path

from rich.console import Console

from configs.loading import load_yaml_model
from evals.judging.verdict_config import VerdictConfig
from pipelines.cli import VERDICT_EXIT_CODES
from pipelines.cli.registry import add_run_arguments, registry_of
from pipelines.execution.notices import notify
from pipelines.execution.shadow_evidence import record_verdict
from pipelines.execution.shadow_verdict import tried_in, verdicts_of
from pipelines.execution.workspace import Workspace
from pipelines.report.verdict_table import look_line, print_verdict
from registry.contracts import ShadowVerdict

HELP = "say whether the candidate's answers are as good as the champion's; valid whenever one looks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Whose pairs, by which limits, and how long to look."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the folder of a replay or a gateway")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="judge by these limits; the verdict is exploratory unless they are those stored with the pairs",
    )
    parser.add_argument(
        "--record",
        action="store_true",
        help="write the verdict into the ledger, where `policy.shadow_verdict` finds it",
    )
    add_run_arguments(parser)
    parser.add_argument("--watch", action="store_true", help="look again while pairs are recorded, until it is decided")


def execute(args: argparse.Namespace) -> int:
    """Judge; 0 pass, 1 fail, 4 not decided, or judged by limits that were not stored before the pairs."""
    config = load_yaml_model(args.config, VerdictConfig) if args.config else None
    progress = Console(stderr=True)
    for verdict in verdicts_of(args.folder, config, watch=args.watch):
        if args.watch:
            progress.print(look_line(verdict), soft_wrap=True, markup=False, highlight=False)
    if args.json:
        print(json.dumps(verdict.model_dump(mode="json"), indent=2))
    else:
        print_verdict(Console(), verdict)
    if args.record:
        registry = registry_of(args, Workspace(Path(args.workspace)), progress)
        entry = record_verdict(registry.ledger, registry.model, registry.who, tried_in(args.folder), verdict)
        notify(registry.config, entry, registry.warn)
        progress.print(f"recorded: {entry.why}", soft_wrap=True, markup=False, highlight=False)
    return exit_code_of(verdict)


def exit_code_of(verdict: ShadowVerdict) -> int:
    """Nothing is promoted, and nothing turned down, by limits that may have been chosen by the results."""
    if not verdict.frozen or verdict.outcome == "continue":
        return VERDICT_EXIT_CODES["inconclusive"]
    return VERDICT_EXIT_CODES[verdict.outcome]
