"""`quantbench shadow verdict FOLDER`"""

import argparse

from pipelines.cli import shadow_verdict

HELP = "judge a candidate by its answers to what the champion was asked"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, each action with its own arguments beside the common ones."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    shadow_verdict.add_arguments(actions.add_parser("verdict", help=shadow_verdict.HELP))


def execute(args: argparse.Namespace) -> int:
    """Do what was asked for."""
    return {"verdict": shadow_verdict.execute}[args.action](args)
