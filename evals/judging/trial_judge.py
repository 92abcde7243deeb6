"""The verdict over a trial that goes on: each look reads the pairs that are new, and judges all of them."""

from pathlib import Path

from evals.judging.pair_observations import Observations, observations_of
from evals.judging.shadow_verdict import judge_pairs
from evals.judging.verdict_config import VerdictConfig, verdict_digest
from registry.contracts import ShadowVerdict
from registry.pair_database import keep_decision, read_pairs_of, read_trial

_MOST_AT_ONCE = 5000
"""Pairs that are read at a time, to bound the memory of those that wait to be columns."""


class TrialJudge:
    """Judges one trial of a gateway's database.

    Args:
        path: The database.
        trial: Its name.
        config: As it was frozen before the first pair.
    """

    def __init__(self, path: Path, trial: str, config: VerdictConfig) -> None:
        self._path, self.trial, self._config = path, trial, config
        self._observed: Observations | None = None
        self._seen = -1
        """Pairs that the trial had at the last look."""

    def look(self) -> ShadowVerdict | None:
        """The verdict, kept where it is decided; None where nothing is new since the last look.

        Raises:
            StageError: The database cannot be read, or is not written to.
        """
        kept = read_trial(self._path, self.trial)
        if kept is None or kept.pairs == self._seen:
            return None
        if kept.verdict is not None:
            self._seen = kept.pairs
            return kept.verdict
        verdict = without_deleted(self._judged(), kept.deleted)
        if verdict.outcome != "continue":
            keep_decision(self._path, self.trial, verdict)
        self._seen = kept.pairs
        return verdict

    def _judged(self) -> ShadowVerdict:
        while (more := self._new()) is not None:
            self._observed = self._observed.followed_by(more) if self._observed else more
        observed = self._observed or observations_of(read_pairs_of(self._path, self.trial, most=0))
        return judge_pairs(observed, self._config, frozen_digest=verdict_digest(self._config), growing=True)

    def _new(self) -> Observations | None:
        """The next pairs, as far as the budget goes; None where there are none."""
        read = len(self._observed.ids) if self._observed else 0
        place = int(self._observed.numbers[-1]) + 1 if read and self._observed else 0
        most = min(self._config.budget_pairs - read, _MOST_AT_ONCE)
        table = read_pairs_of(self._path, self.trial, place=place, most=most)
        return observations_of(table) if table.num_rows else None


def without_deleted(verdict: ShadowVerdict, deleted: int) -> ShadowVerdict:
    """A verdict over a trial whose first pairs are gone is none: which ones are left was decided by a clock.

    Args:
        deleted: Pairs of it, since they were older than `keep_days`.
    """
    if not deleted:
        return verdict
    reason = (
        f"undecided: {deleted:,} pairs of it were deleted by `keep_days` before it was, so what is left is not judged"
    )
    return verdict.model_copy(update={"outcome": "inconclusive", "reason": reason})
