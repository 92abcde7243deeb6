"""A process that has imported what is slow to import, and forks commands that then start at once.

`import vllm` takes half a minute on a slow core, and each server needs it anew. Here one process imports it, and does
nothing more: no engine is made, no OpenMP region entered, no GPU touched. Every `python -P -m module ...` that is asked
for over its socket becomes a fork of it, in which the module runs as `__main__`, guarded as any other command is.

    python -P -m serving_checks.processes.fork_server <socket> <module to import>...

A request is one message (SOCK_SEQPACKET) with two open files, the lifeline and the log; it is answered with the guard's
process id and, when all is over, with the exit code. The socket's folder has to be private to the user.
"""

import atexit
import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NoReturn

from serving_checks.processes import guard
from serving_checks.processes.pulse import Patience, Pulse

_MESSAGE_BYTES = 1 << 17
_REPLY_SECONDS = 180.0
"""Longest wait for a process that is still importing."""
_STOPPED_SECONDS = 2.0
_TICK_SECONDS = 0.5
_CREDENTIALS = struct.Struct("3i")
"""Process, user and group at a socket's other end (unix(7), SO_PEERCRED)."""


class ForkedCommand:
    """A command that a fork server started; what `subprocess.Popen` is to one that was executed.

    Args:
        connection: To its guard, which sends the exit code last.
        stdin: The open end of the guard's, its lifeline; unbuffered.
        pid: The guard's process id.
    """

    def __init__(self, connection: socket.socket, stdin: io.FileIO, pid: int) -> None:
        self._connection = connection
        self.stdin = stdin
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, or None while the command runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit code; -9 where the guard was killed before it could tell.

        Raises:
            subprocess.TimeoutExpired: The command still runs.
        """
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("forked command", timeout or 0.0)
            message = self._connection.recv(_MESSAGE_BYTES)
            self.returncode = int(json.loads(message)["exit_code"]) if message else -9
            self._connection.close()
        return self.returncode


def launch(
    address: Path, argv: Sequence[str], env: Mapping[str, str], cwd: Path, log: int, grace_seconds: float
) -> ForkedCommand | None:
    """Have the fork server at `address` run `argv`, once `guard.BEGIN` is written to what this returns.

    Args:
        argv: Only `[sys.executable, "-P", "-m", module, ...]` can be forked.
        env: Variables on top of the fork server's; those that its libraries read at import have to be set there too.
        log: File descriptor for stdout and stderr.
        grace_seconds: Between SIGTERM and SIGKILL.

    Returns:
        None where nothing answers or the command is of another kind: it has to be started in the plain way.
    """
    if list(argv[:3]) != [sys.executable, "-P", "-m"]:
        return None
    request = {"argv": list(argv[3:]), "env": dict(env), "cwd": str(cwd), "grace_seconds": grace_seconds}
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    lifeline, kept = os.pipe()
    stdin = io.FileIO(kept, "wb")
    with ExitStack() as unless_launched:
        unless_launched.callback(connection.close)
        unless_launched.callback(stdin.close)
        try:
            connection.settimeout(_REPLY_SECONDS)
            connection.connect(str(address))
            socket.send_fds(connection, [json.dumps(request).encode()], [lifeline, log])
            _await_reply(connection)
            pid = int(json.loads(connection.recv(_MESSAGE_BYTES))["pid"])
            command = ForkedCommand(connection, stdin, pid)
        except (OSError, ValueError):
            return None
        finally:
            os.close(lifeline)
        unless_launched.pop_all()
    return command


def _await_reply(connection: socket.socket) -> None:
    """Wait for an answer, but not for one from a fork server that somebody stopped.

    Raises:
        TimeoutError: It is stopped, or takes longer than any import.
    """
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    (server, _, _) = _CREDENTIALS.unpack(credentials)
    pulse = Pulse(server, Patience(_REPLY_SECONDS, None, _STOPPED_SECONDS))
    while not select.select([connection], [], [], _TICK_SECONDS)[0]:
        stuck = pulse.look()
        if stuck:
            raise TimeoutError(stuck.what)


def _await_command(listener: socket.socket) -> dict[str, Any]:
    """Fork once for each request; returns only in the forks that are to run a command."""
    while True:
        connection, _ = listener.accept()
        _reap()
        message, files, _, _ = socket.recv_fds(connection, _MESSAGE_BYTES, 2)
        if len(files) == 2 and os.fork() == 0:
            listener.close()
            request: dict[str, Any] = json.loads(message)
            _become_guarded(connection, files, request["grace_seconds"])
            return request
        connection.close()
        for file in files:
            os.close(file)


def _become_guarded(connection: socket.socket, files: list[int], grace_seconds: float) -> None:
    """Turn this fork into a guard that never returns, and a child of it that does."""
    os.setsid()
    for file, places in zip(files, ((0,), (1, 2)), strict=True):
        for place in places:
            os.dup2(file, place)
        os.close(file)
    try:
        connection.send(json.dumps({"pid": os.getpid()}).encode())
        command_pid = guard.fork_command() if guard.begun() else None
        if command_pid == 0:
            connection.close()
            return
        exit_code = guard.NOT_STARTED if command_pid is None else guard.supervise(command_pid, grace_seconds)
        connection.send(json.dumps({"exit_code": exit_code}).encode())
    except BaseException:
        os._exit(1)
    os._exit(0)


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _run_and_exit(module: str) -> NoReturn:
    """Run a module as a program and end this process as `multiprocessing` ends its forks (popen_fork.py, process.py).

    Its threads are joined and its atexit functions called. What an interpreter does after that, taking every object
    apart, copies the pages that are shared with the fork server, a second's work, and frees nothing that the end of the
    process does not.
    """
    exit_code = 1
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        exit_code = 0
    except SystemExit as stop:
        if not (stop.code is None or isinstance(stop.code, int)):
            print(stop.code, file=sys.stderr)
        exit_code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        traceback.print_exc()
        exit_code = 128 + signal.SIGINT  # as a Python of its own ends
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(exit_code & 0xFF)


def main(address: str, modules: Sequence[str]) -> None:
    """Import `modules`, then fork a process for each request and run it there."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # Its name is seen when it listens: whoever finds it may connect.
    listener.bind(f"{address}~")
    listener.listen()
    Path(f"{address}~").rename(address)
    for module in modules:
        importlib.import_module(module)
    # Else the first collection in every fork writes to each object's header, and so copies every page.
    gc.collect()
    gc.freeze()
    request = _await_command(listener)
    os.environ.update(request["env"])
    tempfile.tempdir = None  # TMPDIR is read once; a fork may have another
    os.chdir(request["cwd"])
    sys.argv = request["argv"]
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    # A module that was imported before it runs as __main__ is what is wanted here.
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="runpy")
    _run_and_exit(sys.argv[0])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
