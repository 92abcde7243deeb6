"""Is a loss uniform over strata. Pure."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Heterogeneity(NamedTuple):
    """Whether estimates differ by more than their standard errors explain."""

    q: float
    degrees_of_freedom: int
    p_value: float
    i_squared: float
    """Share of the estimates' scatter that chance does not explain, 0..1."""
    mean: float
    """The estimates' mean, weighted by 1 / stderr^2."""


def cochran_q(estimates: Sequence[float], stderrs: Sequence[float]) -> Heterogeneity | None:
    """Cochran's Q with I^2: chi-square with strata - 1 degrees of freedom if all strata share one true value.

    Cochran (1954), Biometrics 10:101; I^2: Higgins and Thompson (2002), Statistics in Medicine 21:1539.

    Args:
        estimates: One a stratum, all in one unit, such as paired differences in share points.
        stderrs: Their standard errors. Where no item changed this is 0, which would weigh infinitely: use
            `evals.statistics.score.difference_stderr`, which stays above 0.

    Returns:
        None with fewer than two strata whose standard error is above 0 (others cannot be weighed and are left out).
    """
    from scipy.stats import chi2

    usable = [(one, error) for one, error in zip(estimates, stderrs, strict=True) if error > 0 and math.isfinite(error)]
    if len(usable) < 2:
        return None
    weights = [error**-2 for _, error in usable]
    mean = math.fsum(w * one for w, (one, _) in zip(weights, usable, strict=True)) / math.fsum(weights)
    q = math.fsum(w * (one - mean) ** 2 for w, (one, _) in zip(weights, usable, strict=True))
    freedom = len(usable) - 1
    return Heterogeneity(q, freedom, float(chi2.sf(q, freedom)), max(0.0, 1 - freedom / q) if q > 0 else 0.0, mean)
