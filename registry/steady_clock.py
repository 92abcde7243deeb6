"""Whether the machine's clock can be believed: it is set by people and by NTP, and what is deleted by it is gone."""

import time

_JUMP_SECONDS = 60.0
"""More than any clock is put right by little by little between two looks."""
STEADY_SECONDS = 900.0
"""After a jump, and after the start. A clock that is wrong when a machine starts is put right within minutes."""


class SteadyClock:
    """Compares the clock with one that nobody sets. Look often: a jump is seen by the look after it."""

    def __init__(self) -> None:
        self._offset = _offset()
        self._since = time.monotonic()

    def is_steady(self) -> bool:
        """Whether the clock has gone as time went for a quarter of an hour."""
        offset = _offset()
        if abs(offset - self._offset) > _JUMP_SECONDS:
            self._since = time.monotonic()
        self._offset = offset
        return time.monotonic() - self._since >= STEADY_SECONDS


def _offset() -> float:
    return time.time() - time.monotonic()
