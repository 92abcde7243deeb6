"""Looking more than once without fooling oneself: group-sequential boundaries by alpha spending. Pure.

The looks and the spending are fixed before the first item is scored. At look k the statistic may be compared with a
boundary c_k such that the chance to have crossed any of the first k boundaries under the null is what the spending
function allows at that share of the items (Lan and DeMets 1983, Biometrika 70:659). Crossing chances come from the
recursive integration of Armitage, McPherson and Rowe (1969), JRSS A 132:235, as in Jennison and Turnbull (2000), Group
Sequential Methods, chapter 19.
"""

import functools
import math
from collections.abc import Callable

import numpy as np
from pydantic import Field, model_validator

from configs.base import StrictModel
from evals.statistics.score import Floats
from registry.contracts.evaluation import Spending

_NODES = 160
"""Of the quadrature; boundaries agree with four times as many to 1e-8."""
_FAR = 9.0
"""Standard deviations beyond which a normal has no mass that a double shows."""
_CLOSEST = 0.05
"""A look at fewer new items decides next to nothing."""
_LOG_SMALLEST, _LOG_LARGEST = math.log(1e-12), math.log(0.499)


class LookPlan(StrictModel):
    """When to look and how fast to spend the error; declared before the first item, never changed after a look."""

    fractions: tuple[float, ...] = (0.25, 0.5, 1.0)
    """Share of each category's items that has been asked at each look, ascending to 1, at least 0.05 apart."""
    spending: Spending = "obrien_fleming"
    """obrien_fleming is strict early and spends nearly all at the end; pocock decides earlier and is stricter last."""

    @model_validator(mode="after")
    def _looks_are_apart_and_ascend_to_all_items(self) -> "LookPlan":
        _check_fractions(self.fractions)
        if min(np.diff((0.0, *self.fractions))) < _CLOSEST - 1e-9:
            raise ValueError(f"looks lie at least {_CLOSEST} of the items apart, not as {self.fractions}")
        return self


class Look(StrictModel):
    """One of the looks of an evaluation that goes on until it is decided."""

    fractions: tuple[float, ...]
    number: int = Field(ge=1)
    """1 for the first."""
    spending: Spending = "obrien_fleming"

    @model_validator(mode="after")
    def _is_declared(self) -> "Look":
        _check_fractions(self.fractions)
        if self.number > len(self.fractions):
            raise ValueError(f"look {self.number} of {len(self.fractions)} was not declared")
        return self


def spent(fraction: float, alpha: float, spending: Spending) -> float:
    """Error that may be spent by this share of the items; Lan and DeMets (1983), equations for alpha_1* and alpha_2*.

    obrien_fleming: 2 (1 - Phi(z_{alpha/2} / sqrt(t))); pocock: alpha log(1 + (e - 1) t).
    """
    from scipy.stats import norm

    if spending == "pocock":
        return alpha * math.log1p((math.e - 1) * fraction)
    return float(2 * norm.sf(norm.isf(alpha / 2) / math.sqrt(fraction)))


@functools.cache
def boundaries(fractions: tuple[float, ...], alpha: float, spending: Spending = "obrien_fleming") -> tuple[float, ...]:
    """One-sided boundary of the z-statistic at each look; 1 to `len(fractions)` looks."""
    from scipy.stats import norm

    found: list[float] = []
    before = 0.0
    for place, fraction in enumerate(fractions):
        total = spent(fraction, alpha, spending)
        if place == 0:
            found.append(float(norm.isf(total)))
        else:
            found.append(_boundary(_crossing(fractions[: place + 1], tuple(found)), total - before))
        before = total
    return tuple(found)


def _boundary(crossing: Callable[[float], float], chance: float) -> float:
    """Where `crossing` has this chance; searched in logarithms, since early looks may spend next to nothing."""
    from scipy.optimize import brentq

    wanted = math.log(max(chance, 1e-300))
    return float(brentq(lambda bound: math.log(max(crossing(bound), 1e-320)) - wanted, -_FAR, 38.0))


def sequential_p(look: Look, p: float) -> float:
    """The smallest level at which this look's boundary is crossed by a one-sided p-value.

    Comparing it with alpha is comparing the statistic with the boundary, and Holm's procedure applies to it as to any
    p-value: Liu and Anderson (2008), JASA 103:1621; Maurer and Bretz (2013), Statistics in Biopharmaceutical Research
    5:311. Values above 0.499 become 1.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    statistic = float(norm.isf(p))

    def beyond(log_level: float) -> float:
        return boundaries(look.fractions[: look.number], math.exp(log_level), look.spending)[-1] - statistic

    if not p < 0.5 or beyond(_LOG_LARGEST) > 0:
        return 1.0
    if beyond(_LOG_SMALLEST) <= 0:
        return math.exp(_LOG_SMALLEST)
    return math.exp(float(brentq(beyond, _LOG_SMALLEST, _LOG_LARGEST, xtol=1e-6)))


def _crossing(fractions: tuple[float, ...], earlier: tuple[float, ...]) -> Callable[[float], float]:
    """Chance to cross first at the last of the looks, as a function of its boundary."""
    from scipy.special import ndtr

    points, scale = _quadrature()
    # The score process S = Z sqrt(t) has independent normal increments of variance t_k - t_{k-1}; its density on the
    # part that has not crossed is carried from look to look.
    nodes: Floats = np.zeros(1)
    mass: Floats = np.ones(1)
    previous = 0.0
    for fraction, boundary in zip(fractions, earlier, strict=False):
        top, bottom = boundary * math.sqrt(fraction), -_FAR * math.sqrt(fraction)
        step = math.sqrt(fraction - previous)
        new = bottom + (points + 1) / 2 * (top - bottom)
        density = _normal_density((new[:, None] - nodes) / step) / step @ mass
        nodes, mass, previous = new, scale / 2 * (top - bottom) * density, fraction
    step, root = math.sqrt(fractions[-1] - previous), math.sqrt(fractions[-1])
    return lambda boundary: float(mass @ ndtr((nodes - boundary * root) / step))


@functools.cache
def _quadrature() -> tuple[Floats, Floats]:
    points, weights = np.polynomial.legendre.leggauss(_NODES)
    return points, weights


def _normal_density(x: Floats) -> Floats:
    density: Floats = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return density


def _check_fractions(fractions: tuple[float, ...]) -> None:
    ascending = all(one < other for one, other in zip((0.0, *fractions), fractions, strict=False))
    if not fractions or not ascending or not math.isclose(fractions[-1], 1.0):
        raise ValueError(f"looks ascend from above 0 to 1, not {fractions}")
