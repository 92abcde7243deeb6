"""What a model's tokens cost on this device: an hour's price, shared among the tokens of a load that was measured.

A server is paid for by the hour, and its hour makes tokens of two kinds: those that are read (prefill) and those that
are written (decode). What the busy time costs is shared between them by the seconds that requests spent before and
after their first token; so the two prices, times their tokens, are what was paid. Google's GKE Inference Quickstart
shares by a fixed ratio of an output token's price to an input token's instead (gkerecommender v1, `Cost`). The blended
price is that of three input tokens and one output token, as Artificial Analysis has it. docs/watching.md says what
these numbers leave out.
"""

import math
from datetime import date
from typing import Annotated, NamedTuple

from pydantic import BeforeValidator, Field, StringConstraints

from configs.base import StrictModel
from configs.quantities import Label, Price, Ranks
from registry.contracts.token_cost import TokenCost

BLENDED_INPUT_TOKENS = 3
"""For one output token."""
_MILLION = 1e6


def _written_out(value: object) -> object:
    # Pydantic takes a number for the seconds since 1970.
    if not isinstance(value, str | date):
        raise ValueError('a date such as "2026-11-26" is wanted')
    return value


class DevicePrice(StrictModel):
    """What the device costs on which a model is served; `configs/prices` has some."""

    device: Label
    """What is paid for."""
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
    """As ISO 4217 has it."""
    per_hour: Annotated[Price, Field(gt=0)]
    """Of one device."""
    devices: Ranks = 1
    """That one server takes."""
    source: Label
    """Where the price was read."""
    read_on: Annotated[date, BeforeValidator(_written_out)]
    """When it was."""
    made_up: bool = False
    """Nobody offers it at this price: it is there so that a cost is shown, and every cost says so."""

    @property
    def per_second(self) -> float:
        """Of one server."""
        return self.per_hour * self.devices / 3600


class MeasuredLoad(NamedTuple):
    """What one server answered. Seconds are sums over requests but for `busy_seconds`."""

    requests: int
    """That were answered to their end."""
    counted: int
    """Of those, the ones whose server told their tokens."""
    busy_seconds: float
    """In which at least one of all requests was in flight; of a load test, which holds the device, all of its time."""
    request_seconds: float
    """Of all requests, from sending to the end."""
    counted_seconds: float
    """Of the counted ones."""
    prefill_seconds: float
    """Of counted requests that were streamed, from sending to the first token."""
    decode_seconds: float
    """Of the same, from the first token to the end."""
    input_tokens: int
    """Of the counted ones, as below."""
    output_tokens: int


def cost_of(load: MeasuredLoad, price: DevicePrice) -> TokenCost | None:
    """What a million tokens cost under this load; None where nothing was measured that a price could be put to.

    What was counted bears the share of the busy time that its requests have in the seconds of all.
    """
    tokens = load.input_tokens + load.output_tokens
    if not tokens or not load.busy_seconds > 0 or not load.request_seconds > 0:
        return None
    spent = price.per_second * load.busy_seconds * load.counted_seconds / load.request_seconds
    split_seconds = load.prefill_seconds + load.decode_seconds
    told: dict[str, float] = {}
    # Without a streamed answer nobody knows where reading ended and writing began.
    if split_seconds > 0 and load.input_tokens and load.output_tokens:
        prefill = load.prefill_seconds / split_seconds
        read, written = spent * prefill / load.input_tokens, spent * (1 - prefill) / load.output_tokens
        blended = (BLENDED_INPUT_TOKENS * read + written) / (BLENDED_INPUT_TOKENS + 1)
        told = {
            "input_per_million": read * _MILLION,
            "output_per_million": written * _MILLION,
            "blended_per_million": blended * _MILLION,
            "prefill_share": prefill,
        }
    cost = TokenCost(
        currency=price.currency,
        made_up=price.made_up,
        device=price.device,
        per_hour=price.per_hour * price.devices,
        requests=load.requests,
        counted=load.counted,
        busy_seconds=load.busy_seconds,
        mean_in_flight=load.request_seconds / load.busy_seconds,
        all_per_million=spent / tokens * _MILLION,
        **told,
    )
    return cost if math.isfinite(cost.all_per_million) else None
