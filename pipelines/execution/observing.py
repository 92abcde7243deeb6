"""`quantbench shadow observe`: pairs of what Envoy serves, by the gateway's own observer and into the same database."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop

from configs.errors import RequestError
from pipelines.execution.gateway import OBSERVER, begun, observer_job, until_told
from pipelines.execution.workspace import Workspace
from pipelines.recipe.gateway_config import GatewayConfig
from registry.hashing import digest_of
from registry.pair_database import Trial
from serving_checks.gateway.external_processor import ExternalProcessor, processing
from serving_checks.gateway.observed import Arm, Arms, Observed, Served
from serving_checks.gateway.observer import Observer
from serving_checks.server import free_port

_TOLD_SECONDS = 10.0
_MEBIBYTE = 2**20


def observe(config: GatewayConfig, workspace: Workspace, tell: Callable[[str], None]) -> None:
    """Record pairs until told to end by SIGINT, SIGTERM or SIGHUP.

    Args:
        workspace: Gets `shadow/<name>/`, or has it.
        tell: Is told what was seen, where that changed.

    Raises:
        RequestError: The port is taken, gRPC is not installed, or the folder's pairs are to be judged otherwise.
        StageError: The process that records does not start.
    """
    try:
        import grpc.aio  # type: ignore[import-untyped] # noqa: F401 - told before anything is written
    except ImportError as error:
        raise RequestError(
            "gRPC is not installed, and Envoy speaks it", remedy="pip install grpcio protobuf"
        ) from error
    free_port(config.render.observer_port)
    directory = workspace.replay_dir(config.name)
    begun(config, directory)
    uvloop.run(until_told(_observe(config, directory, tell)))
    tell("ended")


async def _observe(config: GatewayConfig, directory: Path, tell: Callable[[str], None]) -> None:
    render = config.render
    versions: dict[Arm, str] = {
        "champion": render.champion.version or render.champion.service,
        "candidate": render.candidate.version or render.candidate.service,
    }
    # Not known by digests, these two are another comparison wherever one of them is called otherwise.
    trial = Trial(digest_of([versions["champion"], versions["candidate"]]), "", "")
    arms = Arms(
        Served.at(versions["champion"], render.endpoint(render.champion, config.model)),
        Served.at(versions["candidate"], render.endpoint(render.candidate, config.model)),
        trial,
    )
    body_bytes, held_bytes = int(config.listen.body_mib * _MEBIBYTE), int(config.mirror.queue_mib * _MEBIBYTE)
    async with AsyncExitStack() as stack:
        observer = await stack.enter_async_context(
            Observer(OBSERVER, observer_job(config, directory), directory / "observer.log", tell)
        )
        observer.ask(arms)

        def offer(observed: Observed) -> None:
            observer.offer(observed._replace(trial=trial.name))

        processor = ExternalProcessor(offer, versions, body_bytes, held_bytes)
        await stack.enter_async_context(processing(processor, render.observer_port, body_bytes))
        tell(f"127.0.0.1:{render.observer_port} hears of what Envoy serves; pairs go to {directory}")
        told = ""
        while True:
            await asyncio.sleep(_TOLD_SECONDS)
            now = _counts(processor, observer)
            if now != told:
                tell(now)
            told = now


def _counts(processor: ExternalProcessor, observer: Observer) -> str:
    counts = observer.counts
    dropped = processor.given_up + observer.unobserved + counts.dropped + counts.unwritten
    return f"{processor.seen:,} answers seen, {counts.written:,} pairs, {dropped:,} dropped, {counts.failed:,} failed"
