"""What the gateway is asked: where it listens, who may ask it, and what is mirrored."""

from ipaddress import ip_address
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from configs.base import StrictModel
from configs.quantities import Count, Label, Mebibytes, Seconds, Share

KeyHash = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
"""Of an API key: the key itself stands in no file."""


class ListenConfig(StrictModel):
    """Where the gateway answers, and how patient it is with clients."""

    host: Label = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8080
    api_keys: list[KeyHash] = []
    """Clients have to send one of these as `Authorization: Bearer`; nobody has to when empty, on loopback only."""
    body_mib: Annotated[Mebibytes, Field(gt=0)] = 8
    """Largest body of a request."""
    body_seconds: Annotated[Seconds, Field(gt=0)] = 30
    """Until a request's body is there."""
    idle_seconds: Annotated[Seconds, Field(gt=0)] = 75
    """Until the whole head of a request is there, from the connection's begin or the answer before; longer than a
    balancer in front keeps its connections."""
    reading_seconds: Annotated[Seconds, Field(gt=0)] = 60
    """For which a client may take nothing of its answer."""
    connections: Annotated[Count, Field(ge=1, le=100_000)] = 1000
    """Open at a time; who comes then is told to come later."""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can ask."""
        try:
            return self.host == "localhost" or ip_address(self.host).is_loopback
        except ValueError:
            return False

    @model_validator(mode="after")
    def _who_listens_to_all_knows_whom(self) -> Self:
        if not self.is_loopback and not self.api_keys:
            raise ValueError(
                f"{self.host} is reached from other machines: list the sha256 of an API key under `api_keys`, or listen"
                " on 127.0.0.1"
            )
        return self


class PatienceConfig(StrictModel):
    """With the server that answers clients."""

    connect_seconds: Annotated[Seconds, Field(gt=0)] = 5
    silence_seconds: Annotated[Seconds, Field(gt=0)] = 300
    """Between two pieces of an answer, and before the first."""


class MirrorConfig(StrictModel):
    """What of the traffic the shadow sees."""

    share: Share = 1.0
    """Of requests, chosen by a hash of the request's id."""
    queue: Annotated[Count, Field(ge=1)] = 256
    """Requests that may wait for the shadow; what comes when it is full is dropped and counted."""
    queue_mib: Annotated[Mebibytes, Field(gt=0)] = 64
    """The same in bytes, of requests and answers."""
    concurrency: Annotated[Count, Field(ge=1, le=1024)] = 4
    timeout_seconds: Annotated[Seconds, Field(gt=0)] = 120
    """Of one answer of the shadow's, from sending to its end."""
    logprobs: bool = False
    """Ask the shadow for the log-probabilities of its answers too, of which pairs keep mean and least: what a cascade
    is calibrated on. With a cascade they are always asked for."""


class LogConfig(StrictModel):
    """Where events are told."""

    to: Literal["folder", "stderr"] = "folder"
    """`folder`: files beside the pairs. `stderr`: the gateway's events there; answers stay in the folder."""
    requests: bool = True
    """A line for each answer, which the observer writes once it has read it."""
    file_mib: Mebibytes = Field(default=16, gt=0)
    """At which a file is put aside and a new one begun."""
    kept: Count = Field(default=4, ge=1, le=1000)
    """Files put aside, of each kind; older ones are removed."""
