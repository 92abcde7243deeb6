"""Significance, bootstrap and heterogeneity against second implementations and simulation."""

import math

import numpy as np
import pytest

from evals.statistics.heterogeneity import cochran_q
from evals.statistics.resampling import paired_bootstrap
from evals.statistics.significance import detectable_loss, mcnemar_p, normal_p, t_interval, t_p
from tests import simulations as simulate


@pytest.mark.parametrize(("to_wrong", "to_right"), [(8, 3), (3, 8), (25, 25), (1, 0), (40, 12)])
def test_mcnemar_is_statsmodels(to_wrong: int, to_right: int) -> None:
    from statsmodels.stats.contingency_tables import mcnemar

    assert mcnemar_p(to_wrong, to_right) == pytest.approx(mcnemar([[5, to_wrong], [to_right, 7]], exact=True).pvalue)


def test_mcnemar_by_hand() -> None:
    assert mcnemar_p(0, 5) == pytest.approx(2 / 32)
    assert mcnemar_p(0, 0) == 1


def test_the_bootstrap_is_seeded() -> None:
    values = np.random.default_rng(0).normal(size=50)
    one, other, third = (paired_bootstrap(values, np.ones(50), seed, 500).means for seed in (1, 1, 2))
    assert (one == other).all()
    assert (one != third).any()


def test_many_items_have_the_spread_of_all_although_fewer_are_drawn() -> None:
    values = np.random.default_rng(0).normal(size=20_000)
    means = paired_bootstrap(values, np.ones(20_000), 1, 2000).means
    assert means.std() == pytest.approx(values.std() / math.sqrt(20_000), rel=0.06)


def test_the_bootstraps_p_value_is_the_t_tests() -> None:
    from scipy.stats import ttest_1samp

    draw = np.random.default_rng(5)
    for shift in (0.0, 0.1, 0.2):
        values = draw.normal(shift, 1, 150)
        assert paired_bootstrap(values, np.ones(150), 1).p_value() == pytest.approx(
            ttest_1samp(values, 0).pvalue, abs=0.02
        )


def test_equal_items_have_no_small_p_value() -> None:
    assert paired_bootstrap(np.zeros(30), np.ones(30), 1, 200).p_value() == 1


@pytest.mark.slow
@pytest.mark.parametrize("documents", [3, 8, 62])
def test_perplexity_intervals_hold_the_truth(documents: int) -> None:
    found = simulate.perplexity(documents, 3000, 7)
    # A little short with few documents of unequal length; a bootstrap of 3 holds it in 72 %.
    assert not simulate.Share(1 - found.t_coverage.hits, 3000).exceeds(0.06)
    assert not found.wrong_passes.exceeds(0.055)


@pytest.mark.parametrize(("items", "discordance"), [(200, 0.1), (1000, 0.1), (2000, 0.3)])
def test_the_detectable_loss_is_found_with_its_power(items: int, discordance: float) -> None:
    loss = detectable_loss(discordance, items, 0.05, 0.8)
    assert simulate.power(loss, discordance, items, 0.05, 20_000, 1).hits == pytest.approx(0.8, abs=0.03)


def test_without_flips_a_loss_below_the_floor_cannot_be_seen() -> None:
    loss = detectable_loss(0.0, 500, 0.05, 0.8, floor=True)
    assert loss == pytest.approx((1.6449 + 0.8416) ** 2 / 500, rel=1e-3)
    assert simulate.power(loss, loss, 500, 0.05, 20_000, 1).hits > 0.78


def test_tails_and_intervals() -> None:
    assert normal_p(1.6448536) == (pytest.approx(0.05), pytest.approx(0.95))
    assert t_p(2.2622, 9)[0] == pytest.approx(0.025, abs=1e-5)
    assert t_interval(1.0, 0.5, 9) == (pytest.approx(1 - 1.1311, abs=1e-3), pytest.approx(2.1311, abs=1e-3))


def test_heterogeneity_by_statsmodels() -> None:
    from statsmodels.stats.meta_analysis import combine_effects

    estimates, stderrs = [-0.01, -0.08, 0.0, -0.03], [0.01, 0.012, 0.02, 0.008]
    theirs = combine_effects(np.array(estimates), np.array(stderrs) ** 2)
    found = cochran_q(estimates, stderrs)
    assert found is not None
    assert (found.q, found.degrees_of_freedom) == (pytest.approx(theirs.q), 3)
    assert found.mean == pytest.approx(theirs.mean_effect_fe)
    assert found.i_squared == pytest.approx(1 - 3 / theirs.q)
    assert found.p_value == pytest.approx(theirs.test_homogeneity().pvalue)


def test_heterogeneity_keeps_its_level() -> None:
    draw = np.random.default_rng(2)
    stderrs = [0.01, 0.02, 0.015, 0.03, 0.01]
    found = [cochran_q(list(draw.normal(-0.02, stderrs)), stderrs) for _ in range(2000)]
    hits = float(np.mean([one is not None and one.p_value <= 0.05 for one in found]))
    assert hits == pytest.approx(0.05, abs=3 * math.sqrt(0.05 * 0.95 / 2000))


def test_strata_that_cannot_be_weighed_are_left_out() -> None:
    assert cochran_q([0.1], [0.1]) is None
    assert cochran_q([0.1, 0.2], [0.0, 0.1]) is None
    assert cochran_q([0.1, 0.2, 0.3], [math.nan, 0.1, 0.1]) is not None
    equal = cochran_q([0.1, 0.1], [0.1, 0.1])
    assert equal is not None
    assert (equal.q, equal.p_value, equal.i_squared) == pytest.approx((0, 1, 0), abs=1e-9)
