"""Boundaries against published tables, levels against simulation."""

import math

import pytest
from pydantic import ValidationError

from evals.statistics.sequential import Look, LookPlan, _crossing, boundaries, sequential_p, spent
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


@pytest.mark.parametrize("number", [0, 4])
def test_looks_that_were_not_declared(number: int) -> None:
    with pytest.raises(ValidationError):
        Look(fractions=(0.25, 0.5, 1.0), number=number)


@pytest.mark.parametrize(
    "fractions", [(), (0.5,), (0.5, 0.5, 1.0), (0.0, 1.0), (0.6, 0.3, 1.0), (math.nan, 1.0), (0.5, 1.5), (-0.5, 1.0)]
)
def test_looks_ascend_to_all_items(fractions: tuple[float, ...]) -> None:
    for refused in (lambda: LookPlan(fractions=fractions), lambda: Look(fractions=fractions, number=1)):
        with pytest.raises(ValidationError, match=r"looks ascend|finite number"):
            refused()


@pytest.mark.parametrize("fractions", [(0.01, 1.0), (0.5, 0.52, 1.0), (0.97, 1.0)])
def test_looks_that_are_too_close(fractions: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError, match=r"at least 0\.05 of the items apart"):
        LookPlan(fractions=fractions)


@pytest.mark.parametrize("fractions", [(1.0,), (0.05, 1.0), (0.9, 0.95, 1.0), tuple(k / 20 for k in range(1, 21))])
def test_the_closest_looks_have_boundaries_at_every_level(fractions: tuple[float, ...]) -> None:
    LookPlan(fractions=fractions)
    for alpha in (1e-12, 1e-4, 0.05, 0.499):
        assert all(math.isfinite(bound) for bound in boundaries(fractions, alpha))


def test_looks_of_a_few_items_have_p_values_too() -> None:
    """A category of three items, and two plans whose looks lie one item in a thousand apart."""
    for fractions in ((1 / 3, 2 / 3, 1.0), (0.25, 0.251, 0.5, 1.0)):
        found = [sequential_p(Look(fractions=fractions, number=number + 1), 0.004) for number in range(len(fractions))]
        assert all(0.004 <= p <= 1 for p in found)
        assert found[0] > found[-1]
