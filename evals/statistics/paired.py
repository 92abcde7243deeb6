"""Means of paired scores and of what is made from them. Pure; formulas cited where they stand."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evals.statistics.designs import Design, covariance, independent

Scores = NDArray[np.float64]


class PairedMeans(NamedTuple):
    """Means of two models over the same items, with the covariance of these means.

    Weighted means are ratios of sums; their variances are those of the linearized residuals
    (Cochran, Sampling Techniques, 3rd ed., section 6.4). With equal weights and independent items these are s^2 / n.
    """

    baseline: float
    artifact: float
    baseline_variance: float
    artifact_variance: float
    covariance: float
    difference_variance: float
    """Of artifact - baseline, by item: of the three above, equal differences would not give 0."""
    items: int
    freedom: int
    """Degrees of freedom of the variances."""

    @property
    def difference(self) -> float:
        return self.artifact - self.baseline

    @property
    def difference_stderr(self) -> float | None:
        """None for a single item."""
        if self.items < 2:
            return None
        return math.sqrt(self.difference_variance)

    @property
    def baseline_stderr(self) -> float | None:
        """None for a single item."""
        return math.sqrt(self.baseline_variance) if self.items > 1 else None

    @property
    def artifact_stderr(self) -> float | None:
        """None for a single item."""
        return math.sqrt(self.artifact_variance) if self.items > 1 else None

    def above(self, chance: float) -> float | None:
        """(artifact - chance) / (baseline - chance); None where the baseline is not above chance."""
        return (self.artifact - chance) / (self.baseline - chance) if self.baseline > chance else None

    def ratio(self) -> tuple[float | None, float | None]:
        """artifact / baseline and its standard error by the delta method; both None for a baseline of 0.

        Var(a/b) = (Var a - 2 (a/b) Cov(a, b) + (a/b)^2 Var b) / b^2, to first order (Casella and Berger, Statistical
        Inference, 2nd ed., example 5.5.27).
        """
        if self.baseline == 0:
            return None, None
        ratio = self.artifact / self.baseline
        if self.items < 2:
            return ratio, None
        variance = self.artifact_variance - 2 * ratio * self.covariance + ratio**2 * self.baseline_variance
        return ratio, math.sqrt(max(0.0, variance)) / abs(self.baseline)


def paired_means(baseline: Scores, artifact: Scores, weights: Scores, design: Design | None = None) -> PairedMeans:
    """Weighted means over items.

    Args:
        baseline: Scores [items].
        artifact: Scores of the same items [items].
        weights: Weights [items], such as words for log-likelihoods a word.
        design: How the items were drawn; each by itself when left out.
    """
    drawn = design or independent(len(baseline))
    means = float(np.average(baseline, weights=weights)), float(np.average(artifact, weights=weights))
    found = covariance(np.column_stack([baseline, artifact, artifact - baseline]), weights, drawn)
    return PairedMeans(
        *means,
        baseline_variance=float(found[0, 0]),
        artifact_variance=float(found[1, 1]),
        covariance=float(found[0, 1]),
        difference_variance=float(found[2, 2]),
        items=len(baseline),
        freedom=drawn.freedom,
    )
