"""How artifacts are promoted: where moves are written down, and who approves."""

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from configs.base import StrictModel
from configs.quantities import Label, Minutes, Name
from registry.tracking.names import DatabaseUri

Role = Literal["baseline", "candidate", "shadow", "champion"]
"""What an alias is for: the model that artifacts are compared with, the one that is to be tried, the one that is tried
beside production, and production."""


Approval = Literal["person", "policy"]


class AliasNames(StrictModel):
    """What MLflow's aliases are called."""

    baseline: Name = "baseline"
    candidate: Name = "candidate"
    shadow: Name = "shadow"
    champion: Name = "champion"

    def of(self, role: Role) -> str:
        """The alias of a role."""
        return str(getattr(self, role))

    @model_validator(mode="after")
    def _differ(self) -> Self:
        names = [self.of(role) for role in get_args(Role)]
        if len(set(names)) < len(names):
            raise ValueError(f"each alias has a name of its own, not {', '.join(names)}")
        return self


class RegistryConfig(StrictModel):
    """Of `quantbench registry`; runs do not read it."""

    ledger: DatabaseUri | None = None
    """An SQLAlchemy address that a team shares; `sqlite:///<workspace>/ledger.db` when null."""
    aliases: AliasNames = AliasNames()
    approval: Approval = "person"
    """`policy` approves by itself what keeps all limits of the recipe's `policy`; a person has to approve else."""
    notify: list[Label] = []
    """A command and its arguments that get each entry of the ledger as JSON on standard input."""
    notify_minutes: Annotated[Minutes, Field(gt=0)] = 1
    """When to give up on it; a move stands whether it was told or not."""
