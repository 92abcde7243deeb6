"""`quantbench bench CONFIG`"""

import argparse
import json
from pathlib import Path

from rich.console import Console

from pipelines.cli.run import add_overrides
from pipelines.execution.bench import execute_bench, open_bench
from pipelines.execution.workspace import Workspace
from pipelines.report.bench_table import print_bench
from pipelines.report.work_console import WorkConsole

HELP = "load and check one served model: an engine that is started, or a server that runs already"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The config, what is changed in it, and whether a profile is wanted."""
    parser.add_argument("config", type=Path, help="a YAML file such as configs/bench/transformers.yaml")
    add_overrides(parser, "serving.max_model_len=1024")
    parser.add_argument(
        "--profile",
        dest="overrides",
        action="append_const",
        const="profile=true",
        help="keep a profiler trace of a few engine steps",
    )


def execute(args: argparse.Namespace) -> int:
    """Bench it; 0 when all is sound, 1 when a check failed or a load test is not to be believed."""
    workspace, console = Workspace(Path(args.workspace)), Console(stderr=True)
    bench = open_bench(args.config, args.overrides)
    workspace.create()
    with WorkConsole(bench.config.name, console) as shown:
        result = execute_bench(bench, workspace, shown.on_progress)
    print_bench(console, result)
    if args.json:
        print(json.dumps(result.record.model_dump(mode="json"), indent=2))
    return result.exit_code
