"""How items were drawn, and what that does to a variance. Pure.

Fixed strata: the parts of a category are what is asked about, and only the items within each were drawn, so that what
differs between parts is no chance. Sampled clusters: the parts stand for others like them; then they are what was
drawn, however many items each has. Both variances are those of totals by cluster within strata (Cochran, Sampling
Techniques, 3rd ed., sections 5.4 and 9A; Wolter, Introduction to Variance Estimation, 2nd ed., section 6.11), and their
ratio to that of independent items is the design effect (Kish 1965). Dividing a score statistic by its root keeps the
honesty of score intervals for rare events: Korn and Graubard (1998), Survey Methodology 24:193, and Franco et al.
(2019), Journal of Survey Statistics and Methodology 7:334, for one proportion; Yang, Sun and Hardin (2012),
Pharmaceutical Statistics 11:386, for paired ones.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Numbers = NDArray[np.intp]

FEWEST_CLUSTERS = 10
"""With fewer nothing is said of others like them; see docs/statistics.md for what happens below 30."""
ASSUMED_CORRELATION = 0.2
"""Of two items' flips in one cluster, while so few clusters flip that it cannot be seen."""
_ROUNDING = 1e-13
_LEAST_EFFECT = 0.5
"""Of fixed strata: a variance within them is known from few flips, and is never taken for less than this share."""


class Design(NamedTuple):
    """Where each item belongs; what shares a number belongs together."""

    strata: Numbers
    """Fixed parts, numbered from 0 [items]."""
    clusters: Numbers
    """What was drawn, numbered from 0, each inside one stratum [items]."""
    sampled: bool
    """The clusters hold several items and stand for others like them."""

    @property
    def cluster_count(self) -> int:
        return int(self.clusters.max()) + 1

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the variance, at least 1."""
        return max(1, self.cluster_count - int(self.strata.max()) - 1)


def independent(items: int) -> Design:
    """Every item by itself, all of one stratum."""
    return Design(np.zeros(items, dtype=np.intp), np.arange(items), sampled=False)


def covariance(values: Floats, weights: Floats, design: Design) -> Floats:
    """Covariance matrix of weighted means [columns, columns].

    A mean is a ratio of sums, so its variance is that of the linearized residuals' totals by cluster around the mean
    total of the stratum. A stratum of one cluster has none; its total counts as it is.

    Args:
        values: [items, columns].
        weights: [items].
        design: Of the items.
    """
    shares = weights / weights.sum()
    deviations = values - shares @ values
    # Equal scores have no variance, not that of a rounding error.
    deviations[np.abs(deviations) < _ROUNDING * np.maximum(1.0, np.abs(values))] = 0.0
    residuals = shares[:, None] * deviations
    clusters, columns = design.cluster_count, values.shape[1]
    totals = np.zeros((clusters, columns))
    np.add.at(totals, design.clusters, residuals)
    stratum = np.zeros(clusters, dtype=np.intp)
    stratum[design.clusters] = design.strata
    size = np.bincount(stratum)[stratum]
    sums = np.zeros((int(stratum.max()) + 1, columns))
    np.add.at(sums, stratum, totals)
    several = size > 1
    around = totals - np.where(several[:, None], sums[stratum] / size[:, None], 0.0)
    factor = np.where(several, size / np.maximum(size - 1, 1), 1.0)
    found: Floats = (around * factor[:, None]).T @ around
    return found


class DesignEffect(NamedTuple):
    """By how much the variance of `artifact - slope * baseline` is larger than that of independent items."""

    plain: Floats
    """Covariance of (baseline, artifact) as if all items were independent [2, 2]."""
    drawn: Floats
    """As they were drawn [2, 2]."""
    freedom: int | None
    """Of Student's t; None where the normal will do: the clusters are items."""
    least: float
    """No effect is less."""

    @classmethod
    def of(cls, baseline: Floats, artifact: Floats, weights: Floats, design: Design) -> "DesignEffect":
        values = np.column_stack([baseline, artifact])
        plain = covariance(values, weights, independent(len(weights)))
        drawn = covariance(values, weights, design)
        if not design.sampled:
            return cls(plain, drawn, None, _LEAST_EFFECT)
        flipping = len(np.unique(design.clusters[baseline != artifact]))
        size = len(weights) / design.cluster_count
        unseen = 1 + (size - 1) * ASSUMED_CORRELATION if flipping < FEWEST_CLUSTERS else 1.0
        return cls(plain, drawn, design.freedom, max(1.0, unseen))

    def at(self, slope: float) -> float:
        """The effect; 1 or what is assumed where nothing varies."""
        direction = np.array([-slope, 1.0])
        plain, drawn = (float(direction @ matrix @ direction) for matrix in (self.plain, self.drawn))
        if plain <= _ROUNDING**2:
            return max(1.0, self.least)
        # More than independent items have no fixed strata: what seems so is noise of small ones.
        found = drawn / plain if self.freedom is not None else min(1.0, drawn / plain)
        return max(self.least, found)

    @property
    def of_baseline(self) -> float:
        """Of the baseline's own mean."""
        plain, drawn = float(self.plain[0, 0]), float(self.drawn[0, 0])
        return max(self.least, drawn / plain) if plain > 0 else max(1.0, self.least)
