"""What the ledger holds of candidates that were tried beside a champion: recorded verdicts, and ramps that ended."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from configs.errors import RequestError
from pipelines.records.decision import LimitOutcome, worst_of
from registry.contracts import RampRecord, ShadowVerdict
from registry.contracts.comparison import Verdict
from registry.ledger import Entry, Ledger, MovedMeanwhileError


class Tried(NamedTuple):
    """Two artifacts by their digests."""

    champion: str
    candidate: str


def record_verdict(ledger: Ledger, model: str, who: str, tried: Tried, verdict: ShadowVerdict) -> Entry:
    """Write a verdict into the ledger.

    Args:
        model: Of the registry.

    Raises:
        RequestError: It decides nothing, or somebody else recorded one meanwhile.
        StageError: The ledger does not answer.
    """
    if not verdict.frozen or verdict.outcome == "continue":
        why = "it is not decided yet" if verdict.frozen else "its limits were not stored before the first pair"
        raise RequestError(
            f"the verdict is not recorded: {why}",
            remedy="wait until it is decided, and judge by the stored limits, without --config",
        )
    stream = f"verdict:{tried.candidate}"
    last = ledger.last(model, stream)
    kept = ledger.keep_verdict(tried._asdict() | {"verdict": verdict.model_dump(mode="json")})
    entry = Entry(
        model=model,
        stream=stream,
        sequence=0,
        kind="verdict",
        at=datetime.now(UTC),
        who=who,
        why=f"{verdict.outcome}: {verdict.reason}, over {verdict.pairs:,} pairs",
        artifact=tried.candidate,
        verdict=kept,
    )
    try:
        return ledger.append(entry, last)
    except MovedMeanwhileError as error:
        raise RequestError(f"somebody else recorded one meanwhile: {error}", remedy="give the command again") from error


def shadow_outcome(ledger: Ledger, model: str, shadow: str, candidate: str, champion: Entry | None) -> LimitOutcome:
    """Whether an artifact has passed beside what is champion now.

    Args:
        shadow: The alias whose ramps count.
        champion: The last row of the champion's alias; None without one.

    Returns:
        A fail where the last word of either, ramp or recorded verdict, is one: which of two is the later is a question
        of clocks.

    Raises:
        StageError: The ledger does not answer, or was changed.
    """
    if champion is None or champion.version_to is None:
        return _told("pass", "nothing is champion yet, so there is nothing to be compared with")
    tried = Tried(champion.artifact or "", candidate)
    words = [*_of_ramps(ledger, model, shadow, tried), *_of_records(ledger, model, tried)]
    if not words:
        said = f"the ledger holds no verdict over it beside version {champion.version_to}, which is champion"
        return _told("inconclusive", said)
    return _told(worst_of(word.outcome for word in words), "; ".join(word.reason for word in words))


def _of_ramps(ledger: Ledger, model: str, shadow: str, tried: Tried) -> Iterator[LimitOutcome]:
    for entry in reversed(ledger.entries(model, f"ramp:{shadow}")):
        if entry.kind not in ("pass", "fail") or entry.artifact != tried.candidate:
            continue
        if RampRecord.model_validate(ledger.kept(entry.verdict)).champion == tried.champion:
            yield _told(entry.kind, f"its ramp ended, {entry.why}")
            return


def _of_records(ledger: Ledger, model: str, tried: Tried) -> Iterator[LimitOutcome]:
    for entry in reversed(ledger.entries(model, f"verdict:{tried.candidate}")):
        kept = ledger.kept(entry.verdict)
        if kept["champion"] == tried.champion:
            outcome = ShadowVerdict.model_validate(kept["verdict"]).outcome
            yield _told(outcome if outcome in ("pass", "fail") else "inconclusive", f"{entry.who} recorded {entry.why}")
            return


def _told(outcome: Verdict, reason: str) -> LimitOutcome:
    return LimitOutcome(limit="shadow verdict", outcome=outcome, reason=reason)
