"""The last minute of what a server was asked: for whoever looks now. Prometheus keeps what is older."""

from collections import deque
from typing import NamedTuple

from registry.contracts.gateway_status import RecentLoad

WINDOW_SECONDS = 60.0
_MOST_REQUESTS = 4096


class _Ended(NamedTuple):
    at: float
    seconds: float | None
    """None for a request without an answer."""
    first_seconds: float | None


class Recent:
    """Requests that ended within the last minute, of the last few thousand.

    Args:
        now: When counting begins, in seconds of a steady clock.
    """

    def __init__(self, now: float) -> None:
        self._since = now
        self._ended: deque[_Ended] = deque(maxlen=_MOST_REQUESTS)

    def add(self, at: float, seconds: float | None, first_seconds: float | None = None) -> None:
        """A request ended.

        Args:
            seconds: From sending to the end; None where there is no answer.
            first_seconds: To the first piece; None where it was not streamed.
        """
        self._ended.append(_Ended(at, seconds, first_seconds))

    def load(self, now: float) -> RecentLoad:
        """What they were."""
        within = [one for one in self._ended if one.at > now - WINDOW_SECONDS]
        span = min(WINDOW_SECONDS, now - self._since)
        # Where more came than are kept, the last ones tell of a shorter time.
        if len(within) == _MOST_REQUESTS:
            span = now - within[0].at
        seconds = sorted(one.seconds for one in within if one.seconds is not None)
        first = sorted(one.first_seconds for one in within if one.first_seconds is not None)
        return RecentLoad(
            window_seconds=max(span, 0.0),
            requests=len(within),
            failed=len(within) - len(seconds),
            requests_per_second=len(within) / span if span > 0 else None,
            p50_seconds=_at(seconds, 0.5),
            p95_seconds=_at(seconds, 0.95),
            first_token_p50_seconds=_at(first, 0.5),
            first_token_p95_seconds=_at(first, 0.95),
        )


def _at(ascending: list[float], share: float) -> float | None:
    """The smallest value that at least such a share does not exceed (the nearest rank); None of nothing."""
    if not ascending:
        return None
    rank = -(-len(ascending) * share // 1)
    return ascending[max(int(rank), 1) - 1]
