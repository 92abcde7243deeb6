"""Gives a command of the user's a record on standard input, and sees that nothing of it stays."""

import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import IO

from serving_checks.processes import guard

_GRACE_SECONDS = 2.0
"""Between SIGTERM and SIGKILL for a command that takes too long."""
_SAID_BYTES = 4096
"""Of what it prints, the end."""
_SAID_CHARACTERS = 300
# The guard's stdin is its lifeline, so a shell that reads nothing of the user's opens the command's.
_WITH_STDIN = ("/bin/sh", "-c", 'exec "$@" <"$0"')


def tell_command(command: Sequence[str], text: str, timeout_seconds: float) -> str | None:
    """Run it with `text` on standard input; why it was not told, in words, or None.

    It and all that it started are gone when this returns, and when this process is killed meanwhile.

    Args:
        command: Program and arguments; no shell reads them.
        text: What it is told.
        timeout_seconds: When to give up on it.
    """
    with tempfile.TemporaryFile() as told:
        told.write(text.encode() + b"\n")
        told.seek(0)
        stdin = f"/proc/self/fd/{told.fileno()}"
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", guard.__file__, str(_GRACE_SECONDS), *_WITH_STDIN, stdin, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[told.fileno()],
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            return f"{command[0]} cannot be started: {error}"
        with process:
            return _attended(process, command[0], timeout_seconds)


def _attended(process: subprocess.Popen[bytes], name: str, timeout_seconds: float) -> str | None:
    lifeline, printed = process.stdin, process.stdout
    assert lifeline is not None  # noqa: S101 - both are pipes
    assert printed is not None  # noqa: S101
    end = bytearray()
    reader = threading.Thread(target=_keep_end, args=(printed, end), daemon=True)
    reader.start()
    why = None
    try:
        with suppress(BrokenPipeError):  # somebody killed the guard; its exit code tells
            lifeline.write(guard.BEGIN)
        code = process.wait(timeout_seconds)
    except subprocess.TimeoutExpired:
        why = f"{name} did not end within {timeout_seconds:g} s and was ended"
    finally:
        with suppress(BrokenPipeError):
            lifeline.close()
        process.wait()
        reader.join()
    if why is None and code != 0:
        said = " ".join(end.decode(errors="replace").split())[-_SAID_CHARACTERS:]
        why = f"{name} ended with exit code {code}" + (f": {said}" if said else "")
    return why


def _keep_end(printed: IO[bytes], end: bytearray) -> None:
    while part := printed.read(1 << 16):
        end += part
        del end[:-_SAID_BYTES]
