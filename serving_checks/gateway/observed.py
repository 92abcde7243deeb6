"""What the gateway tells the observer, and is told: frames of MessagePack over a socket, each behind its length.

The observer is a process of its own, since reading answers, asking the shadow and writing pairs would hold up clients:
in one process, requests took twice as long, and the slowest hundredth eight times (docs/gateway.md).
"""

import asyncio
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from configs.base import StrictModel
from configs.quantities import Count
from configs.reading.json_text import parse_json
from registry.contracts.reply import Reply
from registry.contracts.serving import Endpoint
from registry.pair_database import NO_TRIAL, Trial
from serving_checks.gateway.asked import Asked
from serving_checks.gateway.config import LogConfig, MirrorConfig, PatienceConfig
from serving_checks.gateway.upstream import Answered
from serving_checks.readings.cost import DevicePrice

Arm = Literal["champion", "candidate"]

_LENGTH = struct.Struct(">I")
_MOST_BYTES = 256 << 20
"""Of one frame. Bodies of requests and answers have limits of their own, far below."""


class Observed(NamedTuple):
    """A request that one side has answered to its end."""

    asked: Asked
    answered: Answered
    by: Arm
    version: str
    """Of the registered model, that answered."""
    trial: str = ""
    """What its pair is evidence of, by the aliases and the step of the ramp when it was asked."""
    reply: Reply | None = None
    """The answer, once the observer has read it."""
    route: str = ""
    """Why this side answered; empty where nothing routed."""
    prompt_class: str = ""
    is_attempt: bool = False
    """Of a cascade, an answer that was not sure enough: it makes no pair, and its tokens cost what others do."""

    @property
    def size_bytes(self) -> int:
        """Of what is kept of it in memory."""
        return len(self.asked.body) + len(self.answered.body or b"")


class ObserverJob(StrictModel):
    """What an observer is started with."""

    database: Path
    """Gets the pairs."""
    keep_days: Count
    keep_prompts: bool
    mirror: MirrorConfig
    patience: PatienceConfig
    model: str
    """What clients call it."""
    price: DevicePrice | None = None
    log: LogConfig = LogConfig()
    """Answers are told beside the pairs."""


class Begin(msgspec.Struct, tag=True, frozen=True, array_like=True):
    """The first message."""

    job: str
    """An ObserverJob as JSON."""


class Served(msgspec.Struct, frozen=True):
    """A server that may be asked."""

    version: str
    endpoint: str
    """An Endpoint as JSON."""

    @classmethod
    def at(cls, version: str, endpoint: Endpoint) -> "Served":
        """As it is told."""
        return cls(version, endpoint.model_dump_json())


class Arms(msgspec.Struct, tag=True, frozen=True, array_like=True):
    """Who is asked from now on; None for nobody."""

    champion: Served | None
    candidate: Served | None
    trial: Trial = NO_TRIAL
    """What their pairs are evidence of."""


class Seen(msgspec.Struct, tag=True, frozen=True, array_like=True):
    """An Observed without what is read from its body again."""

    id: str
    path: str
    headers: dict[str, str]
    body: bytes
    answered: Answered
    by: Arm
    version: str
    trial: str = ""
    route: str = ""
    prompt_class: str = ""
    is_attempt: bool = False

    @property
    def observed(self) -> Observed:
        """As it was in the gateway."""
        asked = Asked(self.id, self.path, self.headers, self.body, parse_json(self.body))
        rest = (self.trial, None, self.route, self.prompt_class, self.is_attempt)
        return Observed(asked, self.answered, self.by, self.version, *rest)


class End(msgspec.Struct, tag=True, frozen=True, array_like=True):
    """No more comes: finish what waits."""


class Counts(msgspec.Struct, tag=True, frozen=True, array_like=True):
    """What the observer has done since it was started."""

    read: int = 0
    """Observed requests that it has taken over."""
    mirrored: int = 0
    """Requests that the other side was asked, and answered."""
    failed: int = 0
    """Requests that the other side did not answer, or that make no pair."""
    dropped: int = 0
    """Requests that found no room in the mirror's queue."""
    waiting: int = 0
    """Requests in that queue."""
    written: int = 0
    """Pairs in the database."""
    unwritten: int = 0
    """Pairs that found no room or no disk."""
    page: str = ""
    """Of /metrics, what the observer adds; empty where it is as it was."""
    answers: str = ""
    """What it read in the answers, an ObserverRead as JSON; empty likewise."""


Message = Begin | Arms | Seen | End | Counts
_DECODER: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)
_ENCODER = msgspec.msgpack.Encoder()


def frame_of(message: Message) -> bytes:
    """A message with its length before it."""
    body = _ENCODER.encode(message)
    return _LENGTH.pack(len(body)) + body


def seen(observed: Observed) -> Seen:
    """What is sent of an observed request."""
    asked, answered, by, version, trial, _, route, prompt_class, is_attempt = observed
    told = (answered, by, version, trial, route, prompt_class, is_attempt)
    return Seen(asked.id, asked.path, asked.headers, asked.body, *told)


async def messages(reader: asyncio.StreamReader) -> AsyncIterator[Message]:
    """All that comes, until the other side has closed.

    Raises:
        ValueError: It is no frame.
    """
    while True:
        try:
            (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
            if length > _MOST_BYTES:
                raise ValueError(f"a frame of {length} bytes")
            body = await reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        yield _DECODER.decode(body)
