"""Numbers of items that are known before any is asked, against the gate's own statistic."""

import numpy as np
import pytest
from scipy.stats import norm, t

from evals.statistics.score import paired_cells, score_z
from evals.statistics.sizes import chance_to_pass, chance_to_pass_documents, documents_to_pass, items_to_pass
from tests import simulations as simulate

LEVEL = 0.05 / 6


@pytest.mark.parametrize("margin", [0.01, 0.02, 0.05, 0.2])
def test_the_fewest_are_those_with_which_the_gate_passes_without_a_flip(margin: float) -> None:
    fewest = items_to_pass(margin, 0.0, LEVEL, 0.8)

    def p_pass(items: int) -> float:
        right = np.ones(items)
        return float(norm.sf(paired_cells(right, right, right).mean_z(-margin)))

    assert p_pass(fewest) <= LEVEL < p_pass(fewest - 1)
    assert chance_to_pass(fewest, margin, 0.0, LEVEL) == 1
    assert chance_to_pass(fewest - 1, margin, 0.0, LEVEL) == 0


def test_a_margin_of_two_points_over_six_categories_takes_281_items() -> None:
    assert items_to_pass(0.02, 0.0, LEVEL, 0.8) == 281


@pytest.mark.parametrize(("margin", "flips"), [(0.02, 0.1), (0.05, 0.04), (0.05, 0.1), (0.05, 0.3)])
def test_so_many_items_pass_with_the_power_asked_for(margin: float, flips: float) -> None:
    items = items_to_pass(margin, flips, LEVEL, 0.8)
    counts, times = simulate.draw(simulate.cells(0.7, 0.0, flips), items, 20_000, 7)
    passes = norm.sf(score_z(simulate.ARTIFACT - simulate.BASELINE, counts, -margin)) <= LEVEL
    assert float(passes @ times / times.sum()) == pytest.approx(0.8, abs=0.025)
    assert chance_to_pass(items, margin, flips, LEVEL) == pytest.approx(0.8, abs=0.005)


def test_more_flips_and_smaller_margins_take_more_items() -> None:
    numbers = [items_to_pass(0.05, flips, LEVEL, 0.8) for flips in (0.0, 0.05, 0.1, 0.3)]
    assert numbers == sorted(set(numbers))
    assert items_to_pass(0.02, 0.1, LEVEL, 0.8) > 5 * items_to_pass(0.05, 0.1, LEVEL, 0.8)


def test_documents_pass_with_the_power_asked_for() -> None:
    documents = documents_to_pass(0.05, 0.1, LEVEL, 0.8)
    assert chance_to_pass_documents(documents, 0.05, 0.1, LEVEL) >= 0.8
    assert chance_to_pass_documents(documents - 1, 0.05, 0.1, LEVEL) < 0.8
    drawn = np.random.default_rng(5).normal(0, 0.1, (20_000, documents))
    statistic = (drawn.mean(1) + np.log1p(0.05)) / (drawn.std(1, ddof=1) / documents**0.5)
    assert float((t.sf(statistic, documents - 1) <= LEVEL).mean()) == pytest.approx(0.8, abs=0.02)


def test_a_single_document_has_no_spread() -> None:
    assert chance_to_pass_documents(1, 0.05, 0.1, LEVEL) == 0
    assert documents_to_pass(0.5, 1e-9, LEVEL, 0.8) == 2
