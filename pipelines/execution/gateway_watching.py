"""What looks at a running gateway: its log of events, its numbers, its live page."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.recipe.gateway_config import GatewayConfig
from pipelines.report.live_page import live_page
from registry.contracts import LiveVerdict
from serving_checks.gateway.app import Gateway
from serving_checks.gateway.event_log import EVENTS_FILE, EventLog
from serving_checks.gateway.observer import Observer
from serving_checks.gateway.standing import Standing


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
        standing.moved()
        yield


def show(standing: Standing, told: LiveVerdict, *, moved: bool) -> None:
    """Show what the ledger and the pairs say.

    Args:
        moved: Others answer than before.
    """
    if moved:
        standing.forgot_verdict()
        standing.moved()
    if told.step is not None:
        standing.stepped(told.share, told.step + 1, len(told.steps))
    if told.verdict is not None:
        standing.judged(told.outcome, told.reason, told.pairs)
