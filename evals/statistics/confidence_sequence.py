"""The mean of bounded observations, judged after every one of them: confidence sequences by betting. Pure.

Whoever bets against "the mean is m", a share of his stake on each observation, does not get rich while that is true:
his wealth is a nonnegative martingale from 1, and the chance that it *ever* reaches 1 / level is at most the level
(Ville 1939). So a mean that was once refuted stays refuted, and one may look after each observation and end when one
likes. The bets are the grid Kelly process of Waudby-Smith and Ramdas (2024), "Estimating means of bounded random
variables by betting", JRSS B 86:1. The stake is divided over a few constant fractions f of the most that can be laid:

    wealth_n(m) = mean over f of product over i <= n of (1 + f / m (x_i - m)),    x_i in 0..1.

It grows if the mean is above m, falls in m whatever was observed, and does not depend on the order of the first n. No
bet has to be guessed from the data. Against that paper's predictable plug-in bets it took a third to six tenths of the
observations where the mean lies near m, and up to twice as many where it is far off and few are needed anyway
(docs/verdict.md).

Assumed: observations lie within their bounds, and the mean of each, given all before it, is the same. Their
distribution may be any, and nothing is asymptotic. Prompts in random order are so. Where the mean moves, as in traffic
by the hour, what is refuted is that it was at most m all the time.
"""

import math
from dataclasses import dataclass

import numpy as np

from evals.statistics.score import Floats

FRACTIONS = (0.9, 0.3, 0.1, 0.9 / 27, 0.9 / 81)
"""Of what could be lost. The largest one decides where nothing ever differs, the smallest at 100,000 observations."""
_LARGEST_LOG = 700.0
"""exp of more is no number, and no level asks for more wealth."""
_STEPS = 1 << 14
"""Observations are rounded to so many steps for the interval, each to the side on which it gets wider."""
_HALVINGS = 24


@dataclass(frozen=True)
class Bounded:
    """Observations [n] in the order in which they came, within `low` and `high`.

    A level is the chance that a statement is wrong after any of the observations, on one side.
    """

    values: Floats
    low: float
    high: float

    def above_after(self, mean: float, level: float) -> int | None:
        """How many observations first refute `the mean is at most this`; None where they do not."""
        return _first_reaching(wealth(self._scaled, self._place(mean)), level)

    def below_after(self, mean: float, level: float) -> int | None:
        """How many observations first refute `the mean is at least this`; None where they do not."""
        return self.mirrored.above_after(-mean, level)

    def lower(self, level: float) -> float:
        """Lower bound of the mean after the last observation; `low` where nothing is known.

        All that is below is refuted by the wealth after that observation. It lies at most 1 / 16,384 of the range
        below the exact bound.
        """
        return self.low + (self.high - self.low) * _lower_bound(self._scaled, level)

    def upper(self, level: float) -> float:
        """The same from above."""
        return -self.mirrored.lower(level)

    def growth(self, mean: float) -> float:
        """What the best of the bets won against `the mean is at most this`, in nats an observation; 0 for nothing."""
        logs = [_log_factors(self._scaled, self._place(mean), fraction).mean() for fraction in FRACTIONS]
        return max(0.0, *map(float, logs))

    @property
    def _scaled(self) -> Floats:
        return (self.values - self.low) / (self.high - self.low)

    @property
    def mirrored(self) -> "Bounded":
        """The same of the negative values."""
        return Bounded(-self.values, -self.high, -self.low)

    def _place(self, mean: float) -> float:
        return (mean - self.low) / (self.high - self.low)


def wealth(observations: Floats, mean: float) -> Floats:
    """Of betting that the mean is above `mean`, after each observation [n]; at most e^700.

    Args:
        observations: Within 0..1 [n].
        mean: Above 0 and below 1.
    """
    total = np.zeros(len(observations))
    for fraction in FRACTIONS:
        total += np.exp(np.minimum(np.cumsum(_log_factors(observations, mean, fraction)), _LARGEST_LOG))
    return total / len(FRACTIONS)


def needed_nats(level: float) -> float:
    """What a single one of the bets has to win until the wealth reaches 1 / level, if the others lose all."""
    return math.log(len(FRACTIONS) / level)


def _log_factors(observations: Floats, mean: float, fraction: float) -> Floats:
    factors: Floats = np.log1p(fraction / mean * (observations - mean))
    return factors


def _first_reaching(found: Floats, level: float) -> int | None:
    reached = found >= 1 / level
    return int(np.argmax(reached)) + 1 if reached.any() else None


def _lower_bound(observations: Floats, level: float) -> float:
    """The largest mean that the wealth after the last observation still refutes, by bisection: it falls in the mean."""
    steps = np.bincount((observations * _STEPS).astype(np.intp))
    seen = np.flatnonzero(steps)
    values, counts = seen / _STEPS, steps[seen].astype(np.float64)
    if not values.any():
        return 0.0
    # At the observed mean no constant bet has won anything.
    refuted, kept = 0.0, float(np.average(values, weights=counts))
    for _ in range(_HALVINGS):
        middle = (refuted + kept) / 2
        logs = [float(counts @ _log_factors(values, middle, fraction)) for fraction in FRACTIONS]
        if np.mean(np.exp(np.minimum(logs, _LARGEST_LOG))) >= 1 / level:
            refuted = middle
        else:
            kept = middle
    return refuted
