"""Servers of what aliases point at: started when the ledger moves one, drained and stopped when none points there.

Starting takes minutes and draining as long as the longest answer, so neither is waited for: who follows the ledger asks
again, and a rollback finds the server that it goes back to as long as that has not ended.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import NamedTuple, Self

from configs.errors import QuantbenchError
from pipelines.execution.workspace import Workspace
from pipelines.planning.device import MachineRecord
from pipelines.planning.served_folder import checked_folder
from pipelines.recipe.gateway_config import GatewayConfig
from pipelines.recipe.registry_config import RegistryConfig, Role
from pipelines.stage_programs.engine_server import served
from registry.ledger import Entry, Ledger
from serving_checks.engines.base import ServerRequest
from serving_checks.gateway.upstream import Upstream
from serving_checks.processes.watch import Watch
from serving_checks.server import RunningServer

_LEAST_REST_SECONDS, _MOST_REST_SECONDS = 10.0, 300.0
"""Before a server that did not start is tried again: twice as long each time."""
_LOOK_SECONDS = 0.05


class Target(NamedTuple):
    """What an alias points at."""

    version: str
    artifact: str
    """Digest."""
    row: int
    """Of the ledger, that put it there: who comes back to where it was is there by another row."""
    name: str | None
    """What the run called it; None where an alias was moved in MLflow."""


class Aliases:
    """What the ledger says of two aliases.

    Args:
        ledger: Of the registered model.
        model: Its name.
        config: What the aliases are called.
    """

    def __init__(self, ledger: Ledger, model: str, config: RegistryConfig) -> None:
        self._ledger, self._model, self._config = ledger, model, config

    def target(self, role: Role) -> Target | None:
        """Where an alias points; None where it points nowhere, or at what the ledger does not know the bytes of."""
        entry: Entry | None = self._ledger.last(self._model, f"alias:{self._config.aliases.of(role)}")
        if entry is None or entry.version_to is None or entry.artifact is None:
            return None
        return Target(entry.version_to, entry.artifact, entry.sequence, entry.name)


@dataclass
class _Running:
    """A server that answers, or has ended by itself."""

    upstream: Upstream
    watch: Watch | None
    server: ExitStack
    client: AsyncExitStack
    leaving: asyncio.Task[None] | None = None
    """Stops it once it is idle; None while it is wanted."""


@dataclass
class _Refused:
    """A server that did not start."""

    error: QuantbenchError
    until: float
    """By `time.monotonic`."""
    rest_seconds: float


@dataclass
class _Known:
    """What is known of one artifact's server."""

    running: _Running | None = None
    starting: asyncio.Task[_Running] | None = None
    refused: _Refused | None = None
    ending: asyncio.Task[None] | None = None
    """Clears up after one that ended by itself."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """A new server of the same artifact starts when the old one is gone."""


class Servers:
    """Servers of artifacts, one a digest; use as an async context manager.

    Args:
        config: How they are served.
        workspace: Holds the artifacts.
        machine: That they run on.
        log_dir: Gets their logs.
        tell: Is told what is started and stopped.
    """

    def __init__(
        self,
        config: GatewayConfig,
        workspace: Workspace,
        machine: MachineRecord,
        log_dir: Path,
        tell: Callable[[str], None],
    ) -> None:
        self._config, self._workspace, self._machine = config, workspace, machine
        self._log_dir, self._tell = log_dir, tell
        self._known: dict[str, _Known] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for known in self._known.values():
            if known.running is not None and known.running.leaving is not None:
                known.running.leaving.cancel()
            if known.starting is not None:
                known.starting.cancel()
                (started,) = await asyncio.gather(known.starting, return_exceptions=True)
                known.running = started if isinstance(started, _Running) else known.running
            if known.running is not None:
                await self._stop(known, known.running)
            if known.ending is not None:
                await known.ending
            async with known.turn:
                pass  # until one that was being stopped is gone

    def ready(self, target: Target) -> Upstream | None:
        """The server of an artifact, where it answers; where there is none, its start is begun and None given.

        Raises:
            QuantbenchError: It did not start. It is tried again after a while.
        """
        known = self._known.setdefault(target.artifact, _Known())
        if known.running is not None:
            if known.running.leaving is not None:
                known.running.leaving.cancel()
                known.running.leaving = None
            if known.running.watch is None or not known.running.watch.over(0):
                return known.running.upstream
            # Its clients are told that it is not there, until another takes its place.
            running, known.running = known.running, None
            known.ending = asyncio.create_task(self._stop(known, running))
        if known.starting is not None and known.starting.done() and known.starting.cancelled():
            known.starting = None
        if known.starting is not None and known.starting.done():
            return self._started(target, known, known.starting)
        if known.starting is None:
            if known.refused is not None and time.monotonic() < known.refused.until:
                raise known.refused.error
            self._tell(f"starting version {target.version}")
            known.starting = asyncio.create_task(self._start(target, known.turn))
        return None

    def _started(self, target: Target, known: _Known, ended: asyncio.Task[_Running]) -> Upstream:
        known.starting = None
        try:
            known.running = ended.result()
        except QuantbenchError as error:
            before = known.refused.rest_seconds if known.refused else 0.0
            rest = min(max(_LEAST_REST_SECONDS, 2 * before), _MOST_REST_SECONDS)
            known.refused = _Refused(error, time.monotonic() + rest, rest)
            raise
        known.refused = None
        self._tell(f"version {target.version} is served")
        return known.running.upstream

    async def of(self, target: Target) -> Upstream:
        """The server of an artifact, waited for.

        Raises:
            QuantbenchError: The artifact is damaged, or cannot be served here.
        """
        while (upstream := self.ready(target)) is None:
            await asyncio.sleep(_LOOK_SECONDS)
        return upstream

    def forgive(self) -> None:
        """Try again at once what did not start: somebody has moved an alias."""
        for known in self._known.values():
            known.refused = None

    def only(self, artifacts: set[str]) -> None:
        """Stop the servers of all others, each once it has answered what it was asked."""
        for digest, known in self._known.items():
            if digest in artifacts:
                continue
            if known.starting is not None and not known.starting.done():
                known.starting.cancel()
            elif known.starting is not None:
                task, known.starting = known.starting, None
                known.running = None if task.cancelled() or task.exception() else task.result()
            if known.running is not None and known.running.leaving is None:
                known.running.leaving = asyncio.create_task(self._leave(known, known.running))

    async def _start(self, target: Target, turn: asyncio.Lock) -> _Running:
        async with turn:
            server, given_up = ExitStack(), Event()
            starting = asyncio.create_task(asyncio.to_thread(self._serve, target, server, given_up))
            try:
                started = await asyncio.shield(starting)
                client = AsyncExitStack()
                upstream = Upstream(target.version, started.endpoint, self._config.patience)
                await client.enter_async_context(upstream)
            except BaseException:
                given_up.set()
                await asyncio.gather(starting, return_exceptions=True)
                await asyncio.to_thread(server.close)
                raise
            return _Running(upstream, started.watch, server, client)

    def _serve(self, target: Target, server: ExitStack, given_up: Event) -> RunningServer:
        config = self._config
        folder = checked_folder(
            self._workspace.store.open(target.artifact),
            config.serving_of(target.artifact),
            config.dtype,
            self._machine,
        )
        request = ServerRequest(
            folder.serving, folder.model, folder.dtype, self._machine.device, self._machine.serving_threads
        )
        log = self._log_dir / f"version-{target.version}.log"
        patience = config.deadlines.of_server._replace(given_up=given_up)
        return server.enter_context(served(request, log, patience=patience))

    async def _leave(self, known: _Known, running: _Running) -> None:
        """Until it has answered all, it can be called back."""
        await running.upstream.drained()
        self._tell(f"stopping version {running.upstream.version}")
        await self._stop(known, running)

    async def _stop(self, known: _Known, running: _Running) -> None:
        known.running = None
        async with known.turn:
            await running.client.aclose()
            try:
                await asyncio.to_thread(running.server.close)
            except QuantbenchError as error:
                self._tell(f"a server ended by itself: {error.what.splitlines()[0]}")
