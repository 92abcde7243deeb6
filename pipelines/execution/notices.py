"""Tells the recipe's command of a row of the ledger."""

import json
import subprocess
from collections.abc import Callable

from pipelines.recipe.registry_config import RegistryConfig
from registry.ledger import Entry


def notify(config: RegistryConfig, entry: Entry, warn: Callable[[str], None]) -> None:
    """Give `registry.notify` an entry; that it could not be told is no reason to take the row back.

    Args:
        warn: Is told why it was not.
    """
    command = config.notify
    if not command:
        return
    try:
        subprocess.run(
            command,
            input=json.dumps(entry.model_dump(mode="json")),
            text=True,
            check=True,
            capture_output=True,
            timeout=60 * config.notify_minutes,
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        warn(f"`registry.notify`: {command[0]} was not told: {str(said).strip()[-300:]}")
