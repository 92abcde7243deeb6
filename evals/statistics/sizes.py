"""How many items a verdict needs, known before any is asked. Pure.

The gate passes a category when its score statistic at the margin d, (difference + d) sqrt(n / v0), reaches z_alpha,
where v0 is an item's variance under the hypothesis that d is lost. If nothing is lost and a share f of the items flips,
the difference has mean 0 and variance f / n. So n = ((z_alpha sqrt(v0) + z_power sqrt(f)) / d)^2 items are needed: Nam
(1997), Biometrics 53:1422, for the statistic of Tango (1998). With f = 0 it is the fewest that can pass at all:
z_alpha^2 (1 - d) / d.
"""

import math
from statistics import NormalDist

import numpy as np

from evals.statistics.score import score_z

_NORMAL = NormalDist()
_VALUES = np.array([-1.0, 0.0, 1.0])


def items_to_pass(margin: float, flips: float, alpha: float, power: float) -> int:
    """Items of score 0 or 1 with which a category that loses nothing passes with `power`.

    Args:
        margin: The largest acceptable loss, a share.
        flips: Share of the items that change although nothing is lost, half of them either way; 0 in the best case.
        alpha: One-sided level: the suite's, over its number of categories (Holm's first step).
        power: Probability to pass.
    """
    reach = _NORMAL.inv_cdf(1 - alpha) * _null_deviation(margin, flips) + _NORMAL.inv_cdf(power) * math.sqrt(flips)
    # A rounding error is not worth an item.
    return math.ceil((reach / margin) ** 2 - 1e-6)


def chance_to_pass(items: int, margin: float, flips: float, alpha: float) -> float:
    """Probability that a category of so many items passes if nothing is lost; arguments as of `items_to_pass`."""
    above = margin * math.sqrt(items) - _NORMAL.inv_cdf(1 - alpha) * _null_deviation(margin, flips)
    if flips == 0:
        return float(above >= 0)
    return _NORMAL.cdf(above / math.sqrt(flips))


def documents_to_pass(margin: float, spread: float, alpha: float, power: float) -> int:
    """Documents with which a perplexity that did not change passes with `power`.

    By Student's t with documents - 1 degrees of freedom: the least n for which (t_alpha + z_power) spread / sqrt(n) is
    within the margin.

    Args:
        margin: The largest acceptable ratio less 1.
        spread: Standard deviation of a document's difference in mean log-likelihood, in nats a word, and above 0.
        alpha: As of `items_to_pass`.
        power: Probability to pass.
    """
    documents = 2
    while chance_to_pass_documents(documents, margin, spread, alpha) < power:
        documents += max(1, documents // 50)
    while documents > 2 and chance_to_pass_documents(documents - 1, margin, spread, alpha) >= power:
        documents -= 1
    return documents


def chance_to_pass_documents(documents: int, margin: float, spread: float, alpha: float) -> float:
    """Probability that a perplexity that did not change passes; arguments as of `documents_to_pass`."""
    from scipy.special import stdtrit

    if documents < 2:
        return 0.0
    needed = float(stdtrit(documents - 1, 1 - alpha))
    return _NORMAL.cdf(math.log1p(margin) * math.sqrt(documents) / spread - needed)


def _null_deviation(margin: float, flips: float) -> float:
    """sqrt(v0): of an item's difference if the margin is lost, as the gate estimates it where `flips` are seen."""
    counts = np.array([flips / 2, 1 - flips, flips / 2])
    # The statistic of one item whose observed mean is 0.
    return margin / float(score_z(_VALUES, counts, -margin))
