"""How far artifacts of one recipe lie apart when only the calibration's seed differs."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """Of one number over several artifacts, in its own unit."""

    mean: float
    deviation: float
    """Standard deviation between artifacts, n - 1 in the denominator."""
    low: float
    """95 % prediction interval: where the number of one more artifact is expected."""
    high: float


def spread_of(values: Sequence[float]) -> Spread:
    """The spread of two values or more.

    The prediction interval is mean ± t s sqrt(1 + 1/n) with n - 1 degrees of freedom (Hahn and Meeker, *Statistical
    Intervals*, 1991, 4.7): two artifacts say little of a third, and it shows.
    """
    from scipy.special import stdtrit

    count, mean, deviation = len(values), statistics.fmean(values), statistics.stdev(values)
    reach = float(stdtrit(count - 1, 0.975)) * deviation * math.sqrt(1 + 1 / count)
    return Spread(mean, deviation, mean - reach, mean + reach)
