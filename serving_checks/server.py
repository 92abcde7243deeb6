"""One server as a context manager: started, waited for, read, and gone afterwards. Which engine's is the config's."""

import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from configs.errors import RequestError, StageError
from registry.contracts.serving import Endpoint
from serving_checks.engines.base import LOOPBACK, AttachedEngine, Engine, EngineFacts, LaunchedEngine, ServerRequest
from serving_checks.engines.table import engine_of
from serving_checks.processes.endings import Death, Ending, death_of
from serving_checks.processes.guard import descendants_of, remove_shared_memory, shared_memory_of
from serving_checks.processes.pulse import UNBOUNDED, Patience, Pulse, Stuck
from serving_checks.processes.scratch import note_shared_memory
from serving_checks.processes.supervisor import Supervised, quoted
from serving_checks.processes.watch import Watch
from serving_checks.transport.http_json import get_text

_QUIET_PORTS = range(20_000, 32_768)
"""Below those that Linux gives to whoever asks for any, each outgoing connection among them (ip(7),
ip_local_port_range): a server binds its port seconds after it was looked for."""
_MOST_TRIES = 100
_POLL_SECONDS = 0.3
_END_SECONDS = 5.0
"""Longest time from a server's death, which those who ask it may notice first, to the end of all it has left."""


@dataclass(frozen=True)
class RunningServer:
    """A healthy server, for as long as the `serve` block lasts."""

    engine: Engine
    endpoint: Endpoint
    command: list[str] = field(default_factory=list)
    """Empty for a server that ran already, and so on below."""
    start_seconds: float | None = None
    """From launching it to its first healthy answer; without the imports where it was forked."""
    child: Supervised | None = None
    """Its process."""
    watch: Watch | None = None
    """Who looks after it."""

    @property
    def pid(self) -> int | None:
        """Of the process whose descendants the server's processes are."""
        return self.child.pid if self.child else None

    @property
    def forked(self) -> bool:
        """Whether it came from a fork server."""
        return self.child is not None and self.child.forked

    @property
    def suspended_seconds(self) -> float:
        """How long one of its processes was stopped from outside so far; what was measured then is too slow."""
        return self.watch.suspended_seconds if self.watch else 0.0

    @property
    def command_line(self) -> str | None:
        """The command as a shell takes it, variables included."""
        return self.child.command_line if self.child else None

    def peak_memory_bytes(self) -> int | None:
        """Highest PSS of the whole process tree so far."""
        return self.child.peak_memory_bytes if self.child else None

    @property
    def log_file(self) -> Path | None:
        """Where its output goes."""
        return self.child.log_file if self.child else None

    @property
    def log(self) -> str:
        """What it has printed so far."""
        return self.child.log if self.child else ""

    @property
    def facts(self) -> EngineFacts:
        """How it serves, in the engine's own words."""
        return self.engine.facts(self.endpoint, self.log)


def free_port(wanted: int | None) -> int:
    """`wanted` if nothing listens there, any free port for None.

    Raises:
        RequestError: Something listens on `wanted`.
    """
    if wanted is not None:
        return _bindable(wanted)
    for _ in range(_MOST_TRIES):
        with suppress(RequestError):
            return _bindable(secrets.choice(_QUIET_PORTS))
    return _bindable(0)


def _bindable(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise RequestError(
                f"port {port} on {LOOPBACK} cannot be used: {error.strerror}",
                remedy="name another port, or stop what listens there",
            ) from None
        return int(probe.getsockname()[1])


def check_servable(engine: Engine, request: ServerRequest) -> None:
    """Refuse before anything is started what is known to fail minutes later.

    Raises:
        RequestError: No model there, or what the engine does not take.
    """
    config_file = request.model_dir / "config.json"
    # Of a server that runs already only the tokenizer's folder need be here.
    if isinstance(engine, LaunchedEngine) and not config_file.is_file():
        raise RequestError(f"{config_file} cannot be read: no such file", remedy="name a model directory")
    found = engine.refusals(request)
    if found:
        raise RequestError(
            f"{engine.name} does not serve {request.model_dir} as asked:" + "".join(f"\n  - {line}" for line in found),
            remedy="change `serving` or `dtype` as each line says",
        )


def _await_health(
    engine: LaunchedEngine, child: Supervised, base_url: str, patience: Patience, shared_memory: set[str]
) -> float:
    """Wait for the engine's health path; the seconds since the call.

    Args:
        shared_memory: Gets the files that the server's processes share: of an engine that dies by itself, one of its
            ranks first, they can only be seen before.
    """
    pulse = Pulse(child.pid, patience._replace(deadline_seconds=engine.config.start_deadline_seconds))
    start = time.monotonic()
    while True:
        shared_memory |= shared_memory_of(descendants_of(child.pid))
        exit_code = child.wait(_POLL_SECONDS)
        if exit_code is not None:
            death = _death_of(engine, child, child.ending(exit_code))
            what = f"the server died at start with exit code {exit_code}: {death.reason}"
            raise StageError(f"{what}\n{_shown(child)}", remedy=death.remedy, blame=death.blame)
        if _health(engine, base_url) == "well":
            seconds = time.monotonic() - start
            # Once more: some of it was made since the look above, and a rank that is killed removes nothing.
            shared_memory |= shared_memory_of(descendants_of(child.pid))
            return seconds
        stuck = pulse.look()
        if stuck:
            raise StageError(
                f"the server was not healthy and was stopped: {stuck.what}\n{_shown(child)}",
                remedy=f"{stuck.remedy}; raise `start_deadline_seconds` if the machine is slow",
                blame=stuck.blame,
            )


def _health(engine: LaunchedEngine, base_url: str) -> Literal["well", "silent", "gone"]:
    """`silent` is one that is only slow, or stopped for a while; `gone` refuses, or says itself that it is not well."""
    try:
        get_text(base_url + engine.health_path, timeout_seconds=2.0)
    except OSError as error:
        # urllib wraps what goes wrong before the answer begins.
        cause = getattr(error, "reason", error)
        return "silent" if isinstance(cause, TimeoutError) else "gone"
    return "well"


def _death_of(engine: LaunchedEngine, child: Supervised, ending: Ending) -> Death:
    """A signal and the kernel's counters say more than the log, and the log more than an exit code."""
    if ending.signal or ending.oom_kills:
        return death_of(ending)
    return engine.death_of(child.log) or death_of(ending)


def _shown(child: Supervised) -> str:
    return f"  command: {child.command_line}\n  last lines of {child.log_file}:\n{quoted(child.log_tail())}"


@contextmanager
def _blaming_the_server(engine: LaunchedEngine, base_url: str, child: Supervised, watch: Watch) -> Iterator[None]:
    """What fails because the server is gone is told as the server's end, with what its process shows of the reason.

    So is a block that ends well although the server is gone: of what it was asked last, some may have been put down as
    it was started, for want of an answer.
    """
    try:
        yield
        if _health(engine, base_url) == "gone":
            raise StageError(
                f"the server at {base_url} does not answer any more at the end of its work\n{_shown(child)}",
                remedy="see the end of its log for why; the same command goes on where this stopped",
                blame="engine",
            )
    except Exception as error:
        over = watch.over(0) or (None if _health(engine, base_url) == "well" else watch.over(_END_SECONDS))
        if over is None:
            raise
        noticed = f"  it was noticed as: {str(error).splitlines()[0]}\n{_shown(child)}"
        if isinstance(over, Stuck):
            what = f"the server was ended: {over.what}\n{noticed}"
            raise StageError(what, remedy=over.remedy, blame=over.blame) from error
        death = _death_of(engine, child, over)
        what = f"the server died amid its work, it {over.how}: {death.reason}\n{noticed}"
        raise StageError(what, remedy=death.remedy, blame=death.blame) from error


@contextmanager
def serve(
    request: ServerRequest,
    log_file: Path,
    engine: Engine | None = None,
    fork_server: Path | None = None,
    patience: Patience = UNBOUNDED,
) -> Iterator[RunningServer]:
    """Serve a model for the length of the block: on loopback, or where the engine's server runs already.

    Args:
        log_file: Gets the output of a server that is started here.
        engine: What serves; the one that the request's config is for when None.
        fork_server: Address of what `Engine.fork_server` started, if there is one; the server is then ready in seconds.
        patience: With a server that was started here; the config has its start's deadline.

    Raises:
        RequestError: The port is taken, the model cannot be served like this, or a server that should run already does
            not; nothing was started.
        StageError: The server died at start or was not healthy in time, or died or was suspended in the block and so
            made it fail; it and all its children are gone.
    """
    engine = engine or engine_of(request.config)
    check_servable(engine, request)
    if isinstance(engine, LaunchedEngine):
        with _launched(engine, request, log_file, fork_server, patience) as server:
            yield server
    elif isinstance(engine, AttachedEngine):
        yield RunningServer(engine, engine.attach(request))


@contextmanager
def _launched(
    engine: LaunchedEngine, request: ServerRequest, log_file: Path, fork_server: Path | None, patience: Patience
) -> Iterator[RunningServer]:
    port = free_port(engine.config.port)
    command = engine.command(request, port)
    chosen = {"CUDA_VISIBLE_DEVICES": ",".join(request.gpus)} if request.gpus else {}
    endpoint = Endpoint(
        base_url=f"http://{LOOPBACK}:{port}",
        served_model_name=engine.served_model_name(request),
        model_path=str(request.model_dir),
        max_model_len=request.config.max_model_len,
    )
    with (
        ExitStack() as stack,
        # Engines leave sockets behind (vLLM two files a server). The name is short because a socket's path has to be.
        TemporaryDirectory(prefix="qb-", ignore_cleanup_errors=True) as scratch,
        Supervised(
            command.argv, env=command.env | chosen | {"TMPDIR": scratch}, log_file=log_file, fork_server=fork_server
        ) as child,
    ):
        shared_memory: set[str] = set()
        stack.callback(lambda: remove_shared_memory(shared_memory | engine.shared_memory_of(child.log)))
        start_seconds = _await_health(engine, child, endpoint.base_url, patience, shared_memory)
        note_shared_memory(shared_memory)
        told = {
            "prefix_block_tokens": engine.prefix_block_tokens(endpoint),
            "forced_tokens": engine.config.max_num_seqs if engine.forces_tokens else None,
            "keeps_connections": engine.keeps_connections,
            "working_metrics": engine.working_metrics,
        }
        endpoint = endpoint.model_copy(update=told)
        with Watch(child, patience) as watch, _blaming_the_server(engine, endpoint.base_url, child, watch):
            yield RunningServer(engine, endpoint, command.argv, start_seconds, child, watch)
