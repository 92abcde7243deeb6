"""What looks at a running gateway: its log of events, its numbers, its live page."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.recipe.gateway_config import GatewayConfig
from pipelines.report.live_page import live_page
from serving_checks.gateway.app import Gateway
from serving_checks.gateway.event_log import EVENTS_FILE, EventLog
from serving_checks.gateway.observer import Observer


@contextmanager
def watched(gateway: Gateway, observer: Observer, config: GatewayConfig, directory: Path) -> Iterator[None]:
    """Show the gateway and its observer for the length of the block.

    Args:
        directory: Gets the log of events.
    """
    file = None if config.log.to == "stderr" else directory / EVENTS_FILE
    with EventLog(file, config.log) as log:
        standing = gateway.standing
        standing.observer, standing.log = observer, log
        gateway.live_page = live_page(config.model)
        yield
