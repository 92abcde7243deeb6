"""Did arrivals outrun the server? Then latencies tell of the test's length and of nothing else.

GuideLLM's rule (docs/guides/over_saturation_stopping.md): requests in flight and times to first token both rise over
the test, each with a slope significantly above zero. A queue's values lie close to the ones before them even where it
is stable, and ordinary least squares takes that for a trend; so the number of values is the effective one of Santer et
al. 2000 (J. Geophys. Res. 105, 7337, eq. 6): n (1 - r) / (1 + r), r the residuals' correlation with the ones before.

In simulated queues with 64 arrivals (one and eight places, 200 runs each) 2 to 4 % were marked at 0.3 and 0.6 of what
the server can do, a tenth at 0.8, a quarter at 0.95, 59 and 69 % at 1.2, and 93 % and more at twice what it can do.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serving_checks.load.requests import RequestRow

_FEWEST = 24
"""Completed requests below which no trend is told: a queue's ups and downs look like one."""
_SIGNIFICANCE = 0.05


def is_saturated(rows: Sequence[RequestRow]) -> bool:
    """Whether an open loop's requests piled up from its first arrival to its last.

    Args:
        rows: All requests of one load test, failed ones too; fewer than 24 completed ones never tell.
    """
    told = [row for row in rows if row.ttft_seconds is not None]
    if len(told) < _FEWEST:
        return False
    arrivals = np.sort(np.array([row.arrival_seconds for row in rows]))
    ends = np.sort(np.array([row.end_seconds for row in rows]))
    in_flight = np.arange(1, len(arrivals) + 1) - np.searchsorted(ends, arrivals, side="right")
    waits = np.array([(row.arrival_seconds, row.ttft_seconds + row.queue_seconds) for row in told])  # type: ignore[operator]
    waits = waits[np.argsort(waits[:, 0])]
    return rises(arrivals, in_flight.astype(float)) and rises(waits[:, 0], waits[:, 1])


def rises(times: NDArray[np.float64], values: NDArray[np.float64]) -> bool:
    """Whether `values` [n] have a slope over `times` [n, ascending] above zero at the 5 % level, one-sided."""
    from scipy.special import stdtr

    times = times - times.mean()
    spread = float(times @ times)
    if spread == 0:
        return False
    slope = float(times @ values) / spread
    residuals = values - values.mean() - slope * times
    squares = float(residuals @ residuals)
    if squares <= 1e-12 * float(values @ values):
        return slope > 0
    correlation = max(0.0, float(residuals[1:] @ residuals[:-1]) / squares)
    effective = len(values) * (1 - correlation) / (1 + correlation)
    if effective <= 3:
        # As smooth as a ramp: a slope that lifts the values by more than their mean level is no accident.
        return slope * float(np.ptp(times)) > float(np.abs(values).mean())
    stderr = (squares / (effective - 2) / spread) ** 0.5
    return bool(stdtr(effective - 2, slope / stderr) > 1 - _SIGNIFICANCE)
