"""Simulated differences with a known mean, looked at again and again: what refutes wrongly, and after how many pairs.

Shared by the tests and by `benchmarks/verdict.py`, which draws more of each.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from evals.statistics.confidence_sequence import Bounded
from tests.simulations import Z_ONE_SIDED, Floats, Share

Draw = Callable[[np.random.Generator, int], Floats]

CLIP = math.log(4)


class Truth(NamedTuple):
    """What is drawn, its bounds and its true mean."""

    draw: Draw
    low: float
    high: float
    mean: float


def flips(share: float, mean: float) -> Truth:
    """Differences of 0/1 scores: so many are not 0."""
    upward = (share + mean) / 2
    return Truth(lambda generator, n: _signs(generator.random(n), upward, share), -1, 1, mean)


def shares(mean: float) -> Truth:
    """Whether two answers are the same."""
    return Truth(lambda generator, n: (generator.random(n) < mean).astype(np.float64), 0, 1, mean)


def skewed(mean: float) -> Truth:
    """Shares close to 1 with a long tail: Beta(a, b) with a + b = 2."""
    return Truth(lambda generator, n: generator.beta(2 * mean, 2 - 2 * mean, n), 0, 1, mean)


def clipped_logs(ratio: float, spread: float) -> Truth:
    """Logarithms of ratios around `ratio`, clipped at a factor of 4; the mean is that of the clipped ones."""
    from scipy.stats import norm

    centre = math.log(ratio)
    low, high = (-CLIP - centre) / spread, (CLIP - centre) / spread
    inside = norm.cdf(high) - norm.cdf(low)
    mean = CLIP * (norm.sf(high) - norm.cdf(low)) + centre * inside - spread * (norm.pdf(high) - norm.pdf(low))
    return Truth(
        lambda generator, n: np.clip(generator.normal(centre, spread, n), -CLIP, CLIP), -CLIP, CLIP, float(mean)
    )


def ever_excluded(truth: Truth, observations: int, alpha: float, draws: int, seed: int) -> Share:
    """How often the confidence sequence excludes the true mean after any of the observations, alpha / 2 a side."""
    generator = np.random.default_rng(seed)
    hits = 0
    for _ in range(draws):
        seen = Bounded(truth.draw(generator, observations), truth.low, truth.high)
        hits += (
            seen.above_after(truth.mean, alpha / 2) is not None or seen.below_after(truth.mean, alpha / 2) is not None
        )
    return Share(hits / draws, draws)


class WrongPasses(NamedTuple):
    """How often what is exactly at its limit passed at any look."""

    sequence: Share
    naive: Share
    """By mean and standard error, as if each look were the only one."""


def wrong_passes(truth: Truth, observations: int, every: int, level: float, draws: int, seed: int) -> WrongPasses:
    """Look every so many observations; the truth is the limit."""
    generator = np.random.default_rng(seed)
    hits = naive = 0
    counts = np.arange(every, observations + 1, every)
    for _ in range(draws):
        values = truth.draw(generator, observations)
        after = Bounded(values, truth.low, truth.high).above_after(truth.mean, level)
        hits += after is not None
        mean = np.cumsum(values)[counts - 1] / counts
        variance = np.cumsum(values**2)[counts - 1] / counts - mean**2
        naive += bool((mean - truth.mean > Z_ONE_SIDED * np.sqrt(np.maximum(variance, 1e-12) / counts)).any())
    return WrongPasses(Share(hits / draws, draws), Share(naive / draws, draws))


class Needed(NamedTuple):
    """Observations until the limit is refuted: of half the draws, and of four in five; infinite beyond those drawn."""

    half: float
    most: float


def needed(
    truth: Truth, limit: float, level: float, observations: int, draws: int, seed: int, *, plug_in: bool = False
) -> Needed:
    """Until the mean is surely above `limit` (below, where it truly is).

    Args:
        plug_in: By the predictable plug-in bets of the same paper, for comparison.
    """
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        seen = Bounded(truth.draw(generator, observations), truth.low, truth.high)
        place = limit if truth.mean > limit else -limit
        seen = seen if truth.mean > limit else seen.mirrored
        after = plug_in_after(seen, place, level) if plug_in else seen.above_after(place, level)
        found.append(math.inf if after is None else after)
    return Needed(*np.quantile(found, (0.5, 0.8), method="inverted_cdf"))


def plug_in_after(seen: Bounded, mean: float, level: float) -> int | None:
    """Waudby-Smith and Ramdas (2024), the predictable plug-in bets of the hedged capital process, one side of it."""
    values = (seen.values - seen.low) / (seen.high - seen.low)
    place = (mean - seen.low) / (seen.high - seen.low)
    count = np.arange(1, len(values) + 1)
    means = (0.5 + np.cumsum(values)) / (count + 1)
    variances = (0.25 + np.cumsum((values - means) ** 2)) / (count + 1)
    before = np.concatenate([[0.25], variances[:-1]])
    bets = np.sqrt(2 * math.log(1 / level) / (before * count * np.log(count + 1)))
    reached = np.cumsum(np.log1p(np.minimum(bets, 0.5 / place) * (values - place))) >= math.log(1 / level)
    return int(np.argmax(reached)) + 1 if reached.any() else None


def _signs(uniform: Floats, upward: float, share: float) -> Floats:
    return np.where(uniform < upward, 1.0, np.where(uniform < share, -1.0, 0.0))
