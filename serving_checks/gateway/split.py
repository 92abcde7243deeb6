"""Which requests a candidate answers itself: a share of users, each always by the same model."""

import hashlib
from typing import Annotated, Self

from aiohttp import web
from pydantic import Field, StringConstraints, model_validator

from configs.base import StrictModel
from configs.quantities import Share
from serving_checks.gateway.asked import Asked


class SplitConfig(StrictModel):
    """A/B: what is promoted to `shadow` answers a share of the clients."""

    share: Share = 0.0
    """Of routing keys. Who is in a small share is in every larger one too."""
    ramp: list[Annotated[Share, Field(gt=0)]] = []
    """Shares, ascending, in place of `share`: the first one from the promotion to `shadow` on, the next one when the
    verdict over the pairs of a step passes, and none when it fails (docs/ramp.md)."""
    key_header: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,64}$")] | None = None
    """The client's header that is its routing key, such as `x-user`. Where it sends none: the request's `user`, else
    its API key, else the request's id, which is another one each time."""

    @model_validator(mode="after")
    def _ramps_up(self) -> Self:
        if self.ramp and self.share:
            raise ValueError("`share` is a fixed one and `ramp` one that grows: give one of them")
        if any(later <= before for before, later in zip(self.ramp, self.ramp[1:], strict=False)):
            raise ValueError(f"each step of `ramp` is a larger share than the one before it, not {self.ramp}")
        return self


def drawn(text: str) -> float:
    """A number from 0 to 1 that is the same for the same text everywhere, and evenly spread."""
    return int.from_bytes(hashlib.sha256(text.encode(errors="replace")).digest()[:8], "big") / 2**64


def routing_key(request: web.BaseRequest, asked: Asked, config: SplitConfig) -> str:
    """What a client is known by. It chooses nothing but a place in a hash."""
    told = request.headers.get(config.key_header) if config.key_header else None
    user = asked.fields.get("user")
    key = request.headers.get("authorization")
    return told or (user if isinstance(user, str) else None) or key or asked.id
