"""For how long a server was busy: told by the requests that it answered, in whatever order their ends are seen."""

import math
from bisect import bisect_left, bisect_right

_MOST_SPANS = 4096
"""Spans that are kept apart; of more, the older half is only a sum, and what comes later begins behind it."""


class BusyTime:
    """Seconds in which at least one request was in flight: the length of the union of their spans."""

    def __init__(self) -> None:
        # Disjoint and ascending.
        self._begins: list[float] = []
        self._ends: list[float] = []
        self._settled_seconds = 0.0
        self._settled_until = -math.inf

    def add(self, begin: float, end: float) -> None:
        """A request was in flight from `begin` to `end`, in seconds of one clock."""
        begin = max(begin, self._settled_until)
        if not begin < end:
            return
        first, behind = bisect_left(self._ends, begin), bisect_right(self._begins, end)
        if first < behind:
            begin, end = min(begin, self._begins[first]), max(end, self._ends[behind - 1])
        self._begins[first:behind], self._ends[first:behind] = [begin], [end]
        if len(self._begins) > _MOST_SPANS:
            self._settle(_MOST_SPANS // 2)

    @property
    def seconds(self) -> float:
        """So far."""
        return self._settled_seconds + sum(self._ends) - sum(self._begins)

    def _settle(self, spans: int) -> None:
        self._settled_seconds += sum(self._ends[:spans]) - sum(self._begins[:spans])
        self._settled_until = self._ends[spans - 1]
        del self._begins[:spans], self._ends[:spans]
