"""One server as a context manager: started, waited for, read, and gone afterwards. Which engine's is the config's."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from configs.errors import RequestError, StageError
from registry.contracts.serving import Endpoint
from serving_checks.engines.base import LOOPBACK, Engine, LaunchedEngine, LogFacts, ServerRequest
from serving_checks.engines.table import engine_of
from serving_checks.http_json import get_text
from serving_checks.supervisor import Supervised

_POLL_SECONDS = 0.3


@dataclass(frozen=True)
class RunningServer:
    """A healthy server, for as long as the `serve` block lasts."""

    engine: Engine
    endpoint: Endpoint
    start_seconds: float
    """From launching it to its first healthy answer; without the imports where it was forked."""
    forked: bool
    command: list[str]
    command_line: str
    """The same as a shell command, variables included."""
    log_file: Path
    pid: int
    peak_memory_bytes: Callable[[], int | None]
    """Highest PSS of the whole process tree so far."""

    @property
    def log(self) -> str:
        """What the server has printed so far."""
        return self.log_file.read_text(errors="replace")

    @property
    def facts(self) -> LogFacts:
        """What the log says so far: kernel and warnings."""
        return self.engine.facts_of(self.log)


def free_port(wanted: int | None) -> int:
    """`wanted` if nothing listens there, any free port for None.

    Raises:
        RequestError: Something listens on `wanted`.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, wanted or 0))
        except OSError as error:
            raise RequestError(
                f"port {wanted} on {LOOPBACK} cannot be used: {error.strerror}",
                remedy="leave `port` out to get a free one, or stop what listens there",
            ) from None
        return int(probe.getsockname()[1])


def check_servable(engine: Engine, request: ServerRequest) -> None:
    """Refuse before anything is started what is known to fail minutes later.

    Raises:
        RequestError: No model there, or what the engine does not take.
    """
    config_file = request.model_dir / "config.json"
    if not config_file.is_file():
        raise RequestError(f"{config_file} cannot be read: no such file", remedy="name a model directory")
    found = engine.refusals(request)
    if found:
        raise RequestError(
            f"{engine.name} does not serve {request.model_dir} as asked:" + "".join(f"\n  - {line}" for line in found),
            remedy="change `serving` or `dtype` as each line says",
        )


def _await_health(engine: LaunchedEngine, child: Supervised, base_url: str) -> float:
    """Wait for the engine's health path; the seconds since the call."""
    deadline_seconds = engine.config.start_deadline_seconds
    start = time.monotonic()
    while True:
        exit_code = child.wait(_POLL_SECONDS)
        if exit_code is not None:
            death = engine.death_of(child.log_file.read_text(errors="replace"), exit_code)
            raise StageError(
                f"the server died at start with exit code {exit_code}: {death.reason}\n"
                f"  command: {child.command_line}\n  last lines of {child.log_file}:\n{child.log_tail()}",
                remedy=death.remedy,
            )
        try:
            get_text(base_url + engine.health_path, timeout_seconds=2.0)
            return time.monotonic() - start
        except OSError:
            pass
        if time.monotonic() - start > deadline_seconds:
            raise StageError(
                f"the server was not healthy after {deadline_seconds:.0f} s and was stopped\n"
                f"  command: {child.command_line}\n  last lines of {child.log_file}:\n{child.log_tail()}",
                remedy="raise `start_deadline_seconds` if the machine is slow, or run the command by hand and watch it",
            )


@contextmanager
def serve(
    request: ServerRequest, log_file: Path, engine: Engine | None = None, fork_server: Path | None = None
) -> Iterator[RunningServer]:
    """Serve a model on loopback for the length of the block.

    Args:
        log_file: Gets the server's output.
        engine: What serves; the one that the request's config is for when None.
        fork_server: Address of what `Engine.fork_server` started, if there is one; the server is then ready in seconds.

    Raises:
        RequestError: The port is taken, or the model cannot be served like this; nothing was started.
        StageError: The server died at start or was not healthy in time; it and all its children are gone.
    """
    engine = engine or engine_of(request.config)
    check_servable(engine, request)
    if not isinstance(engine, LaunchedEngine):
        raise TypeError(f"{engine.name} starts no server")
    port = free_port(engine.config.port)
    command = engine.command(request, port)
    base_url = f"http://{LOOPBACK}:{port}"
    with (
        # Engines leave sockets behind (vLLM two files a server). The name is short because a socket's path has to be.
        TemporaryDirectory(prefix="qb-", ignore_cleanup_errors=True) as scratch,
        Supervised(
            command.argv, env=command.env | {"TMPDIR": scratch}, log_file=log_file, fork_server=fork_server
        ) as child,
    ):
        start_seconds = _await_health(engine, child, base_url)
        yield RunningServer(
            engine=engine,
            endpoint=Endpoint(
                base_url=base_url,
                served_model_name=engine.served_model_name(request),
                model_path=str(request.model_dir),
                max_model_len=request.config.max_model_len,
            ),
            start_seconds=start_seconds,
            command=command.argv,
            command_line=child.command_line,
            log_file=log_file,
            pid=child.pid,
            forked=child.forked,
            peak_memory_bytes=lambda: child.peak_memory_bytes,
        )
