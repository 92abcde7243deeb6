"""What follows in a ramp: from the aliases, from a verdict, from an operator's word. Pure."""

import secrets
from typing import Literal, NamedTuple

from configs.errors import RequestError
from registry.contracts import RampRecord, ShadowVerdict
from registry.contracts.ramp import RampState
from registry.contracts.shadow_verdict import Outcome
from registry.ledger import RampKind

RampAction = Literal["hold", "resume", "restart", "stop"]


class Compared(NamedTuple):
    """Which artifacts two aliases point at, and by which rows of the ledger."""

    champion: str
    champion_row: int
    candidate: str
    candidate_row: int
    was_champion: bool
    """Whether the candidate was champion since the ramp began, and is not any more."""


class Following(NamedTuple):
    """The row that is to be written next."""

    kind: RampKind
    record: RampRecord
    why: str


def following_aliases(last: RampRecord | None, now: Compared, steps: list[float], judge: str) -> Following | None:
    """What a gateway that serves both artifacts has to write; None where the ramp goes on as it is.

    Args:
        last: Where it is; None where there was none.
        steps: The gateway's own; those of a ramp that has begun stay.
        judge: The gateway.
    """
    told = now._asdict()
    told.pop("was_champion")
    first = RampRecord(**told, steps=steps, step=0, state="running", trial=secrets.token_hex(16), judge=judge)
    if last is None or last.candidate_row != now.candidate_row:
        return Following("begin", first, f"{first.step_text}: it was promoted to be tried")
    if last.state == "wanted":
        # From the first step on by the gateway's own steps; amid a ramp by those that it was begun with.
        record = first if last.step == 0 else first.model_copy(update={"steps": last.steps, "step": last.step})
        return Following("begin", record, f"{record.step_text}: it was asked for")
    if last.champion_row == now.champion_row:
        return None
    if now.was_champion:
        # Whoever took it back wants no client to be answered by it.
        stopped = last.model_copy(update={**told, "state": "stopped", "verdict": None})
        return Following("stop", stopped, "it was champion and was taken back")
    if last.state in ("failed", "stopped"):
        return None
    return Following("begin", first, f"{first.step_text}: the champion is another one")


def following_verdict(last: RampRecord, verdict: ShadowVerdict, judge: str) -> Following | None:
    """What a verdict over the pairs of this step changes; None for nothing.

    Args:
        verdict: By the limits that were frozen before the first pair.
        judge: The gateway whose pairs were judged. Any may stop a candidate that fails; one lets it pass.
    """
    if not verdict.frozen or last.state not in ("running", "held"):
        return None
    if verdict.outcome == "continue" or (verdict.outcome != "fail" and (last.state, last.judge) != ("running", judge)):
        return None
    why = f"{last.step_text}: {verdict.reason}, over {verdict.pairs:,} pairs"
    judged = last.model_copy(update={"verdict": verdict})
    if verdict.outcome == "pass" and last.step + 1 < len(last.steps):
        further = judged.model_copy(update={"step": last.step + 1, "trial": secrets.token_hex(16)})
        return Following("advance", further, f"{why}; on to {further.step_text}")
    kind, state = _ENDS[verdict.outcome]
    return Following(kind, judged.model_copy(update={"state": state}), why)


_ENDS: dict[Outcome, tuple[RampKind, RampState]] = {
    "pass": ("pass", "passed"),
    "fail": ("fail", "failed"),
    "inconclusive": ("pause", "paused"),
}

_ASKED: dict[RampAction, dict[RampState, RampState]] = {
    "hold": {"running": "held"},
    # What was held goes on with its pairs; what was paused needs new ones, since more of those would change nothing.
    "resume": {"held": "running", "paused": "wanted"},
    "restart": dict.fromkeys(("running", "held", "paused", "failed", "stopped", "passed"), "wanted"),
    "stop": dict.fromkeys(("wanted", "running", "held", "paused", "passed"), "stopped"),
}


def following_word(last: RampRecord, action: RampAction) -> Following:
    """What an operator asks for.

    Raises:
        RequestError: It makes no sense in this state.
    """
    state = _ASKED[action].get(last.state)
    if state is None:
        possible = [other for other, states in _ASKED.items() if last.state in states]
        raise RequestError(
            f"the ramp is {last.state} ({last.step_text}), so there is nothing to {action}",
            remedy=f"what can be done now: {', '.join(possible)}",
        )
    record = last.model_copy(update={"state": state, "verdict": None})
    if state == "wanted":
        step = 0 if action == "restart" else last.step
        record = record.model_copy(update={"trial": "", "judge": "", "step": step})
    return Following(action, record, record.step_text)
