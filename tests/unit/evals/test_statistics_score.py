"""Score intervals: against Tango's and Nam and Blackwelder's closed forms, numerical likelihood, and simulation."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from evals.statistics.score import (
    Z95,
    PairedCells,
    difference_interval,
    difference_stderr,
    mean_interval,
    paired_cells,
    ratio_interval,
    score_z,
    share_interval,
)
from tests import simulations as simulate


def table(both: int, to_wrong: int, to_right: int, neither: int) -> PairedCells:
    base = np.repeat([1.0, 1.0, 0.0, 0.0], [both, to_wrong, to_right, neither])
    other = np.repeat([1.0, 0.0, 1.0, 0.0], [both, to_wrong, to_right, neither])
    return paired_cells(base, other, np.ones(len(base)))


def tango_z(items: int, to_wrong: int, to_right: int, difference: float) -> float:
    """Tango (1998), with its closed form of the constrained maximum; b are the artifact's wins."""
    b, c = to_right, to_wrong
    linear = -b - c + (2 * items - b + c) * difference
    constant = -c * difference * (1 - difference)
    q = (math.sqrt(linear**2 - 8 * items * constant) - linear) / (4 * items)
    return (b - c - items * difference) / math.sqrt(items * (2 * q + difference * (1 - difference)))


def nam_blackwelder_z(counts: tuple[int, int, int, int], ratio: float) -> float:
    """Nam and Blackwelder (2002): `counts` are both, only baseline, only artifact, neither."""
    items = sum(counts)
    both, only_base, only_other, _ = (count / items for count in counts)
    base, other = both + only_base, both + only_other
    root = math.sqrt((other - ratio**2 * base) ** 2 + 4 * ratio**2 * only_base * only_other)
    p10 = (-other + ratio**2 * (base + 2 * only_other) + root) / (2 * ratio * (ratio + 1))
    p01 = ratio * p10 - (ratio - 1) * (both + only_base + only_other)
    return math.sqrt(items) * (other - ratio * base) / math.sqrt(ratio * (p10 + p01))


@pytest.mark.parametrize("counts", [(60, 12, 5, 23), (900, 30, 22, 48), (3, 1, 0, 2), (40, 0, 0, 10)])
@pytest.mark.parametrize("difference", [-0.3, -0.05, -0.01, 0.04, 0.2])
def test_differences_are_tangos(counts: tuple[int, int, int, int], difference: float) -> None:
    expected = tango_z(sum(counts), counts[1], counts[2], difference)
    assert table(*counts).mean_z(difference) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("counts", [(60, 12, 5, 23), (900, 30, 22, 48), (20, 3, 1, 9)])
@pytest.mark.parametrize("ratio", [0.5, 0.9, 0.99, 1.02, 1.4])
def test_ratios_are_nam_and_blackwelders(counts: tuple[int, int, int, int], ratio: float) -> None:
    assert table(*counts).ratio_z(ratio) == pytest.approx(nam_blackwelder_z(counts, ratio), rel=1e-5)


@pytest.mark.parametrize(("right", "items"), [(0, 12), (1, 33), (6, 8), (260, 1000), (40, 40)])
def test_means_are_wilsons(right: int, items: int) -> None:
    expected = binomtest(right, items).proportion_ci(method="wilson")
    found = mean_interval(np.array([0.0, 1.0]), np.array([items - right, right], dtype=float), Z95)
    assert found == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_the_constrained_maximum_is_the_likelihoods() -> None:
    """Against a general optimizer on a chance-corrected hypothesis, which has no closed form in the literature."""
    from scipy.optimize import minimize

    counts, ratio, chance = np.array([23.0, 5.0, 12.0, 60.0]), 0.7, 0.25
    values = simulate.ARTIFACT - ratio * simulate.BASELINE
    mean = (1 - ratio) * chance
    best = minimize(
        lambda p: -counts @ np.log(p),
        np.full(4, 0.25),
        bounds=[(1e-9, 1)] * 4,
        constraints=[
            {"type": "eq", "fun": lambda p: p.sum() - 1},
            {"type": "eq", "fun": lambda p: p @ values - mean},
        ],
        options={"ftol": 1e-13, "maxiter": 500},
    )
    assert best.success
    expected = (counts @ values / 100 - mean) / math.sqrt(best.x @ (values - mean) ** 2 / 100)
    assert table(60, 12, 5, 23).ratio_z(ratio, chance) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("chance", [0.0, 0.25])
def test_the_ends_have_the_level_asked_for(chance: float) -> None:
    cells = table(60, 12, 5, 23)
    interval = ratio_interval(cells, Z95, chance)
    assert interval is not None
    assert [cells.ratio_z(end, chance) for end in interval] == pytest.approx([Z95, -Z95], abs=1e-4)
    ends = difference_interval(cells, Z95)
    assert [cells.mean_z(end) for end in ends] == pytest.approx([Z95, -Z95], abs=1e-4)


@pytest.mark.parametrize("loss", [0.0, 0.02])
@pytest.mark.parametrize("discordance", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("items", [50, 200, 1000])
def test_coverage(items: int, discordance: float, loss: float) -> None:
    truth = simulate.cells(0.7, loss, discordance)
    for seed, found in enumerate(
        (
            simulate.difference_coverage(truth, items, 4000, 1),
            simulate.ratio_coverage(truth, 0.0, items, 4000, 2),
            simulate.ratio_coverage(truth, 0.25, items, 4000, 3),
        )
    ):
        # Below ten expected flips the counts are too coarse for 95 % to be met everywhere.
        level = 0.05 if items * discordance >= 10 else 0.08
        assert not simulate.Share(1 - found.hits, found.draws).exceeds(level), seed


def test_equal_scores_are_not_certain() -> None:
    """No flip in n items: Tango's bound is z^2 / (n + z^2), near the `rule of three`."""
    for items in (1, 50, 1000):
        bound = Z95**2 / (items + Z95**2)
        cells = table(items, 0, 0, 0)
        assert difference_interval(cells, Z95) == (pytest.approx(-bound, rel=1e-3), pytest.approx(bound, rel=1e-3))
        assert difference_stderr(cells) > 0
        low, high = ratio_interval(cells, Z95) or (0.0, 0.0)
        assert low < 1 < high


def test_equal_graded_scores_are_not_certain() -> None:
    scores = np.full(200, 0.4)
    low, high = difference_interval(paired_cells(scores, scores, np.ones(200)), Z95)
    assert low < -0.01
    assert high > 0.01


def test_graded_scores_have_an_interval_at_least_as_wide_as_students() -> None:
    """The unseen corners widen it where all differences were small: a rare large one may still come."""
    draw = np.random.default_rng(4)
    for spread_of_items, widest in ((0.05, 2.0), (0.4, 1.1)):
        one = draw.random(500) * 0.8 + 0.1
        other = np.clip(one - 0.03 + draw.normal(0, spread_of_items, 500), 0, 1)
        low, high = difference_interval(paired_cells(one, other, np.ones(500)), Z95)
        half = 1.96 * (other - one).std(ddof=1) / math.sqrt(500)
        assert low < (other - one).mean() < high
        assert 0.98 < (high - low) / 2 / half < widest


def test_a_ratio_to_a_baseline_that_is_not_clear_of_chance_is_not_bounded() -> None:
    assert ratio_interval(table(0, 0, 3, 7), Z95) is None
    assert ratio_interval(table(20, 6, 5, 69), Z95, 0.25) is None


def test_all_items_lost() -> None:
    low, high = difference_interval(table(0, 40, 0, 0), Z95)
    assert low == -1
    assert -1 < high < -0.8


def test_items_of_double_weight_count_as_fewer() -> None:
    equal = paired_cells(np.ones(4), np.zeros(4), np.full(4, 7.0))
    assert equal.items == pytest.approx(4)
    assert paired_cells(np.ones(4), np.zeros(4), np.array([1.0, 1, 1, 3])).items == pytest.approx(3)


def test_impossible_hypotheses() -> None:
    values = np.array([0.0, 1.0])
    assert score_z(values, np.array([1.0, 1.0]), 1.5) == -math.inf
    assert score_z(values, np.array([1.0, 1.0]), -0.5) == math.inf


def test_a_share_of_one_is_not_certain_and_clusters_count_as_one() -> None:
    items = np.ones(50)
    low, high = share_interval(items, items, np.arange(50))
    assert (low, high) == (pytest.approx(50 / (50 + Z95**2)), 1.0)
    fewer, _ = share_interval(items, items, np.arange(50) // 5)
    assert fewer == pytest.approx(10 / (10 + Z95**2))
