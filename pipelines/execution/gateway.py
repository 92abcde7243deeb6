"""`quantbench shadow up`: the gateway, the servers behind it, and the ledger that says which they are."""

import asyncio
import gc
import signal
import socket
import sys
import threading
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
from pipelines.execution.gateway_routing import cheap_arm, open_router
from pipelines.execution.gateway_watching import watched
from pipelines.execution.judging import Judging
from pipelines.execution.live_trial import NOBODY, LiveTrial, TrialStanding, promote_command, told
from pipelines.execution.notices import notify
from pipelines.execution.ramp import Ramp
from pipelines.execution.served_aliases import Aliases, Servers, Target
from pipelines.execution.workspace import Workspace
from pipelines.planning.device import MachineRecord, detect_machine
from pipelines.recipe.gateway_config import GatewayConfig
from pipelines.recipe.registry_config import RegistryConfig
from pipelines.stage_programs.live_judge import JudgeJob
from registry.contracts import GatewayRecord, LiveVerdict
from registry.contracts.gateway import ADDRESS_FILE, GATEWAY_FILE, PAIRS_FILE
from registry.hashing import digest_of
from registry.held_file import held_file
from registry.ledger import Entry, Ledger
from registry.sealed import DamagedFile, read_sealed, write_sealed
from registry.tracking.address import sqlite_uri
from serving_checks.engines.base import LaunchedEngine
from serving_checks.engines.table import engine_of
from serving_checks.gateway.app import Gateway, listening
from serving_checks.gateway.config import MirrorConfig
from serving_checks.gateway.observed import Arms, ObserverJob, Served
from serving_checks.gateway.observer import Observer
from serving_checks.gateway.routing import Router
from serving_checks.gateway.upstream import Upstream
from serving_checks.server import free_port

OBSERVER = (sys.executable, "-P", "-m", "pipelines.stage_programs.observer")


class OpenGateway(NamedTuple):
    """A config that was read and found sound, on this machine."""

    config: GatewayConfig
    machine: MachineRecord
    aliases: Aliases
    champion: Target
    ramp: Ramp
    registry: RegistryConfig
    router: Router | None


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
            remedy="name it under `attach`, by its artifact's digest, and in `serving` an engine that is started here",
        )
    free_port(config.listen.port)
    run = run_named(workspace, None if config.run == "last" else config.run)
    registry = RegistryConfig.model_validate(run.config.get("registry", {}))
    ledger = Ledger(registry.ledger or sqlite_uri(workspace.ledger_file))
    aliases = Aliases(ledger, run.registered_model, registry)
    champion = aliases.target("champion")
    if champion is None:
        raise RequestError(
            f"nothing of {run.registered_model} is champion, so there is nothing to answer clients with",
            remedy="quantbench registry promote baseline --to champion",
        )
    names = registry.aliases
    ramp = Ramp(ledger, run.registered_model, names.of("shadow"), names.of("champion"))
    router = open_router(config, champion, aliases.target("shadow"))
    machine = detect_machine(config.device)
    return OpenGateway(config, machine, aliases, champion, ramp, registry, router)


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
    record = begun(opened.config, directory)
    # What is imported stays: collections that walked through all of it held up clients for some 50 ms. What is left
    # is small, so that a share of it, by which Python counts, comes together too often.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    uvloop.run(until_told(_Serving(opened, workspace, directory, record, tell).run()))
    tell("ended")


async def until_told(serving: Coroutine[None, None, None]) -> None:
    """Go on until SIGINT, SIGTERM or SIGHUP, and end as a block ends."""
    task, loop = asyncio.ensure_future(serving), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, task.cancel)
    with suppress(asyncio.CancelledError):
        await task


def begun(config: GatewayConfig, directory: Path) -> GatewayRecord:
    """How the pairs are judged is written before the first one."""
    now = GatewayRecord(
        name=config.name,
        model=config.model,
        class_by=config.routing.class_by,
        verdict=config.verdict.model_dump(mode="json"),
        verdict_digest=verdict_digest(config.verdict),
        started_at=datetime.now(UTC),
    )
    try:
        then = read_sealed(directory / GATEWAY_FILE, GatewayRecord)
    except FileNotFoundError:
        write_sealed(directory / GATEWAY_FILE, now)
        return now
    except DamagedFile as error:
        raise RequestError(str(error), remedy=f"choose another `name`, or remove {directory}") from error
    if then.verdict_digest != now.verdict_digest:
        raise RequestError(
            f"the pairs in {directory} are to be judged by another `verdict` than the config's",
            remedy="undo the change to go on with them; to begin anew choose another `name`",
        )
    if then.class_by != now.class_by:
        raise RequestError(
            f"the pairs in {directory} have their classes by other `routing.rules` than the config's",
            remedy="undo the change to go on with them (`arm` may change); to begin anew choose another `name`",
        )
    return then


def observer_job(config: GatewayConfig, directory: Path, mirror: MirrorConfig) -> ObserverJob:
    """What the observer is started with."""
    return ObserverJob(
        database=directory / PAIRS_FILE,
        keep_days=config.keep_days,
        keep_prompts=config.keep_prompts,
        mirror=mirror,
        patience=config.patience,
        model=config.model,
        price=config.price,
        log=config.log,
    )


class _Serving:
    """A gateway that runs."""

    def __init__(
        self,
        opened: OpenGateway,
        workspace: Workspace,
        directory: Path,
        begun: GatewayRecord,
        tell: Callable[[str], None],
    ) -> None:
        self._opened, self._workspace, self._directory, self._tell = opened, workspace, directory, tell
        # Known by its pairs: started again, or moved with them, it is the same one.
        self._name = f"{begun.name}-{digest_of(begun.model_dump(mode='json')).removeprefix('sha256:')[:12]}"
        self._champion = opened.champion
        """That answers clients."""
        self._wanted: tuple[Target, Target | None] = (opened.champion, None)
        """What the aliases point at."""
        self._not_followed: set[str] = set()
        """Why, as it was told since the aliases moved or the ledger came back."""
        self._faults: list[str] = []
        """What the last look met with."""
        self._away = False
        """The ledger did not answer."""
        self._standing_before, self._arms = NOBODY, Arms(None, None)

    async def run(self) -> None:
        """Until cancelled."""
        config = self._opened.config
        async with AsyncExitStack() as stack:
            servers = await stack.enter_async_context(
                Servers(config, self._workspace, self._opened.machine, self._directory, self._tell)
            )
            champion = await servers.of(self._opened.champion)
            observer = await stack.enter_async_context(self._observer())
            judging = await stack.enter_async_context(self._judging())
            gateway = Gateway(config.model, config.listen, champion, observer.offer, config.split)
            gateway.router = self._opened.router
            stack.enter_context(watched(gateway, observer, config, self._directory))
            gateway.verdict = _page(told(NOBODY, config.model, self._opened.champion, None))
            trial = LiveTrial(config.split, self._opened.ramp, judging, self._name, self._who, self._on_row)
            await stack.enter_async_context(listening(gateway, config.listen))
            address = f"http://{config.listen.host}:{config.listen.port}"
            stack.enter_context(held_file(self._directory / ADDRESS_FILE, f"{address}/"))
            self._tell(f"{address} answers as {config.model}")
            while True:
                try:
                    await self._follow(servers, gateway, observer, trial)
                except (QuantbenchError, OSError) as error:
                    # Clients go on with the champion that there is.
                    self._away = True
                    self._tell_once(error)
                    gateway.standing.not_followed(self._faults)
                await asyncio.sleep(config.follow_seconds)

    @property
    def _who(self) -> str:
        """As it is written into the ledger."""
        return f"gateway {self._name} at {socket.gethostname()}"

    def _on_row(self, entry: Entry) -> None:
        self._tell(f"{entry.kind}: {entry.why}")
        if entry.kind == "pass":
            self._tell(f"to make it the champion: {promote_command(entry.name)}")
        # Whoever is told may take a minute: the ledger is followed meanwhile.
        threading.Thread(target=notify, args=(self._opened.registry, entry, self._tell), daemon=True).start()

    def _tell_once(self, error: QuantbenchError | OSError) -> None:
        what = _first_line(error)
        self._faults.append(what)
        if what not in self._not_followed:
            self._tell(f"not followed: {what}")
        self._not_followed.add(what)

    @property
    def _cascades(self) -> bool:
        router = self._opened.router
        return bool(router and router.record and router.record.cascade)

    def _observer(self) -> Observer:
        config = self._opened.config
        mirror = config.mirror.model_copy(update={"logprobs": True}) if self._cascades else config.mirror
        job = observer_job(config, self._directory, mirror)
        return Observer(OBSERVER, job, self._directory / "observer.log", self._tell)

    def _judging(self) -> Judging:
        config = self._opened.config
        job = JudgeJob(database=self._directory / PAIRS_FILE, config=config.verdict, look_seconds=config.follow_seconds)
        return Judging(job, self._directory / "judge.log", self._tell)

    async def _follow(self, servers: Servers, gateway: Gateway, observer: Observer, trial: LiveTrial) -> None:
        """Serve what the ledger says, as far as its servers answer; what is not there yet is found the next time."""
        self._faults = []
        aliases = self._opened.aliases
        # Without a champion clients keep the one that they had.
        wanted = await asyncio.to_thread(aliases.target, "champion") or self._wanted[0]
        shadow = await asyncio.to_thread(aliases.target, "shadow")
        if (wanted, shadow) != self._wanted or self._away:
            self._wanted, self._away = (wanted, shadow), False
            self._not_followed.clear()
            servers.forgive()
        answering = self._ready(servers, wanted)
        if answering is not None:
            self._champion = wanted
        champion = self._champion
        tried = self._ready(servers, shadow) if shadow and shadow.artifact != champion.artifact else None
        standing = await self._standing(trial, champion, shadow) if tried and shadow else NOBODY
        # At one blow, so that no request is taken for evidence of another comparison than its own.
        if answering is not None and answering is not gateway.champion:
            gateway.champion = answering
            self._tell(f"version {champion.version} answers clients")
        gateway.candidate, gateway.trial = tried, standing.trial.name
        self._route(champion, shadow if tried else None)
        gateway.split = self._opened.config.split.model_copy(update={"share": standing.share})
        arms = Arms(_served(gateway.champion), _served(tried), standing.trial)
        if arms != self._arms:
            if tried is not None and arms.candidate != self._arms.candidate:
                self._tell(f"version {tried.version} sees what clients ask")
            self._arms = arms
            observer.ask(arms)
        self._standing_before = standing
        page = told(standing, self._opened.config.model, champion, shadow if tried else None)
        gateway.verdict = _page(page)
        gateway.standing.followed(page, self._faults)
        servers.only({one.artifact for one in (wanted, champion, shadow) if one})

    async def _standing(self, trial: LiveTrial, champion: Target, shadow: Target) -> TrialStanding:
        try:
            return await trial.standing(champion, shadow)
        except QuantbenchError as error:
            # A ramp that cannot be read holds up no rollback; what it was for these two goes on.
            self._tell_once(error)
            before = self._standing_before
            return before if before.trial[1:] == (champion.artifact, shadow.artifact) else NOBODY

    def _ready(self, servers: Servers, target: Target) -> Upstream | None:
        """Its server, where it answers. One that cannot be started is told once, and holds up nothing else."""
        try:
            return servers.ready(target)
        except QuantbenchError as error:
            self._tell_once(error)
            return None

    def _route(self, champion: Target, shadow: Target | None) -> None:
        """Follow the calibrated route while its two artifacts are served, and no longer."""
        router = self._opened.router
        if router is None or router.record is None:
            return
        before, router.cheap = router.cheap, cheap_arm(router.record, champion, shadow)
        if before is not None and router.cheap is None:
            self._tell("the calibrated route is of other artifacts than those served now: it is not followed")


def _page(verdict: LiveVerdict) -> bytes:
    return verdict.model_dump_json().encode()


def _first_line(error: QuantbenchError | OSError) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _served(upstream: Upstream | None) -> Served | None:
    return Served.at(upstream.version, upstream.endpoint) if upstream else None
