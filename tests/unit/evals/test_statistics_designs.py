"""Variances of how items were drawn, against closed forms, and what the intervals and gates made of them are worth."""

import numpy as np
import pytest

from evals.statistics.designs import ASSUMED_CORRELATION, Design, DesignEffect, covariance, independent
from evals.statistics.paired import paired_means
from evals.statistics.score import paired_cells
from tests import simulations as simulate

DRAW = np.random.default_rng(7)


def binary(items: int, share: float) -> simulate.Floats:
    return (DRAW.random(items) < share).astype(np.float64)


def test_independent_items_have_the_plain_variance() -> None:
    scores, weights = binary(40, 0.6), np.ones(40)
    found = covariance(scores[:, None], weights, independent(40))
    assert found[0, 0] == pytest.approx(scores.var(ddof=1) / 40)


def test_weighted_items_have_that_of_a_ratio() -> None:
    scores, weights = DRAW.normal(size=30), DRAW.integers(1, 9, 30).astype(np.float64)
    residuals = weights * (scores - np.average(scores, weights=weights)) / weights.mean()
    assert covariance(scores[:, None], weights, independent(30))[0, 0] == pytest.approx(residuals @ residuals / 30 / 29)


def test_fixed_strata_have_the_variance_within_them() -> None:
    """Cochran, eq. 5.7 without the finite population correction: sum of W_h^2 s_h^2 / n_h."""
    parts = [binary(20, 0.9), binary(30, 0.2)]
    strata = np.repeat([0, 1], [20, 30])
    found = covariance(np.concatenate(parts)[:, None], np.ones(50), Design(strata, np.arange(50), sampled=False))
    assert found[0, 0] == pytest.approx(
        sum((len(part) / 50) ** 2 * part.var(ddof=1) / len(part) for part in parts), rel=1e-9
    )


def test_sampled_clusters_of_equal_size_have_that_of_their_means() -> None:
    scores = DRAW.normal(size=(12, 5)) + DRAW.normal(size=(12, 1))
    design = Design(np.zeros(60, dtype=np.intp), np.repeat(np.arange(12), 5), sampled=True)
    found = covariance(scores.reshape(-1, 1), np.ones(60), design)
    assert found[0, 0] == pytest.approx(scores.mean(1).var(ddof=1) / 12)
    assert design.freedom == 11
    means = paired_means(scores.ravel(), scores.ravel() ** 2, np.ones(60), design)
    assert (means.baseline_variance, means.freedom) == (pytest.approx(found[0, 0]), 11)


def test_clusters_within_fixed_tasks_lose_a_degree_of_freedom_a_task() -> None:
    design = Design(np.repeat([0, 1], 30), np.repeat(np.arange(12), 5), sampled=True)
    assert design.freedom == 10


def test_a_stratum_of_one_item_counts_as_it_is() -> None:
    scores = np.array([1.0, 0.0, 1.0])
    found = covariance(scores[:, None], np.ones(3), Design(np.array([0, 0, 1]), np.arange(3), sampled=False))
    assert found[0, 0] > 0


def test_without_a_flip_a_sample_is_taken_for_correlated_and_fixed_strata_for_independent() -> None:
    right, weights = np.ones(300), np.ones(300)
    clusters = np.repeat(np.arange(30), 10)
    sampled = Design(np.zeros(300, dtype=np.intp), clusters, sampled=True)
    fixed = Design(clusters, np.arange(300), sampled=False)
    assert DesignEffect.of(right, right, weights, sampled).at(1.0) == pytest.approx(1 + 9 * ASSUMED_CORRELATION)
    assert DesignEffect.of(right, right, weights, fixed).at(1.0) == 1
    plain = paired_cells(right, right, weights)
    assert paired_cells(right, right, weights, sampled).mean_z(-0.05) < plain.mean_z(-0.05)
    assert paired_cells(right, right, weights, fixed).mean_z(-0.05) == plain.mean_z(-0.05)
    assert paired_cells(right, right, weights, sampled).effective_items == pytest.approx(300 / 2.8)


def test_what_differs_between_fixed_strata_is_no_chance_and_never_all_of_it() -> None:
    """One kind is lost whole and the others are untouched: no variance is left within them, and some is kept."""
    baseline = np.ones(120)
    artifact = np.repeat([0.0, 1.0], [30, 90])
    fixed = Design(np.repeat(np.arange(4), 30), np.arange(120), sampled=False)
    assert DesignEffect.of(baseline, artifact, np.ones(120), fixed).at(1.0) == 0.5
    # The same as a sample of four kinds: the four numbers 1, 0, 0, 0 are all that is known.
    sampled = Design(np.zeros(120, dtype=np.intp), np.repeat(np.arange(4), 30), sampled=True)
    assert DesignEffect.of(baseline, artifact, np.ones(120), sampled).at(1.0) > 30


def test_a_sample_is_judged_by_students_t() -> None:
    right = np.ones(100)
    sampled = Design(np.zeros(100, dtype=np.intp), np.repeat(np.arange(10), 10), sampled=True)
    cells = paired_cells(right, right, right, sampled)
    assert cells.reach == pytest.approx(2.2622, abs=1e-4)
    assert cells.tails(2.2622)[0] == pytest.approx(0.025, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("clusters", "flips"), [(30, 0.1), (30, 0.3), (60, 0.1)])
def test_a_sample_of_thirty_clusters_and_more_keeps_its_level(clusters: int, flips: float) -> None:
    found = simulate.clustered_errors(clusters, 30, flips, 0.05, 0.1, 1500, clusters)
    assert not found.wrong_passes.exceeds(0.05)
    assert not found.wrong_fails.exceeds(0.05)
    assert not simulate.Share(1 - found.coverage.hits, found.coverage.draws).exceeds(0.05)
    assert 0.17 < found.wrong_passes_pooled.hits < 0.25


@pytest.mark.slow
@pytest.mark.parametrize("clusters", [10, 15])
def test_below_thirty_clusters_the_gate_errs_little(clusters: int) -> None:
    found = simulate.clustered_errors(clusters, 30, 0.02, 0.02, 0.3, 1000, clusters)
    assert found.wrong_passes.hits <= 0.07
    assert found.wrong_fails.hits <= 0.07


@pytest.mark.slow
@pytest.mark.parametrize("losses", [(0.05,) * 4, (0.2, 0.1, -0.05, -0.05), (0.3, 0.3, -0.13, -0.27)])
def test_fixed_strata_keep_their_level(losses: tuple[float, ...]) -> None:
    found = simulate.stratified_errors(losses, 90, 0.15, 1500, 3)
    assert not found.wrong_passes.exceeds(0.05)
    assert not found.wrong_fails.exceeds(0.05)
    assert not simulate.Share(1 - found.coverage.hits, found.coverage.draws).exceeds(0.05)


@pytest.mark.slow
def test_kinds_that_lose_the_same_are_seldom_found_to_differ() -> None:
    assert simulate.heterogeneity_error(4, 60, 0.1, 0.05, 200, 1).hits <= 0.05
