"""Choices between two models: curves by hand, and what fixed-sequence testing takes and does not take."""

import numpy as np
import pytest

from evals.statistics.confidence_sequence import Bounded
from evals.statistics.routing import (
    average_gap_recovered,
    bounded_losses,
    frontier,
    least_items,
    losses,
    nested,
    oracle,
    precise_share_for,
    supported,
    thinned,
)

CHEAP, PRECISE = np.array([1.0, 0.0, 0.0, 1.0]), np.array([1.0, 1.0, 0.0, 0.0])


def zeros(items: int) -> Bounded:
    return Bounded(np.zeros(items), -1.0, 1.0)


def test_a_frontier_by_hand() -> None:
    found = frontier(CHEAP, PRECISE, np.array([4.0, 1.0, 3.0, 2.0]))
    assert found.share_cheap.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert found.quality.tolist() == [0.5, 0.5, 0.5, 0.75, 0.5]
    assert oracle(CHEAP, PRECISE).quality.tolist() == [0.5, 0.75, 0.75, 0.75, 0.5]


def test_equal_values_are_served_alike_and_what_is_not_known_never() -> None:
    found = frontier(CHEAP, PRECISE, np.array([1.0, 1.0, -np.inf, 0.0]))
    assert found.share_cheap.tolist() == [0, 0.5, 0.75]
    assert average_gap_recovered(found) is None, "it does not reach from none to all"


def test_gap_recovered() -> None:
    cheap, precise = np.array([0.0, 0.0, 1.0, 1.0]), np.ones(4)
    best = frontier(cheap, precise, cheap)
    # Quality 1, 1, 1, 0.75, 0.5 at none to all: the gap is recovered by half of the calls.
    assert best.share_cheap.tolist() == [0, 0.5, 1]
    assert average_gap_recovered(best) == pytest.approx(0.75)
    assert precise_share_for(best, 0.5) == 0.5
    worst = frontier(cheap, precise, -cheap)
    assert average_gap_recovered(worst) == pytest.approx(0.25)
    assert average_gap_recovered(frontier(precise, cheap, cheap)) is None, "the precise one is no better"
    assert precise_share_for(frontier(precise, cheap, cheap), 0.5) is None


def test_a_curve_is_thinned_between_its_ends() -> None:
    order = np.arange(1000.0)
    found = frontier(np.zeros(1000), np.ones(1000), order)
    kept = thinned(found, 11)
    assert (len(kept.quality), kept.share_cheap[0], kept.share_cheap[-1]) == (11, 0, 1)


def test_losses_count_where_the_cheap_one_answers_and_once_a_cluster() -> None:
    lost = losses(CHEAP, PRECISE, np.array([True, True, False, True]))
    assert lost.tolist() == [0, 1, 0, -1]
    assert bounded_losses(lost, np.array([0, 1, 1, 2])).values.tolist() == [0, 0.5, -1]


def test_the_first_choice_that_may_lose_too_much_ends_it() -> None:
    many = Bounded(np.concatenate((np.ones(100), np.zeros(1900))), -1.0, 1.0)
    assert supported([zeros(2000), zeros(2000), many, zeros(2000)], 0.01, 0.05) == 2
    assert supported([many, zeros(2000)], 0.01, 0.05) == 0
    assert supported([many], 0.1, 0.05) == 1
    assert supported([], 0.01, 0.05) == 0


@pytest.mark.parametrize(("limit", "alpha"), [(0.01, 0.05), (0.02, 0.05 / 3), (0.1, 0.2)])
def test_as_many_items_are_needed_as_is_said(limit: float, alpha: float) -> None:
    needed = least_items(limit, alpha)
    assert supported([zeros(needed - 1)], limit, alpha) == 0
    # The interval is rounded to steps of 1/16,384 of its range, outwards.
    assert supported([zeros(int(needed * 1.03) + 1)], limit, alpha) == 1


def test_a_choice_that_loses_more_is_taken_no_more_often_than_alpha() -> None:
    """The guarantee, small: losses of exactly the limit. `benchmarks/route.py` has the large one and its control."""
    generator = np.random.default_rng(1)
    taken = sum(
        supported([Bounded((generator.random(400) < 0.05).astype(float), -1.0, 1.0)], 0.05, 0.1) for _ in range(200)
    )
    assert taken <= 20 + 2.6 * 4.3, "10 % of 200, and 2.6 standard errors"


def test_nested_choices() -> None:
    first, second = nested(np.array([-0.1, -2.0, -np.inf]), [-0.5, -5.0])
    assert (first.tolist(), second.tolist()) == ([True, False, False], [True, True, False])
