"""The command line: one file a command, exit codes in `configs.errors`."""

import argparse
import importlib
import importlib.metadata
import logging
import platform
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from configs.errors import QuantbenchError
from registry.contracts.comparison import Verdict
from registry.explain import explanation_of

COMMANDS = (
    "init",
    "run",
    "schedule",
    "plan",
    "recommend",
    "review",
    "registry",
    "tune",
    "bench",
    "doctor",
    "env",
    "artifacts",
    "compare",
    "shadow",
)
"""Each is a module here with `HELP`, `add_arguments(parser)` and `execute(args) -> exit code`."""

INTERRUPTED = 130
VERDICT_EXIT_CODES: dict[Verdict, int] = {"pass": 0, "fail": 1, "inconclusive": 4}
"""Of commands that end with a verdict; a failed verdict is a result, not an error."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `quantbench`.

    Returns:
        0 done, 2 the request is wrong, 3 a stage failed, 130 interrupted; where a verdict is asked for, 1 fail and
        4 inconclusive.
    """
    args = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    stop = _Stop()
    try:
        exit_code = int(_module(args.command).execute(args))
        sys.stdout.flush()  # here, where a full disk below it is explained
        return exit_code
    except QuantbenchError as error:
        return _failed(error, args)
    except BrokenPipeError:
        return 0
    except (KeyboardInterrupt, OSError) as error:
        # With its terminal gone, even the farewell of the progress display fails.
        if stop.asked or isinstance(error, KeyboardInterrupt):
            return _interrupted()
        return _failed(explanation_of(error, args.command, Path(args.workspace)), args)
    except Exception as error:
        if args.debug:
            raise
        print(
            f"error: {type(error).__name__}: {error}\n"
            "  remedy: this failure is not an explained one; run again with --debug and report it",
            file=sys.stderr,
        )
        return QuantbenchError.exit_code


def _failed(error: QuantbenchError, args: argparse.Namespace) -> int:
    """Tell what went wrong; the exit code."""
    if args.debug:
        traceback.print_exc()
    with suppress(OSError):  # where stderr is a file on a full disk, the exit code says it alone
        print(f"error: {error}", file=sys.stderr)
    return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="quantbench", description="Quantize a language model and measure what it lost."
    )
    version = f"%(prog)s {importlib.metadata.version('quantbench')} (Python {platform.python_version()})"
    parser.add_argument("--version", action="version", version=version)
    common = common_arguments()
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        module = _module(name)
        command = commands.add_parser(name, help=module.HELP, description=module.HELP, parents=[common])
        command.set_defaults(workspace="workspace", json=False, debug=False)
        module.add_arguments(command)
    return parser


def common_arguments() -> argparse.ArgumentParser:
    """A parent of every command's parser, and of those of a command's actions: options may stand before or behind one.

    Without defaults, since those of an action would take the place of what was said before it.
    """
    parser = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("--workspace", metavar="DIR", help="where results are kept (default: ./workspace)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def _module(command: str) -> Any:
    return importlib.import_module(f"pipelines.cli.{command}")


def _interrupted() -> int:
    with suppress(OSError):
        print("\ninterrupted; run the same command again, complete stages are not repeated", file=sys.stderr)
    return INTERRUPTED


class _Stop:
    """A scheduler's SIGTERM and a closed terminal's SIGHUP take the same way out as Ctrl-C: stages are ended, half-made
    files removed. A second signal does not break that off; where it hangs, SIGKILL leaves nothing either.

    What this process was told to ignore, as by nohup, it goes on ignoring.
    """

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._interrupt)

    def _interrupt(self, signal_number: int, frame: object) -> None:
        if not self.asked:
            self.asked = True
            raise KeyboardInterrupt
