"""The ramp of an alias in the ledger: read, and written as a row after the one that it was decided from."""

from datetime import UTC, datetime
from typing import NamedTuple

from pipelines.decision.ramp import Compared, Following
from pipelines.execution.served_aliases import Target
from registry.contracts import RampRecord
from registry.ledger import Entry, Ledger


class RampRow(NamedTuple):
    """One row, with what it says."""

    entry: Entry
    record: RampRecord


class Ramp:
    """Of what an alias points at.

    Args:
        ledger: Of the registered model.
        model: Its name.
        shadow: The alias of what is tried.
        champion: The alias of what it is compared with.
    """

    def __init__(self, ledger: Ledger, model: str, shadow: str, champion: str) -> None:
        self._ledger, self.model = ledger, model
        self._shadow, self._champion = shadow, champion
        self.stream = f"ramp:{shadow}"

    def last(self) -> RampRow | None:
        """Where it is.

        Raises:
            StageError: The ledger does not answer, or was changed.
        """
        entry = self._ledger.last(self.model, self.stream)
        if entry is None:
            return None
        return RampRow(entry, RampRecord.model_validate(self._ledger.kept(entry.verdict)))

    def compared(self, last: RampRow | None, champion: Target, shadow: Target) -> Compared:
        """Two artifacts as a ramp knows them."""
        since = last.record.champion_row if last else champion.row
        moves = [] if champion.row == since else self._ledger.entries(self.model, f"alias:{self._champion}")
        was_champion = any(one.sequence > since and one.artifact == shadow.artifact for one in moves)
        return Compared(champion.artifact, champion.row, shadow.artifact, shadow.row, was_champion)

    def write(self, following: Following, after: RampRow | None, who: str, why: str = "") -> RampRow:
        """Write what follows.

        Args:
            why: Beside what is the reason anyway.

        Raises:
            MovedMeanwhileError: Somebody else wrote; nothing was written here.
            StageError: The ledger does not answer.
        """
        tried = self._ledger.entries(self.model, f"alias:{self._shadow}")[following.record.candidate_row - 1]
        kept = self._ledger.keep_verdict(following.record.model_dump(mode="json"))
        entry = Entry(
            model=self.model,
            stream=self.stream,
            sequence=0,
            kind=following.kind,
            at=datetime.now(UTC),
            who=who,
            why="; ".join(text for text in (following.why, why) if text),
            version_to=tried.version_to,
            name=tried.name,
            artifact=following.record.candidate,
            verdict=kept,
        )
        written = self._ledger.append(entry, after.entry if after else None)
        # So that a row that is cut off is missed.
        self._ledger.set_projected(written)
        return RampRow(written, following.record)
