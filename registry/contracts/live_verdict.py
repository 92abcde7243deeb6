"""What a gateway says of the candidate beside its champion, at any time."""

from registry.contracts.base import Record
from registry.contracts.ramp import RampState
from registry.contracts.shadow_verdict import Outcome, ShadowVerdict


class JudgeSaid(Record):
    """What the judge's process tells its gateway after a look."""

    trial: str
    verdict: ShadowVerdict | None = None
    """None where it could not look."""
    fault: str = ""
    """Why."""


class RecordedVerdict(Record):
    """What the ledger keeps of a verdict that somebody had recorded."""

    champion: str
    """Digest of the artifact."""
    candidate: str
    verdict: ShadowVerdict


class LiveVerdict(Record):
    """The body of `GET /verdict`."""

    outcome: Outcome
    """Of the whole ramp where there is one: `pass` after its last step, `inconclusive` too where it was stopped."""
    reason: str
    """A sentence."""
    model: str
    """What clients call it."""
    champion_version: str
    champion: str
    """Digest of the artifact."""
    candidate_version: str | None = None
    """None where nothing is tried, or its server does not answer yet."""
    candidate: str | None = None
    share: float
    """Of the clients, that the candidate answers."""
    step: int | None = None
    """From 0; None without a ramp."""
    steps: list[float] = []
    state: RampState | None = None
    judge: str = ""
    """The gateway whose pairs decide whether a step passes."""
    pairs: int = 0
    """Of this step, that this gateway has judged."""
    verdict: ShadowVerdict | None = None
    """Over these pairs; after the ramp's end, the one that ended it."""
    next: str = ""
    """The command that is to be given now; empty for none."""
