"""`quantbench shadow observe`: pairs of what Envoy serves, by the same mirror and into the same database."""

import asyncio
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

from configs.errors import RequestError
from pipelines.execution.gateway import begun
from pipelines.execution.live_pairs import LivePairs
from pipelines.execution.shadow_verdict import PAIRS_FILE
from pipelines.execution.workspace import Workspace
from pipelines.recipe.gateway_config import GatewayConfig
from registry.pair_database import PairDatabase
from serving_checks.gateway.external_processor import ExternalProcessor, processing
from serving_checks.gateway.mirror import Mirror
from serving_checks.gateway.upstream import Upstream
from serving_checks.server import free_port

_NICENESS = 10
"""Clients and their servers come first."""
_TOLD_SECONDS = 10.0


def observe(config: GatewayConfig, workspace: Workspace, tell: Callable[[str], None]) -> None:
    """Record pairs until interrupted.

    Args:
        workspace: Gets `shadow/<name>/`, or has it.
        tell: Is told what was seen, where that changed.

    Raises:
        RequestError: The port is taken, gRPC is not installed, or the folder's pairs are to be judged otherwise.
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
    os.nice(_NICENESS)
    asyncio.run(_observe(config, directory, tell))


async def _observe(config: GatewayConfig, directory: Path, tell: Callable[[str], None]) -> None:
    render, body_bytes = config.render, int(config.listen.body_mib * 2**20)
    async with AsyncExitStack() as stack:
        database = stack.enter_context(PairDatabase(directory / PAIRS_FILE, timedelta(days=config.keep_days)))
        pairs = LivePairs(database.offer, keep_prompts=config.keep_prompts)
        for name, side in (("champion", render.champion), ("candidate", render.candidate)):
            endpoint = render.endpoint(side, config.model)
            setattr(pairs, name, await stack.enter_async_context(Upstream(name, endpoint, config.patience)))
        mirror = await stack.enter_async_context(Mirror(config.mirror, pairs.ask_other))
        processor = ExternalProcessor(mirror.offer, mirror.takes, body_bytes, int(config.mirror.queue_mib * 2**20))
        await stack.enter_async_context(processing(processor, render.observer_port, body_bytes))
        tell(f"127.0.0.1:{render.observer_port} hears of what Envoy serves; pairs go to {directory / PAIRS_FILE}")
        told = ""
        while True:
            await asyncio.sleep(_TOLD_SECONDS)
            now = _counts(processor, mirror, database)
            if now != told:
                tell(now)
            told = now


def _counts(processor: ExternalProcessor, mirror: Mirror, database: PairDatabase) -> str:
    dropped = processor.given_up + mirror.dropped + database.dropped
    said = f"{processor.seen:,} answers seen, {database.written:,} pairs, {dropped:,} dropped, {mirror.failed:,} failed"
    return f"{said}: {database.failure}" if database.failure else said
