"""The nodes of a Ray cluster, asked through a process of its own (`stage_programs/ray_broker.py`)."""

import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from configs.errors import RequestError, StageError
from pipelines.recipe.executor_config import RayExecutor
from pipelines.stage_programs.ray_broker import RESOURCE, Answer, Call, ClusterNode
from serving_checks.processes.supervisor import Supervised
from serving_checks.transport.reachable import why_unreachable

_CONNECT_SECONDS = 90.0
"""For Ray's import and a cluster's answer; of `local`, until it is there."""
_LISTEN_SECONDS = 0.2
_END_SECONDS = 5.0
_START_NODES = f"start nodes with `ray start --address HOST:PORT --resources '{{\"{RESOURCE}\": 1}}'`, see docs/ray.md"


class ClusterGone(StageError):
    """The cluster does not answer any more."""


class RayCluster:
    """The cluster of one run, for the length of a block; safe to use by several threads.

    Args:
        executor: Which one.
        log_file: Gets what Ray says.

    Raises:
        RequestError: Ray is not installed here.
    """

    def __init__(self, executor: RayExecutor, log_file: Path) -> None:
        if find_spec("ray") is None:
            raise RequestError(
                "the recipe's `executor` is ray, and Ray is not installed here",
                remedy="pip install 'quantbench[ray]' here and on each node; or --set 'executor={kind: local}'",
                blame="machine",
            )
        self._executor, self._log_file = executor, log_file
        self._open = ExitStack()

    def __enter__(self) -> Self:
        if unreachable := why_unreachable(self._executor.address.removeprefix("ray://")):
            raise self._no_answer(unreachable)
        folder = Path(tempfile.mkdtemp(prefix="quantbench-"))  # short: a socket's path has at most 107 characters
        self._open.callback(shutil.rmtree, folder, ignore_errors=True)
        self._socket = folder / "ray"
        argv = [sys.executable, "-P", "-m", "pipelines.stage_programs.ray_broker"]
        self._broker = Supervised(
            [*argv, str(self._socket), self._executor.address],
            log_file=self._log_file,
            env={"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"},
            grace_seconds=_END_SECONDS,
        )
        self._open.push(self._broker)
        try:
            self._broker.start()
            self._await_connection()
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def nodes(self) -> list[ClusterNode]:
        """Those that may do the work of stages.

        Raises:
            RequestError: There is none.
            ClusterGone: The cluster does not answer.
        """
        found = self._asked(Call(), Event(), lambda _: None).nodes or []
        if not found:
            raise RequestError(
                f"no node of the Ray cluster {self._executor.address} has the resource `{RESOURCE}`",
                remedy=_START_NODES,
                blame="machine",
            )
        return found

    def call(self, call: Call, given_up: Event, on_progress: Callable[[str], None]) -> str:
        """Call a function of text on a node, and give its text.

        Args:
            call: What, and where.
            given_up: Set when nobody waits any more: it is taken back.
            on_progress: Called with what it says.

        Raises:
            ClusterGone: The cluster does not answer any more.
            StageError: There is none, for a reason of the cluster's.
        """
        on_progress("waiting for a node")
        answer = self._asked(call, given_up, on_progress)
        if answer.text is None:
            raise StageError(
                f"on the Ray cluster {self._executor.address}: {answer.fault}",
                remedy="see `ray status` and its nodes' logs, then run it again: finished stages are kept",
                blame="machine",
            )
        return answer.text

    def _asked(self, call: Call, given_up: Event, on_progress: Callable[[str], None]) -> Answer:
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(str(self._socket))
                connection.sendall(call.model_dump_json().encode() + b"\n")
                return self._last_answer(connection, given_up, on_progress)
            except (OSError, ValidationError):
                raise self._gone() from None

    def _last_answer(self, connection: socket.socket, given_up: Event, on_progress: Callable[[str], None]) -> Answer:
        connection.settimeout(_LISTEN_SECONDS)
        received = bytearray()
        while True:
            if given_up.is_set():
                raise StageError("nobody waits for it any more", remedy="run the same command again")
            try:
                part = connection.recv(1 << 16)
            except TimeoutError:
                continue
            if not part:
                raise ConnectionResetError
            received += part
            while b"\n" in part:
                line, _, rest = bytes(received).partition(b"\n")
                received, part = bytearray(rest), rest
                answer = Answer.model_validate_json(line)
                if answer.said is None:
                    return answer
                on_progress(answer.said)

    def _await_connection(self) -> None:
        deadline = time.monotonic() + _CONNECT_SECONDS
        while not self._socket.exists():
            if self._broker.wait(_LISTEN_SECONDS) is not None or time.monotonic() > deadline:
                raise self._no_answer(self._last_line())

    def _no_answer(self, why: str) -> StageError:
        return StageError(
            f"the Ray cluster {self._executor.address} does not answer: {why}",
            remedy=f"see that it runs (`ray status`); a machine that is no node of it names ray://HOST:10001;"
            f" {_START_NODES}. All that Ray says is in {self._log_file}",
            blame="machine",
        )

    def _gone(self) -> ClusterGone:
        return ClusterGone(
            f"the Ray cluster {self._executor.address} is gone: {self._last_line()}",
            remedy=f"start it again and run the same command: finished stages are kept. All that Ray says is in"
            f" {self._log_file}",
            blame="machine",
        )

    def _last_line(self) -> str:
        lines = [line.strip() for line in self._broker.log_tail().splitlines() if line.strip()]
        return lines[-1] if lines else "Ray said nothing"
