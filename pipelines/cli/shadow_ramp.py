"""`quantbench shadow ramp status|hold|resume|restart|stop`"""

import argparse
import json
from pathlib import Path
from typing import get_args

from rich.console import Console

from configs.errors import RequestError
from pipelines.cli.registry import add_run_arguments, registry_of
from pipelines.decision.ramp import RampAction, following_word
from pipelines.execution.notices import notify
from pipelines.execution.ramp import Ramp, RampRow
from pipelines.execution.workspace import Workspace
from registry.ledger import MovedMeanwhileError

HELP = "say how large a share of the clients the candidate answers, and hold it there, go on, begin anew or stop"
_ACTIONS: tuple[RampAction, ...] = get_args(RampAction)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do with the ramp, and why."""
    parser.add_argument("ramp_action", choices=("status", *_ACTIONS), metavar="|".join(("status", *_ACTIONS)))
    add_run_arguments(parser)
    parser.add_argument("--why", default="", metavar="TEXT", help="written into the ledger")


def execute(args: argparse.Namespace) -> int:
    """Do it, and print where the ramp is; gateways follow within `follow_seconds`."""
    workspace, console = Workspace(Path(args.workspace)), Console(stderr=True)
    workspace.check_exists()
    registry = registry_of(args, workspace, console)
    aliases = registry.config.aliases
    ramp = Ramp(registry.ledger, registry.model, aliases.of("shadow"), aliases.of("champion"))
    row = ramp.last()
    if row is None:
        raise RequestError(
            f"no ramp of {registry.model} has begun",
            remedy="run a gateway with `split.ramp`, and promote a candidate to `shadow`",
        )
    alias = registry.ledger.last(registry.model, f"alias:{aliases.of('shadow')}")
    is_over = alias is None or alias.sequence != row.record.candidate_row
    for action in _ACTIONS:
        if args.ramp_action == action:
            if is_over:
                raise RequestError(
                    f"the ramp of version {row.entry.version_to} is over: {aliases.of('shadow')} has moved since",
                    remedy="promote it to `shadow` again, which begins a new one",
                )
            row = _written(ramp, row, action, registry.who, args.why)
            notify(registry.config, row.entry, registry.warn)
    told = {"entry": row.entry.model_dump(mode="json"), "ramp": row.record.model_dump(mode="json")}
    print(json.dumps(told | {"is_over": is_over}, indent=2) if args.json else status_text(row, is_over=is_over))
    return 0


def _written(ramp: Ramp, row: RampRow, action: RampAction, who: str, why: str) -> RampRow:
    try:
        return ramp.write(following_word(row.record, action), row, who, why)
    except MovedMeanwhileError as error:
        raise RequestError(
            f"the ramp moved meanwhile: {error}", remedy="look at `quantbench shadow ramp status`, and decide again"
        ) from error


def status_text(row: RampRow, *, is_over: bool) -> str:
    """Where a ramp is, in lines.

    Args:
        is_over: The alias has moved since, so no client is answered by this candidate any more.
    """
    entry, record = row
    answers = f"it answers {100 * record.share:g} % of the clients"
    lines = [
        f"version {entry.version_to} ({entry.name or 'no name'}): {record.state} at {record.step_text};"
        f" {'over, since the alias has moved' if is_over else answers}",
        f"since {entry.at:%Y-%m-%d %H:%M:%S} UTC, {entry.kind} by {entry.who}: {entry.why}",
    ]
    return "\n".join([*lines, f"judged by the pairs of {record.judge}"] if record.judge else lines)
