"""Tells those whom a recipe's `notify` names what a run came to."""

from collections.abc import Callable, Sequence

from pipelines.execution.tell_command import tell_command
from pipelines.execution.tell_webhook import check_webhook, tell_webhook
from pipelines.recipe.notify_config import NoticeConfig, WebhookNotice
from pipelines.records.run_outcome import RunOutcome


def check_notices(notices: Sequence[NoticeConfig], warn: Callable[[str], None]) -> None:
    """Warn before work of those that could not be told at its end."""
    for notice in notices:
        if isinstance(notice, WebhookNotice) and (why := check_webhook(notice)):
            warn(f"`notify`: {notice.name} will not be told: {why}")


def send_notices(notices: Sequence[NoticeConfig], outcome: RunOutcome, warn: Callable[[str], None]) -> None:
    """Tell whoever wants to know of one of the outcome's events; that one could not be told changes no outcome.

    Args:
        notices: Of the recipe, told one after the other.
        outcome: What they get, as JSON.
        warn: Is told why one was not told.
    """
    text = outcome.model_dump_json()
    for notice in notices:
        if outcome.events.isdisjoint(notice.on):
            continue
        if isinstance(notice, WebhookNotice):
            why = tell_webhook(notice, text)
        else:
            why = tell_command(notice.command, text, notice.timeout_seconds)
        if why is not None:
            warn(f"`notify`: {notice.name} was not told: {why}")
