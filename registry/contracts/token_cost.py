"""What a model's tokens cost under a load that was measured."""

from registry.contracts.base import Record


class TokenCost(Record):
    """Prices are for a million tokens, in `currency`. What could not be told apart is None."""

    currency: str
    made_up: bool
    """The device's price is nobody's, so these are not either."""
    device: str
    per_hour: float
    """Of all devices that the server takes."""
    requests: int
    """That the load was."""
    counted: int
    """Of those, the ones whose tokens are known; the prices are of them."""
    busy_seconds: float
    """What is paid for: the time in which at least one request was in flight, of a load test all of it."""
    mean_in_flight: float
    """Requests at a time while busy: costs compare only where this is alike."""
    input_per_million: float | None = None
    output_per_million: float | None = None
    blended_per_million: float | None = None
    """Three input tokens to one output token."""
    all_per_million: float
    """Of input and output as they came."""
    prefill_share: float | None = None
    """Of the seconds, before the first token."""
