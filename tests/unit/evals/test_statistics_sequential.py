"""Boundaries against published tables, levels against simulation."""

import math

import pytest
from pydantic import ValidationError

from evals.statistics.sequential import Look, SequentialPlan, _crossing, boundaries, look, sequential_p, spent
from tests import simulations as simulate

FIVE = (0.2, 0.4, 0.6, 0.8, 1.0)


@pytest.mark.parametrize(
    ("spending", "published"),
    [
        # Two-sided 5 %, five equal looks, as R's ldbounds and gsDesign (sfLDOF, sfLDPocock) print them.
        ("obrien_fleming", (4.877, 3.357, 2.680, 2.290, 2.031)),
        ("pocock", (2.438, 2.427, 2.410, 2.397, 2.386)),
    ],
)
def test_published_boundaries(spending: str, published: tuple[float, ...]) -> None:
    assert boundaries(FIVE, 0.025, spending) == pytest.approx(published, abs=6e-4)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("looks", "constant"),
    # Jennison and Turnbull (2000), tables 2.1 and 2.3, two-sided 5 %.
    [(2, 1.977), (3, 2.004), (5, 2.040)],
)
def test_obrien_and_flemings_own_boundaries_spend_five_percent(looks: int, constant: float) -> None:
    fractions = tuple((k + 1) / looks for k in range(looks))
    bounds = tuple(constant / math.sqrt(fraction) for fraction in fractions)
    assert _error(fractions, bounds) == pytest.approx(0.025, abs=1e-4)


@pytest.mark.parametrize(("looks", "constant"), [(2, 2.178), (3, 2.289), (5, 2.413)])
def test_pococks_own_boundaries_spend_five_percent(looks: int, constant: float) -> None:
    fractions = tuple((k + 1) / looks for k in range(looks))
    assert _error(fractions, (constant,) * looks) == pytest.approx(0.025, abs=1e-4)


def _error(fractions: tuple[float, ...], bounds: tuple[float, ...]) -> float:
    return math.fsum(_crossing(fractions[: k + 1], bounds[:k])(bounds[k]) for k in range(len(bounds)))


def test_crossing_chances_agree_with_the_multivariate_normal() -> None:
    """A second implementation: the chance to stay below all boundaries is one multivariate normal probability."""
    import numpy as np
    from scipy.stats import multivariate_normal

    fractions = (0.25, 0.5, 1.0)
    bounds = boundaries(fractions, 0.05)
    correlation = np.array([[math.sqrt(min(a, b) / max(a, b)) for a in fractions] for b in fractions])
    stay = multivariate_normal(np.zeros(3), correlation).cdf(np.array(bounds), rng=np.random.default_rng(1))
    assert 1 - stay == pytest.approx(0.05, abs=1e-4)


@pytest.mark.parametrize("spending", ["obrien_fleming", "pocock"])
def test_three_looks_keep_the_level(spending: str) -> None:
    guarded, naive = simulate.looks_error((0.25, 0.5, 1.0), spending, 0.05, 0.15, 800, 20_000, 3)
    assert not guarded.exceeds(0.05)
    assert guarded.hits > 0.04, "the level is used"
    assert naive.hits > 0.08, "what the correction is for"


def test_spending_starts_at_nothing_and_ends_at_alpha() -> None:
    for spending in ("obrien_fleming", "pocock"):
        assert spent(1e-9, 0.05, spending) == pytest.approx(0, abs=1e-6)  # type: ignore[arg-type]
        assert spent(1.0, 0.05, spending) == pytest.approx(0.05)  # type: ignore[arg-type]


def test_one_look_is_the_plain_test() -> None:
    assert boundaries((1.0,), 0.05) == (pytest.approx(1.6449, abs=1e-4),)
    assert sequential_p(Look(fractions=(1.0,), number=1), 0.03) == pytest.approx(0.03, rel=1e-4)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_sequential_p_value_is_alpha_at_the_boundary(number: int) -> None:
    from scipy.stats import norm

    fractions = (0.25, 0.5, 1.0)
    bound = boundaries(fractions, 0.05)[number - 1]
    assert sequential_p(Look(fractions=fractions, number=number), norm.sf(bound)) == pytest.approx(0.05, rel=1e-4)


def test_sequential_p_values_of_the_ends() -> None:
    early = Look(fractions=(0.5, 1.0), number=1)
    assert sequential_p(early, 0.9) == 1
    assert sequential_p(early, 1.0) == 1
    assert 0 < sequential_p(early, 0.0) < 1e-9


PLAN = SequentialPlan(margin=0.02)


@pytest.mark.parametrize(
    ("number", "difference", "stderr", "verdict"),
    [
        (1, 0.0, 0.01, "continue"),
        (1, 0.02, 0.005, "pass"),
        (2, -0.08, 0.01, "fail"),
        (3, 0.0, 0.01, "pass"),
        (3, -0.02, 0.01, "inconclusive"),
    ],
)
def test_looks_decide(number: int, difference: float, stderr: float, verdict: str) -> None:
    decision = look(PLAN, number, difference, stderr)
    assert decision.verdict == verdict
    assert decision.low < difference < decision.high
    assert (decision.low > -PLAN.margin) == (verdict == "pass")


@pytest.mark.parametrize("number", [0, 4])
def test_looks_that_were_not_declared(number: int) -> None:
    with pytest.raises(ValueError, match="was not declared"):
        look(PLAN, number, 0.0, 0.01)


@pytest.mark.parametrize("stderr", [0.0, math.nan, math.inf])
def test_a_look_without_a_spread(stderr: float) -> None:
    with pytest.raises(ValueError, match="needs a difference with a spread"):
        look(PLAN, 1, 0.0, stderr)


@pytest.mark.parametrize("fractions", [(), (0.5,), (0.5, 0.5, 1.0), (0.0, 1.0), (0.6, 0.3, 1.0)])
def test_looks_ascend_to_all_items(fractions: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError, match="looks ascend"):
        SequentialPlan(margin=0.02, fractions=fractions)
