"""Which trial a gateway is in, and which share of the clients the candidate answers: by its config, or by a ramp."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from pipelines.decision.ramp import Following, following_aliases, following_verdict
from pipelines.execution.judging import Judging
from pipelines.execution.ramp import Ramp, RampRow
from pipelines.execution.served_aliases import Target
from registry.contracts import LiveVerdict, RampRecord, ShadowVerdict
from registry.contracts.shadow_verdict import Outcome
from registry.hashing import digest_of
from registry.ledger import Entry, MovedMeanwhileError
from registry.pair_database import NO_TRIAL, Trial
from serving_checks.gateway.split import SplitConfig


class TrialStanding(NamedTuple):
    """Where a candidate stands."""

    share: float
    """Of the clients, that it answers."""
    trial: Trial
    record: RampRecord | None
    """Of the ramp; None without one."""
    verdict: ShadowVerdict | None
    """Over the trial."""


NOBODY = TrialStanding(0.0, NO_TRIAL, None, None)
"""Where there is no candidate."""


class LiveTrial:
    """Follows what is tried beside the champion.

    Args:
        config: Of the split.
        ramp: In the ledger; not looked at where the config has none.
        judging: Has the verdicts over this gateway's pairs.
        judge: What this gateway is known by in a ramp.
        who: It is written into the ledger as.
        on_row: Is told of each row that is written here, in a thread of its own.
    """

    def __init__(
        self,
        config: SplitConfig,
        ramp: Ramp,
        judging: Judging,
        judge: str,
        who: str,
        on_row: Callable[[Entry], None],
    ) -> None:
        self._config, self._ramp, self._judging = config, ramp, judging
        self._judge, self._who, self._on_row = judge, who, on_row

    async def standing(self, champion: Target, shadow: Target) -> TrialStanding:
        """Where the candidate stands now; what follows from a verdict is written.

        Args:
            champion: What answers clients, and not only what its alias points at.
            shadow: What answers beside it.

        Raises:
            StageError: The ledger does not answer.
        """
        if not self._config.ramp:
            places = [champion.artifact, champion.row, shadow.artifact, shadow.row]
            trial = Trial(digest_of(places), champion.artifact, shadow.artifact)
            return TrialStanding(self._config.share, trial, None, self._judged(trial))
        last = await asyncio.to_thread(self._ramp.last)
        following = await asyncio.to_thread(self._following, last, champion, shadow)
        if following is not None:
            last = await asyncio.to_thread(self._written, following, last)
        record = last.record if last else None
        if record is None or record.candidate != shadow.artifact:
            return NOBODY
        # A gateway that is behind, or ahead, has pairs of another comparison.
        mine = record.champion == champion.artifact and record.trial
        trial = Trial(record.trial, champion.artifact, shadow.artifact) if mine else NO_TRIAL
        judged = self._judged(trial)
        ended = record.verdict if record.state in ("passed", "failed", "paused") else None
        return TrialStanding(record.share, trial, record, ended or judged)

    def _judged(self, trial: Trial) -> ShadowVerdict | None:
        self._judging.watch(trial.name)
        return self._judging.latest[1]

    def _written(self, following: Following, last: RampRow | None) -> RampRow | None:
        try:
            written = self._ramp.write(following, last, self._who)
        except MovedMeanwhileError:
            # Another gateway was first, or somebody: what they wrote holds, and is judged anew at the next look.
            return self._ramp.last()
        self._on_row(written.entry)
        return written

    def _following(self, last: RampRow | None, champion: Target, shadow: Target) -> Following | None:
        record = last.record if last else None
        if record and (champion.row < record.champion_row or shadow.row < record.candidate_row):
            # Others have followed the aliases already.
            return None
        now = self._ramp.compared(last, champion, shadow)
        following = following_aliases(record, now, self._config.ramp, self._judge)
        if following is not None or record is None:
            return following
        trial, verdict = self._judging.latest
        if verdict is None or trial != record.trial:
            return None
        return following_verdict(record, verdict, self._judge)


def told(standing: TrialStanding, model: str, champion: Target, shadow: Target | None) -> LiveVerdict:
    """What `GET /verdict` says.

    Args:
        shadow: None where nothing is tried, or does not answer yet.
    """
    record, verdict = standing.record, standing.verdict
    outcome, reason = _outcome(standing, shadow)
    return LiveVerdict(
        outcome=outcome,
        reason=reason,
        model=model,
        champion_version=champion.version,
        champion=champion.artifact,
        candidate_version=shadow.version if shadow else None,
        candidate=shadow.artifact if shadow else None,
        share=standing.share,
        step=record.step if record else None,
        steps=record.steps if record else [],
        state=record.state if record else None,
        judge=record.judge if record else "",
        pairs=verdict.pairs if verdict else 0,
        verdict=verdict,
        next=promote_command(shadow.name) if shadow and outcome == "pass" else "",
    )


def promote_command(name: str | None) -> str:
    """By which a candidate becomes the champion.

    Args:
        name: What its run calls it; None where the ledger does not know.
    """
    return f"quantbench registry promote {name or 'NAME'} --to champion"


_OUTCOMES: dict[str, Outcome] = {
    "passed": "pass",
    "failed": "fail",
    "paused": "inconclusive",
    "stopped": "inconclusive",
}
"""Of a ramp, by its state; in the others more pairs may decide."""


def _outcome(standing: TrialStanding, shadow: Target | None) -> tuple[Outcome, str]:
    record, verdict = standing.record, standing.verdict
    if shadow is None:
        return "continue", "nothing that answers is tried beside the champion"
    said = verdict.reason if verdict else "no pair was judged yet"
    if record is None:
        return (verdict.outcome if verdict else "continue"), said
    return _OUTCOMES.get(record.state, "continue"), f"{record.state} at {record.step_text}: {said}"
