"""`quantbench shadow up`: the gateway, the servers behind it, and the ledger that says which they are."""

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import uvloop

from configs.errors import QuantbenchError, RequestError
from configs.loading import load_yaml_model
from evals.judging.verdict_config import verdict_digest
from pipelines.execution.finished_runs import run_named
from pipelines.execution.served_aliases import Aliases, Servers, Target
from pipelines.execution.shadow_verdict import GATEWAY_FILE, PAIRS_FILE
from pipelines.execution.workspace import Workspace
from pipelines.planning.device import MachineRecord, detect_machine
from pipelines.recipe.gateway_config import GatewayConfig
from pipelines.recipe.registry_config import RegistryConfig
from registry.contracts import GatewayRecord
from registry.ledger import Ledger
from registry.sealed import DamagedFile, read_sealed, write_sealed
from registry.tracking.address import sqlite_uri
from serving_checks.engines.base import LaunchedEngine
from serving_checks.engines.table import engine_of
from serving_checks.gateway.app import Gateway, listening
from serving_checks.gateway.observed import Arms, ObserverJob, Served
from serving_checks.gateway.observer import Observer
from serving_checks.gateway.upstream import Upstream
from serving_checks.server import free_port

OBSERVER = (sys.executable, "-P", "-m", "pipelines.stage_programs.observer")


class OpenGateway(NamedTuple):
    """A config that was read and found sound, on this machine."""

    config: GatewayConfig
    machine: MachineRecord
    aliases: Aliases
    champion: Target


def open_gateway(file: Path, overrides: list[str], workspace: Workspace) -> OpenGateway:
    """Read the config and the ledger, and check all that can be known before a server is started.

    Raises:
        RequestError: The config is wrong, the port is taken, or no champion was promoted.
        StageError: The ledger does not answer.
    """
    config = load_yaml_model(file, GatewayConfig, overrides)
    if not isinstance(engine_of(config.serving), LaunchedEngine):
        raise RequestError(
            "`serving.engine` names a server that runs already, and which artifact it serves is not known",
            remedy="name an engine whose servers are started here",
        )
    free_port(config.listen.port)
    run = run_named(workspace, None if config.run == "last" else config.run)
    registry = RegistryConfig.model_validate(run.config.get("registry", {}))
    ledger = Ledger(registry.ledger or sqlite_uri(workspace.root / "ledger.db"))
    aliases = Aliases(ledger, run.registered_model, registry)
    champion = aliases.target("champion")
    if champion is None:
        raise RequestError(
            f"nothing of {run.registered_model} is champion, so there is nothing to answer clients with",
            remedy="quantbench registry promote baseline --to champion",
        )
    return OpenGateway(config, detect_machine(config.device), aliases, champion)


def run_gateway(opened: OpenGateway, workspace: Workspace, tell: Callable[[str], None]) -> None:
    """Serve until told to end by SIGINT, SIGTERM or SIGHUP; what clients have asked by then is answered.

    Args:
        workspace: Gets `shadow/<name>/`, or has it.
        tell: Is told what changes.

    Raises:
        RequestError: The folder's pairs are to be judged otherwise.
        QuantbenchError: The champion cannot be served.
    """
    directory = workspace.replay_dir(opened.config.name)
    begun(opened.config, directory)
    uvloop.run(until_told(_Serving(opened, workspace, directory, tell).run()))
    tell("ended")


async def until_told(serving: Coroutine[None, None, None]) -> None:
    """Go on until SIGINT, SIGTERM or SIGHUP, and end as a block ends."""
    task, loop = asyncio.ensure_future(serving), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, task.cancel)
    with suppress(asyncio.CancelledError):
        await task


def begun(config: GatewayConfig, directory: Path) -> None:
    """How the pairs are judged is written before the first one."""
    now = GatewayRecord(
        name=config.name,
        model=config.model,
        verdict=config.verdict.model_dump(mode="json"),
        verdict_digest=verdict_digest(config.verdict),
        started_at=datetime.now(UTC),
    )
    try:
        then = read_sealed(directory / GATEWAY_FILE, GatewayRecord)
    except FileNotFoundError:
        write_sealed(directory / GATEWAY_FILE, now)
        return
    except DamagedFile as error:
        raise RequestError(str(error), remedy=f"choose another `name`, or remove {directory}") from error
    if then.verdict_digest != now.verdict_digest:
        raise RequestError(
            f"the pairs in {directory} are to be judged by another `verdict` than the config's",
            remedy="undo the change to go on with them; to begin anew choose another `name`",
        )


def observer_job(config: GatewayConfig, directory: Path) -> ObserverJob:
    """What the observer is started with."""
    return ObserverJob(
        database=directory / PAIRS_FILE,
        keep_days=config.keep_days,
        keep_prompts=config.keep_prompts,
        mirror=config.mirror,
        patience=config.patience,
    )


class _Serving:
    """A gateway that runs."""

    def __init__(self, opened: OpenGateway, workspace: Workspace, directory: Path, tell: Callable[[str], None]) -> None:
        self._opened, self._workspace, self._directory, self._tell = opened, workspace, directory, tell
        self._now: tuple[Target, Target | None] = (opened.champion, None)
        """Champion and shadow."""

    async def run(self) -> None:
        """Until cancelled."""
        config = self._opened.config
        async with AsyncExitStack() as stack:
            servers = await stack.enter_async_context(
                Servers(config, self._workspace, self._opened.machine, self._directory, self._tell)
            )
            champion = await servers.of(self._opened.champion)
            observer = await stack.enter_async_context(
                Observer(OBSERVER, observer_job(config, self._directory), self._directory / "observer.log", self._tell)
            )
            observer.ask(Arms(_served(champion), None))
            gateway = Gateway(config.model, config.listen, champion, observer.offer, config.split)
            gateway.metrics.watch(observer)
            await stack.enter_async_context(listening(gateway, config.listen))
            self._tell(f"http://{config.listen.host}:{config.listen.port} answers as {config.model}")
            while True:
                try:
                    await self._follow(servers, gateway, observer)
                except QuantbenchError as error:
                    # Clients go on with the champion that there is.
                    self._tell(f"not followed: {error.what.splitlines()[0]}")
                await asyncio.sleep(config.follow_seconds)

    async def _follow(self, servers: Servers, gateway: Gateway, observer: Observer) -> None:
        """Serve what the ledger says, where it says something else than before."""
        aliases = self._opened.aliases
        # Without a champion clients keep the one that they had.
        champion = await asyncio.to_thread(aliases.target, "champion") or self._now[0]
        shadow = await asyncio.to_thread(aliases.target, "shadow")
        if (champion, shadow) == self._now:
            return
        answering = await servers.of(champion)
        tried = await servers.of(shadow) if shadow and shadow.artifact != champion.artifact else None
        gateway.candidate = tried
        observer.ask(Arms(_served(answering), _served(tried)))
        if tried and shadow != self._now[1]:
            self._tell(f"version {tried.version} sees what clients ask")
        if gateway.champion is not answering:
            await gateway.swap(answering)
            self._tell(f"version {champion.version} answers clients")
        self._now = (champion, shadow)
        await servers.only({champion.artifact, *([shadow.artifact] if shadow else [])})


def _served(upstream: Upstream | None) -> Served | None:
    return Served.at(upstream.version, upstream.endpoint) if upstream else None
