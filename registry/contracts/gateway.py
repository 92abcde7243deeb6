"""What a gateway's pairs were begun with."""

from datetime import datetime
from typing import Any

from registry.contracts.base import Record

ADDRESS_FILE = "gateway.address"
"""Holds the address of the gateway's own page while it runs (`registry.held_file`)."""
GATEWAY_FILE = "gateway.json"
PAIRS_FILE = "pairs.db"


class GatewayRecord(Record):
    """`GATEWAY_FILE` beside the pairs of a gateway."""

    name: str
    model: str
    """What clients call it."""
    verdict: dict[str, Any]
    """How the pairs are to be judged, as it was written before the first one."""
    verdict_digest: str
    class_by: dict[str, Any] | None = None
    """A ClassesConfig: how the prompts' classes are found."""
    started_at: datetime
    """UTC; of the first start."""
