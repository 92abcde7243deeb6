"""`quantbench shadow replay|verdict|route|up|ramp|render|observe`"""

import argparse

from pipelines.cli import (
    common_arguments,
    shadow_observe,
    shadow_ramp,
    shadow_render,
    shadow_replay,
    shadow_route,
    shadow_up,
    shadow_verdict,
)

HELP = "ask two models what users asked, and judge the candidate by the answers"

_ACTIONS = {
    "replay": shadow_replay,
    "verdict": shadow_verdict,
    "route": shadow_route,
    "up": shadow_up,
    "ramp": shadow_ramp,
    "render": shadow_render,
    "observe": shadow_observe,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, each action with its own arguments beside the common ones."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, module in _ACTIONS.items():
        module.add_arguments(
            actions.add_parser(name, help=module.HELP, description=module.HELP, parents=[common_arguments()])
        )


def execute(args: argparse.Namespace) -> int:
    """Do what was asked for."""
    return int(_ACTIONS[args.action].execute(args))
