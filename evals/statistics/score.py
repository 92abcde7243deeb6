"""Score intervals for paired scores in 0..1: differences, ratios and ratios above chance. Pure.

Each of the three asks whether `artifact - slope * baseline` has a given mean. Under that hypothesis the items' joint
distribution is estimated by maximum likelihood on the cells (baseline, artifact) that were seen, with the four corners
(0, 0), (0, 1), (1, 0), (1, 1) always among them, and the observed mean is compared with the hypothetical one by the
standard error under the hypothesis. For 0/1 scores this is Tango (1998), Statistics in Medicine 17:891 (differences)
and Nam and Blackwelder (2002), Statistics in Medicine 21:689 (ratios); for other scores the likelihood is Owen's
empirical one (1988), Biometrika 75:237. Cells without an item may take mass under the hypothesis: so equal scores
everywhere give an interval of finite width and no fake certainty.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evals.statistics.designs import Design, DesignEffect
from evals.statistics.significance import normal_p, t_p

Floats = NDArray[np.float64]

Z95 = 1.959963984540054
_EMPTY = 1e-7
"""Stands for the count of an empty cell: the limit for 0 is what is wanted."""
_MOST_STEPS = 80
_WIDEST_RATIO = 1e3
"""A ratio whose interval reaches here is not bounded by the data."""


@dataclass(frozen=True)
class PairedCells:
    """Distinct pairs of scores and how many items have each; arrays [cells]."""

    baseline: Floats
    artifact: Floats
    counts: Floats
    effect: DesignEffect | None = None
    """Of how the items were drawn; None: each by itself."""

    @property
    def items(self) -> float:
        return float(self.counts.sum())

    @property
    def mean_baseline(self) -> float:
        return float(self.counts @ self.baseline) / self.items

    @property
    def mean_difference(self) -> float:
        """Artifact - baseline."""
        return float(self.counts @ (self.artifact - self.baseline)) / self.items

    def mean_z(self, mean: float, slope: float = 1.0) -> float:
        """Score statistic of `mean(artifact - slope * baseline) = mean`, positive where the observed mean is above."""
        z = float(score_z(self.artifact - slope * self.baseline, self.counts, mean))
        return z if self.effect is None else z / math.sqrt(self.effect.at(slope))

    def ratio_z(self, ratio: float, chance: float = 0.0) -> float:
        """Score statistic of `(artifact - chance) = ratio * (baseline - chance)` in the mean."""
        return self.mean_z((1 - ratio) * chance, ratio)

    @property
    def reach(self) -> float:
        """What a statistic stays within in 95 % of all samples: normal, or Student's t where clusters were drawn."""
        from scipy.special import stdtrit

        freedom = self.effect.freedom if self.effect else None
        return Z95 if freedom is None else float(stdtrit(freedom, 0.975))

    def tails(self, z: float) -> tuple[float, float]:
        """(probability of a larger, of a smaller statistic) if its mean is 0."""
        freedom = self.effect.freedom if self.effect else None
        return normal_p(z) if freedom is None else t_p(z, freedom)

    def baseline_interval(self) -> tuple[float, float]:
        """95 % interval of the baseline's mean."""
        effect = 1.0 if self.effect is None else self.effect.of_baseline
        return mean_interval(self.baseline, self.counts, self.reach * math.sqrt(effect))

    @property
    def effective_items(self) -> float:
        """Independent items that would tell as much of the difference."""
        return self.items if self.effect is None else self.items / self.effect.at(1.0)


def paired_cells(baseline: Floats, artifact: Floats, weights: Floats, design: Design | None = None) -> PairedCells:
    """Count the pairs.

    Items of unequal weight count as that many of equal weight which would have the same standard error:
    (sum w)^2 / sum w^2 in all (Kish 1965, Survey Sampling, section 11.7).

    Args:
        baseline: Scores in 0..1 [items].
        artifact: Scores of the same items [items].
        weights: Of the items, such as the rows that a document stands for [items].
        design: How they were drawn; each by itself when left out.
    """
    corners = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    pairs = np.concatenate([corners, np.column_stack([baseline, artifact])])
    cells, where = np.unique(pairs, axis=0, return_inverse=True)
    counts = np.bincount(where.ravel()[len(corners) :], weights=weights, minlength=len(cells))
    effect = DesignEffect.of(baseline, artifact, weights, design) if design else None
    return PairedCells(cells[:, 0], cells[:, 1], counts * weights.sum() / (weights @ weights), effect)


def score_z(values: Floats, counts: Floats, mean: float) -> Floats:
    """Score statistic of a hypothetical mean of a discrete distribution.

    The constrained maximum is p_j = n_j / (n + t (v_j - mean)), with the multiplier t such that the mean holds (Owen,
    Empirical Likelihood, 2001, section 2.9); t is found by Newton's method inside a bracket: the constraint falls in t.

    Args:
        values: Distinct values [cells].
        counts: Items of each, 0 included [..., cells].
        mean: The hypothesis; values on both sides of it make it possible.

    Returns:
        (observed mean - mean) / sqrt(variance under the hypothesis / items) [...]; infinite where impossible.
    """
    items = counts.sum(-1)
    off = values - mean
    above = counts @ off / items
    if off.max() <= 0 or off.min() >= 0:
        return np.where(np.abs(above) < 1e-12, 0.0, np.copysign(math.inf, above))
    filled = np.where(counts == 0, _EMPTY, counts)
    low, high = -items / off.max(), -items / off.min()
    tilt = np.zeros_like(items)
    for _ in range(_MOST_STEPS):
        part = off / (items[..., None] + tilt[..., None] * off)
        slack, slope = (filled * part).sum(-1), -(filled * part**2).sum(-1)
        low, high = np.where(slack > 0, tilt, low), np.where(slack > 0, high, tilt)
        newton = tilt - slack / slope
        moved = np.where((newton > low) & (newton < high), newton, (low + high) / 2)
        done = np.abs(moved - tilt) <= 1e-12 * (1 + np.abs(tilt))
        tilt = moved
        if done.all():
            break
    share = filled / (items[..., None] + tilt[..., None] * off)
    z: Floats = above / np.sqrt(share @ off**2 / share.sum(-1) / items)
    return z


def difference_interval(cells: PairedCells, z: float) -> tuple[float, float]:
    """Interval of mean(artifact - baseline) whose ends have the score statistics +z and -z."""
    observed = cells.mean_difference
    return (
        _crossing(cells.mean_z, z, observed, -1.0),
        _crossing(cells.mean_z, -z, observed, 1.0),
    )


def mean_interval(values: Floats, counts: Floats, z: float) -> tuple[float, float]:
    """Interval of the mean of one model's scores in 0..1 whose ends have the score statistics +z and -z.

    For 0/1 scores this is Wilson's (1927), Journal of the American Statistical Association 22:209.

    Args:
        values: Scores, 0 and 1 among them [cells].
        counts: Items of each, 0 included [cells].
    """
    observed = float(counts @ values) / float(counts.sum())

    def statistic(mean: float) -> float:
        return float(score_z(values, counts, mean))

    return _crossing(statistic, z, observed, 0.0), _crossing(statistic, -z, observed, 1.0)


def share_interval(scores: Floats, weights: Floats, clusters: NDArray[np.intp]) -> tuple[float, float]:
    """95 % interval of the weighted mean of one model's scores.

    Args:
        scores: In 0..1 [items].
        weights: [items].
        clusters: Items that share a number are not independent and count as one [items].
    """
    total = np.bincount(clusters, weights)
    mean = np.bincount(clusters, weights * scores)[total > 0] / total[total > 0]
    heavy = total[total > 0]
    values, where = np.unique(np.concatenate([[0.0, 1.0], mean]), return_inverse=True)
    counts = np.bincount(where.ravel()[2:], weights=heavy, minlength=len(values)) * heavy.sum() / (heavy @ heavy)
    return mean_interval(values, counts, Z95)


def ratio_interval(cells: PairedCells, z: float, chance: float = 0.0) -> tuple[float, float] | None:
    """Interval of (artifact - chance) / (baseline - chance) of the means; None where the data do not bound it."""
    above = cells.mean_baseline - chance
    if above <= 0:
        return None
    observed = (float(cells.counts @ cells.artifact) / cells.items - chance) / above

    def statistic(ratio: float) -> float:
        return cells.ratio_z(ratio, chance)

    ends = []
    for wanted, sign in ((z, -1.0), (-z, 1.0)):
        if chance == 0.0 and sign < 0:
            ends.append(_crossing(statistic, wanted, observed, 0.0))
            continue
        step = 0.125
        while -sign * statistic(observed + sign * step) < z:
            step *= 2
            if step > _WIDEST_RATIO:
                return None
        ends.append(_crossing(statistic, wanted, observed, observed + sign * step))
    return ends[0], ends[1]


def _crossing(statistic: Callable[[float], float], wanted: float, inside: float, outside: float) -> float:
    """Where the statistic takes the wanted value, between a point of the interval and one beyond it."""
    from scipy.optimize import brentq

    if abs(outside - inside) < 1e-12 or abs(statistic(outside)) < abs(wanted):
        return outside
    # An impossible hypothesis has an infinite statistic; the search wants a finite one.
    return float(brentq(lambda point: float(np.clip(statistic(point), -1e6, 1e6)) - wanted, inside, outside, xtol=1e-9))


def difference_stderr(cells: PairedCells) -> float:
    """Half the 95 % score interval in units of a normal's: above 0 even where no item changed."""
    low, high = difference_interval(cells, Z95)
    return (high - low) / (2 * Z95)
