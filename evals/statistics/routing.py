"""Two models, one cheap: what a choice between them keeps, and which choices are surely good enough. Pure.

A choice serves some items cheaply and the others precisely. Its loss at an item is the precise one's quality less that
of the one who answers: nothing where the precise one answers. Qualities lie within 0..1, losses within -1..1.

`supported` is Learn-then-Test with fixed-sequence testing (Angelopoulos, Bates, Candès, Jordan and Lei 2021, "Learn
then Test: calibrating predictive algorithms to achieve risk control", arXiv 2110.01052, section 2.3): choices in an
order that was fixed without looking at these items, from the one that risks least. Each is asked whether "it loses
more than the limit" is refuted at alpha, and the first that is not ends it. Before a choice that loses too much is
taken, the first such one in the order has to be refuted wrongly, which happens with a chance of at most alpha. So the
number of choices costs nothing, and their losses need not grow along the order. Each is asked by the bets of
`confidence_sequence`, which hold at all numbers of items together: whoever looks again with more items, and the same
order, does not spend alpha anew.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evals.statistics.confidence_sequence import FRACTIONS, Bounded
from evals.statistics.score import Floats

Flags = NDArray[np.bool_]
_MOST_ITEMS = 1 << 20


class Frontier(NamedTuple):
    """Quality against the share that is served cheaply; arrays [points], from no item to all."""

    share_cheap: Floats
    quality: Floats


def losses(cheap: Floats, precise: Floats, served_cheap: Flags) -> Floats:
    """What a choice loses at each item [items]."""
    return np.where(served_cheap, precise - cheap, 0.0)


def bounded_losses(found: Floats, clusters: NDArray[np.intp]) -> Bounded:
    """Losses as observations: the mean of each cluster is one, in the order in which clusters first came.

    Args:
        found: Of each item [items].
        clusters: Of each item, counted from 0 [items]; items of one are not independent.
    """
    means = np.bincount(clusters, found) / np.bincount(clusters)
    return Bounded(means, -1.0, 1.0)


def supported(choices: Iterable[Bounded], limit: float, alpha: float) -> int:
    """How many of the choices, from the first, surely lose no more than `limit`, all together at alpha.

    Args:
        choices: Losses of each, in an order that was fixed before.
        limit: As a mean loss.
        alpha: Chance that one of those counted loses more.
    """
    count = 0
    for one in choices:
        if one.upper(alpha) > limit:
            break
        count += 1
    return count


def least_items(limit: float, alpha: float) -> int:
    """Items that are needed if none of them lost anything: with fewer nothing can be supported.

    The rounding of `Bounded.upper` to steps asks for a few more.
    """
    # The mirrored losses are gains: none is half-way between their bounds.
    place = (1 - limit) / 2
    won = [math.log1p(fraction / place * (0.5 - place)) for fraction in FRACTIONS]
    low, high = 1, _MOST_ITEMS
    while low < high:
        middle = (low + high) // 2
        reached = sum(math.exp(min(700.0, middle * one)) for one in won) / len(won) >= 1 / alpha
        low, high = (low, middle) if reached else (middle + 1, high)
    return low


def frontier(cheap: Floats, precise: Floats, order: Floats) -> Frontier:
    """The quality of each choice that serves cheaply what has at least some value of `order`.

    Args:
        cheap: Quality [items].
        precise: The same of the other.
        order: Highest first; items with equal values are served alike; -inf is never served cheaply [items].
    """
    places = np.argsort(-order, kind="stable")
    gained = np.cumsum((cheap - precise)[places]) / len(places)
    values = order[places]
    ends = np.flatnonzero(np.append(values[1:] != values[:-1], True) & (values > -np.inf))
    share = np.concatenate(([0.0], (ends + 1) / len(places)))
    quality = precise.mean() + np.concatenate(([0.0], gained[ends]))
    return Frontier(share, quality)


def oracle(cheap: Floats, precise: Floats) -> Frontier:
    """The best choice for every share, which knows both qualities."""
    # Equal differences in any order: the sum is the same, and each share has its point.
    places = np.argsort(precise - cheap, kind="stable")
    gained = np.cumsum((cheap - precise)[places]) / len(places)
    share = np.arange(len(places) + 1) / len(places)
    return Frontier(share, precise.mean() + np.concatenate(([0.0], gained)))


def average_gap_recovered(found: Frontier) -> float | None:
    """RouteLLM's APGR: the gap that is recovered, averaged over all shares; 0.5 for a straight line.

    None where the precise one is no better, or the frontier does not reach from none to all.
    """
    gap = found.quality[0] - found.quality[-1]
    if gap <= 0 or found.share_cheap[-1] < 1:
        return None
    recovered = (found.quality - found.quality[-1]) / gap
    return float(np.trapezoid(recovered, found.share_cheap))


def precise_share_for(found: Frontier, recovered: float) -> float | None:
    """The smallest share of precise calls that recovers so much of the gap; None where there is none."""
    gap = found.quality[0] - found.quality[-1]
    if gap <= 0 or found.share_cheap[-1] < 1:
        return None
    enough = found.quality - found.quality[-1] >= recovered * gap - 1e-12
    return float(1 - found.share_cheap[enough].max())


def thinned(found: Frontier, points: int) -> Frontier:
    """So many of its points at most, the ends among them."""
    if len(found.quality) <= points:
        return found
    places = np.unique(np.linspace(0, len(found.quality) - 1, points).astype(np.intp))
    return Frontier(found.share_cheap[places], found.quality[places])


def nested(order: Floats, thresholds: Sequence[float]) -> list[Flags]:
    """The choices that serve cheaply what has at least a threshold, one for each threshold."""
    return [order >= threshold for threshold in thresholds]
