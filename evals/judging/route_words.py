"""What a route's numbers say in words."""

from evals.statistics.confidence_sequence import Bounded
from evals.statistics.routing import least_items
from registry.contracts.route import RouteOutcome
from registry.numerals import with_minus

_ALL = 0.9995
"""A larger share is shown as 100.0 %."""


def points_text(value: float) -> str:
    """`+1.25 points`"""
    return with_minus(f"{round(100 * value, 2) + 0.0:+.2f} points")


def interval_text(low: float, high: float) -> str:
    """`−0.40 to +1.02`"""
    return f"{points_text(low).split()[0]} to {points_text(high).split()[0]}"


def reason_of(outcome: RouteOutcome, following: Bounded | None, limit: float, least_share: float) -> str:
    """Why a method is supported or not.

    Args:
        outcome: Of the last rule that is surely good enough; one that serves nothing cheaply where there is none.
        following: Losses of the first rule that is not; None where all are.
        limit: What may be lost.
    """
    may = f"at most {100 * limit:.4g} point{'' if limit == 0.01 else 's'}"
    if not outcome.share_cheap:
        if following is None:
            return "none of its rules serves anything cheaply"
        found = f"the rule that risks least loses {_found_text(following, outcome.alpha)}, and {may} may be lost"
        needed = least_items(limit, outcome.alpha)
        few = f"; if nothing were lost it would take {needed:,} items, here are {outcome.items:,}"
        return found + few if len(following.values) < needed else found
    served = f"{100 * outcome.share_cheap:.1f} % are served cheaply and surely lose {may}"
    seen = f"seen {points_text(outcome.loss)} ({interval_text(outcome.loss_low, outcome.loss_high)})"
    if outcome.share_cheap < least_share:
        after = f"; the next rule loses {_found_text(following, outcome.alpha)}" if following else ""
        return f"only {served}, {seen}, and {100 * least_share:.4g} % are wanted{after}"
    if outcome.share_cheap >= _ALL:
        return f"all are served cheaply and surely lose {may}, {seen}: no route is needed, promote the cheap one"
    return f"{served}, {seen}; {_random_text(outcome)}"


def _found_text(found: Bounded, alpha: float) -> str:
    bounds = interval_text(found.lower(alpha), found.upper(alpha))
    return f"{points_text(float(found.values.mean()))} ({bounds})"


def _random_text(outcome: RouteOutcome) -> str:
    """Whether the method knows anything."""
    gain = f"{points_text(outcome.gain_over_random)} ({interval_text(outcome.gain_low, outcome.gain_high)})"
    if outcome.gain_low > 0:
        return f"better than a random choice of as many by {gain}"
    return f"that it is better than a random choice of as many is not shown: {gain}"
