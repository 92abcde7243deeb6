"""How artifacts are promoted: where moves are written down, and who approves."""

from typing import Annotated, Literal

from pydantic import Field, PlainSerializer

from configs.base import StrictModel
from configs.quantities import Label, Minutes
from registry.tracking.address import without_password

_LedgerUri = Annotated[Label, PlainSerializer(without_password, return_type=str)]


class RegistryConfig(StrictModel):
    """Of `quantbench registry`; runs do not read it."""

    ledger: _LedgerUri | None = None
    """An SQLAlchemy address that a team shares; `sqlite:///<workspace>/ledger.db` when null."""
    approval: Literal["person", "policy"] = "person"
    """`policy` approves by itself what keeps all limits of the recipe's `policy`; a person has to approve else."""
    notify: list[Label] = []
    """A command and its arguments that get each entry of the ledger as JSON on standard input."""
    notify_minutes: Annotated[Minutes, Field(gt=0)] = 1
    """When to give up on it; a move stands whether it was told or not."""
