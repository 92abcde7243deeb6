"""What a running gateway says of itself under /status: for people who look at it, and for the live page."""

from datetime import datetime

from registry.contracts.base import Record
from registry.contracts.ramp import RampState
from registry.contracts.shadow_verdict import Outcome
from registry.contracts.token_cost import TokenCost


class RecentLoad(Record):
    """What a server was asked within the last minute, or since counting began. None: nothing to tell of."""

    window_seconds: float
    requests: int
    failed: int
    """Of those, without an answer, or with one that says that something went wrong."""
    requests_per_second: float | None = None
    p50_seconds: float | None = None
    """From sending to the end."""
    p95_seconds: float | None = None
    first_token_p50_seconds: float | None = None
    """Of streamed answers, to the first piece."""
    first_token_p95_seconds: float | None = None


class VersionRead(Record):
    """What the observer read in the answers of one version, since it was started."""

    mirrored: RecentLoad | None = None
    """Copies that nobody waited for; None where it was sent none."""
    time_per_token_p50_seconds: float | None = None
    """Of the last streamed answers whose tokens were told."""
    input_tokens: int = 0
    output_tokens: int = 0
    cost: TokenCost | None = None
    """None without a price, or without a measured load."""


class AgreementRead(Record):
    """How often two versions said the same to the same prompts, since the observer was started."""

    champion: str
    """Version."""
    candidate: str
    compared: int
    """Pairs in which both sides answered."""
    same: int
    failed: int
    """Pairs in which a side did not."""


class ObserverRead(Record):
    """What an observer tells its gateway of the answers that it read."""

    versions: dict[str, VersionRead] = {}
    agreement: AgreementRead | None = None
    """Of the last two versions that were compared."""


class ArmStatus(Record):
    """One side."""

    version: str
    in_flight: int
    clients: RecentLoad
    read: VersionRead | None = None
    """None before the first of its answers was read."""


class VerdictStatus(Record):
    """The verdict over the pairs so far."""

    outcome: Outcome
    reason: str
    pairs: int


class MirrorStatus(Record):
    """What became of the copies and their pairs, since the gateway was started."""

    waiting: int
    done: int
    dropped: int
    failed: int
    unobserved: int
    pairs_written: int
    pairs_dropped: int


class GatewayStatus(Record):
    """All of it, as it is now. It holds no word of a prompt, of an answer or of a client."""

    model: str
    """What clients call it."""
    at: datetime
    """UTC, as below."""
    started_at: datetime
    champion: ArmStatus
    candidate: ArmStatus | None
    share: float
    """Of the clients, that the candidate answers."""
    step: int | None = None
    """Of a ramp, from 1; None where there is none."""
    steps: int | None = None
    ramp: RampState | None = None
    agreement: AgreementRead | None = None
    verdict: VerdictStatus | None = None
    mirror: MirrorStatus | None = None
    followed_at: datetime | None = None
    """When the ledger was last looked at."""
    faults: list[str] = []
    """What the last look met with: what could not be read, or started."""
