"""Tells the recipe's command of a row of the ledger."""

import json
from collections.abc import Callable

from pipelines.execution.tell_command import tell_command
from pipelines.recipe.registry_config import RegistryConfig
from registry.ledger import Entry


def notify(config: RegistryConfig, entry: Entry, warn: Callable[[str], None]) -> None:
    """Give `registry.notify` an entry; that it could not be told is no reason to take the row back.

    Args:
        warn: Is told why it was not.
    """
    if config.notify:
        why = tell_command(config.notify, json.dumps(entry.model_dump(mode="json")), 60 * config.notify_minutes)
        if why is not None:
            warn(f"`registry.notify` was not told: {why}")
