"""`quantbench schedule render|next RECIPE`"""

import argparse
import getpass
import json
import sys
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from configs.errors import RequestError
from pipelines.cli import common_arguments
from pipelines.cli.rendered_files import write_rendered
from pipelines.cli.run import add_recipe_arguments
from pipelines.planning.open_run import read_recipe
from pipelines.recipe.run_config import RunConfig
from pipelines.recipe.schedule_config import ScheduleConfig
from pipelines.rendering.schedules.rendered import ScheduledRun
from pipelines.rendering.schedules.targets import TARGETS, render_schedule

HELP = "write a recipe's schedule for a scheduler that exists: cron, systemd, Kubernetes, Ray, Airflow, Dagster"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is to be done with the schedule."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    common = common_arguments()
    render = actions.add_parser("render", parents=[common], help="write the files around `quantbench run`")
    add_recipe_arguments(render)
    render.add_argument("--target", required=True, choices=list(TARGETS), help="whose files are written")
    render.add_argument("--out", type=Path, metavar="DIR", help="write them there; printed when left out")
    render.add_argument(
        "--require-pass", action="store_true", help="verdicts count: a run ends with 1 or 4 where one is not a pass"
    )
    render.add_argument("--user", default=None, help="cron and systemd: who runs it (default: you)")
    render.add_argument("--image", metavar="IMAGE", help="Kubernetes: the container's image")
    render.add_argument("--namespace", default="default", help="Kubernetes: where it runs (default: default)")
    render.add_argument("--storage", default="200Gi", metavar="SIZE", help="Kubernetes: of its volume (default: 200Gi)")
    render.add_argument(
        "--workers", type=int, default=2, metavar="N", help="Ray: nodes of the cluster beside its head (default: 2)"
    )
    times = actions.add_parser("next", parents=[common], help="say when it is due")
    add_recipe_arguments(times)
    times.add_argument("--count", type=int, default=5, metavar="N", help="how many times (default: 5)")


def execute(args: argparse.Namespace) -> int:
    """Render or tell; nothing is written unless all files fit."""
    config = read_recipe(args.recipe, args.overrides)
    if config.schedule is None:
        raise RequestError(
            f"{args.recipe} has no schedule",
            remedy="write `schedule: {cron: '0 4 * * 0', timezone: Europe/Berlin}` into it",
        )
    if args.action == "next":
        return _next(config.schedule, args)
    return _render(config, config.schedule, args)


def _next(schedule: ScheduleConfig, args: argparse.Namespace) -> int:
    if not 1 <= args.count <= 1000:
        raise RequestError(f"--count {args.count}", remedy="name a number from 1 to 1000")
    times = list(islice(schedule.times(datetime.now(UTC)), args.count))
    if args.json:
        print(json.dumps([time.isoformat() for time in times]))
    else:
        for time in times:
            print(f"{time:%a %Y-%m-%d %H:%M} {schedule.timezone} ({time.astimezone(UTC):%Y-%m-%d %H:%M} UTC)")
    return 0


def _render(config: RunConfig, schedule: ScheduleConfig, args: argparse.Namespace) -> int:
    run = ScheduledRun(
        config=config,
        schedule=schedule,
        recipe=args.recipe.absolute(),
        workspace=Path(args.workspace).absolute(),
        folder=Path.cwd(),
        program=_program(),
        overrides=args.overrides,
        user=args.user or getpass.getuser(),
        image=args.image,
        namespace=args.namespace,
        storage=args.storage,
        workers=args.workers,
        require_pass=args.require_pass,
    )
    files = render_schedule(run, args.target)
    if args.out is None:
        print("\n".join(files.values()), end="")
        return 0
    write_rendered(files, args.out)
    return 0


def _program() -> list[str]:
    """Quantbench as it runs now."""
    installed = Path(sys.executable).with_name("quantbench")
    return [str(installed)] if installed.is_file() else [sys.executable, "-P", "-m", "pipelines.cli"]
