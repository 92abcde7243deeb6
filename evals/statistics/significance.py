"""Tests of `no difference`, and what a sample could have shown. Pure."""

import math

from evals.statistics.designs import Floats


def mcnemar_p(to_wrong: int, to_right: int) -> float:
    """Exact two-sided McNemar test: given that an item flips, both directions are equally likely.

    McNemar (1947), Psychometrika 12:153, in the exact form: binomial on the flips, 1/2 each. Without flips p is 1.
    """
    from scipy.stats import binomtest

    flips = to_wrong + to_right
    return float(binomtest(to_wrong, flips, 0.5).pvalue) if flips else 1.0


def detectable_loss(second_moment: float, items: float, alpha: float, power: float, floor: bool = False) -> float:
    """The smallest true mean loss that a one-sided test at `alpha` finds with `power` at this many items.

    (z_alpha + z_power) sqrt(v / n), where v is the variance of an item's difference (Lachin 1981, Controlled Clinical
    Trials 2:93). For 0/1 scores v is the rate of flips, which is at least the loss itself: hence the floor
    (z_alpha + z_power)^2 / n, which also holds where nothing was seen to flip.

    Args:
        second_moment: Mean squared difference of an item; its variance will do where it is far above the mean.
        items: Number of items (an effective one where weights differ).
        alpha: One-sided level.
        power: Probability to find the loss.
        floor: The scores are 0 or 1, or no difference was seen.
    """
    from scipy.stats import norm

    reach = float(norm.isf(alpha) + norm.ppf(power))
    return max(reach * math.sqrt(second_moment / items), reach**2 / items if floor else 0.0)


def normal_p(statistic: float) -> tuple[float, float]:
    """(probability of a larger, of a smaller statistic) if it is standard normal."""
    from scipy.stats import norm

    return float(norm.sf(statistic)), float(norm.cdf(statistic))


def t_p(statistic: float, freedom: int) -> tuple[float, float]:
    """(probability of a larger, of a smaller statistic) by Student's t."""
    from scipy.stats import t

    return float(t.sf(statistic, freedom)), float(t.cdf(statistic, freedom))


def t_interval(difference: float, stderr: float, freedom: int) -> tuple[float, float]:
    """95 % interval of a mean by Student's t."""
    from scipy.stats import t

    half = float(t.ppf(0.975, freedom)) * stderr
    return difference - half, difference + half


def is_binary(scores: Floats) -> bool:
    """Whether every score is 0 or 1."""
    return bool(((scores == 0) | (scores == 1)).all())
