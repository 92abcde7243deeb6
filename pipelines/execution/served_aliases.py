"""Servers of what aliases point at: started when the ledger moves one, drained and stopped when none points there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from configs.errors import QuantbenchError
from pipelines.execution.workspace import Workspace
from pipelines.planning.device import MachineRecord
from pipelines.planning.served_folder import checked_folder
from pipelines.recipe.gateway_config import GatewayConfig
from pipelines.recipe.registry_config import RegistryConfig, Role
from registry.ledger import Entry, Ledger
from serving_checks.engines.base import ServerRequest
from serving_checks.gateway.upstream import Upstream
from serving_checks.processes.watch import Watch
from serving_checks.server import RunningServer, serve


class Target(NamedTuple):
    """What an alias points at."""

    version: str
    artifact: str
    """Digest."""


class _Running(NamedTuple):
    """A server that answers, or did."""

    upstream: Upstream
    watch: Watch | None
    server: ExitStack
    client: AsyncExitStack


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
        return Target(entry.version_to, entry.artifact)


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
        self._running: dict[str, _Running] = {}
        self._left: list[AsyncExitStack] = []
        """Connections to servers that ended, which clients may still be asking."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for digest in list(self._running):
            await self._stop(digest)
        await self._hang_up()

    async def of(self, target: Target) -> Upstream:
        """The server of an artifact, started where it does not run.

        Raises:
            QuantbenchError: The artifact is damaged, or cannot be served here.
        """
        known = self._running.get(target.artifact)
        if known is not None:
            return known.upstream
        self._tell(f"starting version {target.version}")
        server = ExitStack()
        try:
            started = await asyncio.to_thread(self._start, target, server)
            client = AsyncExitStack()
            upstream = Upstream(target.version, started.endpoint, self._config.patience)
            await client.enter_async_context(upstream)
        except BaseException:
            await asyncio.to_thread(server.close)
            raise
        self._running[target.artifact] = _Running(upstream, started.watch, server, client)
        self._tell(f"version {target.version} is served")
        return upstream

    def _start(self, target: Target, server: ExitStack) -> RunningServer:
        config = self._config
        folder = checked_folder(
            self._workspace.store.open(target.artifact), config.serving, config.dtype, self._machine
        )
        request = ServerRequest(
            folder.serving, folder.model, folder.dtype, self._machine.device, self._machine.serving_threads
        )
        log = self._log_dir / f"version-{target.version}.log"
        return server.enter_context(serve(request, log, patience=config.deadlines.of_server))

    async def put_away_ended(self) -> bool:
        """Forget servers that ended by themselves, so that they are started anew; whether there were any."""
        ended = [digest for digest, one in self._running.items() if one.watch is not None and one.watch.over(0)]
        for digest in ended:
            running = self._running.pop(digest)
            # Who asks it goes on being told that it is not there, until another takes its place.
            self._left.append(running.client)
            await self._close(running.server)
        return bool(ended)

    async def only(self, targets: set[str]) -> None:
        """Stop the servers of all other digests, each once it has answered what it was asked."""
        await self._hang_up()
        for digest in [one for one in self._running if one not in targets]:
            upstream = self._running[digest].upstream
            await upstream.drained()
            self._tell(f"stopping version {upstream.version}")
            await self._stop(digest)

    async def _stop(self, digest: str) -> None:
        running = self._running.pop(digest)
        await running.client.aclose()
        await self._close(running.server)

    async def _close(self, server: ExitStack) -> None:
        try:
            await asyncio.to_thread(server.close)
        except QuantbenchError as error:
            self._tell(f"a server ended by itself: {error.what.splitlines()[0]}")

    async def _hang_up(self) -> None:
        while self._left:
            await self._left.pop().aclose()
