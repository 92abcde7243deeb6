"""Wealth against a slow reading of the formula, bounds against the wealth, and levels against simulation."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.statistics.confidence_sequence import FRACTIONS, Bounded, needed_nats, wealth
from tests import shadow_simulations as simulate

SERIES = {
    "rare flips": simulate.flips(0.05, -0.01),
    "skewed": simulate.skewed(0.93),
    "clipped": simulate.clipped_logs(1.05, 0.6),
}


def slow_wealth(observations: list[float], mean: float) -> list[Fraction]:
    """The docstring's formula, number by number and exact."""
    found = []
    m = Fraction(mean)
    for n in range(1, len(observations) + 1):
        total = Fraction(0)
        for fraction in FRACTIONS:
            product = Fraction(1)
            for x in observations[:n]:
                product *= 1 + Fraction(fraction) / m * (Fraction(x) - m)
            total += product
        found.append(total / len(FRACTIONS))
    return found


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.01, 0.99))
def test_the_wealth_is_the_formula_s(observations: list[float], mean: float) -> None:
    expected = [float(one) for one in slow_wealth(observations, mean)]
    assert wealth(np.array(observations), mean) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", SERIES)
def test_bounds_are_where_the_wealth_reaches_one_over_the_level(name: str) -> None:
    truth = SERIES[name]
    width = truth.high - truth.low
    seen = Bounded(truth.draw(np.random.default_rng(1), 2000), truth.low, truth.high)
    for side in (seen, seen.mirrored):
        low = side.lower(0.05)
        assert low < side.values.mean() < side.upper(0.05)
        scaled = (side.values - side.low) / width
        assert wealth(scaled, (low - side.low) / width)[-1] >= 20, "what is told as refuted is"
        assert wealth(scaled, (low - side.low) / width + 1.2 / 16_384)[-1] < 20, "and next to nothing else"


def test_the_bounds_of_a_mirror_are_mirrored() -> None:
    seen = Bounded(np.array([0.2, 0.9, 0.4, 0.1] * 30), 0, 1)
    assert seen.mirrored.lower(0.05) == -seen.upper(0.05)
    assert seen.below_after(0.9, 0.05) == seen.mirrored.above_after(-0.9, 0.05) is not None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0.02, 0.9), st.floats(0.001, 0.09))
def test_the_wealth_falls_in_the_mean(observations: list[float], mean: float, more: float) -> None:
    seen = np.array(observations)
    assert (wealth(seen, mean + more) <= wealth(seen, mean) * (1 + 1e-12)).all()


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30), st.randoms())
def test_the_last_wealth_knows_no_order(observations: list[float], random: object) -> None:
    shuffled = list(observations)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert wealth(np.array(shuffled), 0.4)[-1] == pytest.approx(wealth(np.array(observations), 0.4)[-1], rel=1e-9)


def test_under_its_mean_the_expected_wealth_is_one() -> None:
    """All 2^10 sequences of a coin that falls on 1 with 0.3, each by its probability: exact, no simulation."""
    total = 0.0
    for number in range(1 << 10):
        tosses = np.array([number >> place & 1 for place in range(10)], dtype=np.float64)
        ones = int(tosses.sum())
        total += 0.3**ones * 0.7 ** (10 - ones) * wealth(tosses, 0.3)[-1]
    assert total == pytest.approx(1)


def test_what_is_refuted_once_stays_refuted() -> None:
    """The first observations speak for a high mean and the later ones do not: a late look still says what was seen."""
    values = np.concatenate([np.ones(40), np.tile([0.0, 1.0], 400)])
    early, late = Bounded(values[:40], 0, 1), Bounded(values, 0, 1)
    assert early.above_after(0.6, 0.05) == late.above_after(0.6, 0.05) is not None
    assert wealth(values, 0.6)[-1] < 20


@pytest.mark.parametrize("values", [[], [0.0], [1.0], [0.0] * 5])
def test_bounds_of_next_to_nothing(values: list[float]) -> None:
    seen = Bounded(np.array(values), 0, 1)
    low, high = seen.lower(0.05), seen.upper(0.05)
    assert 0 <= low <= (np.mean(values) if values else 0) <= high <= 1
    if not values:
        assert (low, high) == (0, 1)
        assert seen.above_after(0.5, 0.05) is None and seen.below_after(0.5, 0.05) is None


def test_a_million_ones_overflow_nothing() -> None:
    seen = Bounded(np.ones(1_000_000), 0, 1)
    with np.errstate(all="raise", under="ignore"):
        assert 0.9999 < seen.lower(0.05) <= 1
        assert seen.below_after(0.9, 0.05) is None


def test_nothing_that_ever_differs_is_decided_by_the_largest_bet() -> None:
    """(1 + 0.9 x 0.005 / 0.495)^n / 5 alone would reach 20 at n = 509; the other bets win a little as well."""
    seen = Bounded(np.zeros(1000), -1, 1)
    assert seen.above_after(-0.01, 0.05) == 500
    assert math.ceil(needed_nats(0.05) / math.log1p(0.9 * 0.005 / 0.495)) == 509


def test_the_growth_foretells_the_decision() -> None:
    seen = Bounded(np.zeros(100), -1, 1)
    assert needed_nats(0.05) / seen.growth(-0.01) == pytest.approx(509, abs=1)
    assert seen.mirrored.growth(0.01) == 0


@pytest.mark.parametrize(
    "truth",
    [
        simulate.flips(0.02, -0.02),
        simulate.flips(0.2, -0.02),
        simulate.shares(0.97),
        simulate.skewed(0.9),
        simulate.clipped_logs(1.1, 1.0),
    ],
    ids=["only losses", "flips", "same", "skewed", "clipped"],
)
def test_the_sequence_holds_the_truth_at_all_looks(truth: simulate.Truth) -> None:
    assert not simulate.ever_excluded(truth, 1000, 0.1, 150, 1).exceeds(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("mean", [-0.02, 0.0])
@pytest.mark.parametrize("share", [0.02, 0.05, 0.3])
def test_flips_at_all_looks_of_ten_thousand_pairs(share: float, mean: float) -> None:
    assert not simulate.ever_excluded(simulate.flips(share, mean), 10_000, 0.1, 1000, 2).exceeds(0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "truth",
    [
        simulate.shares(0.5),
        simulate.shares(0.995),
        simulate.skewed(0.95),
        simulate.skewed(0.5),
        simulate.clipped_logs(1.0, 0.2),
        simulate.clipped_logs(1.1, 1.5),
    ],
    ids=["half same", "nearly all same", "skewed", "even", "close", "a third clipped"],
)
def test_others_at_all_looks_of_ten_thousand_pairs(truth: simulate.Truth) -> None:
    assert not simulate.ever_excluded(truth, 10_000, 0.1, 1000, 3).exceeds(0.1)


def test_looking_again_and_again_breaks_what_is_meant_for_one_look() -> None:
    """The negative control: the same looks at the same data, by mean and standard error."""
    found = simulate.wrong_passes(simulate.flips(0.1, -0.02), 4000, 50, 0.05, 200, 5)
    assert not found.sequence.exceeds(0.05)
    assert found.naive.hits > 0.2, "several times the level"


@pytest.mark.slow
def test_the_level_is_used_and_not_only_kept() -> None:
    """A process that never refutes anything would keep every level: this one spends a good part of it."""
    found = simulate.wrong_passes(simulate.flips(0.2, -0.02), 10_000, 50, 0.05, 2000, 6)
    assert not found.sequence.exceeds(0.05)
    assert found.sequence.hits > 0.02


@pytest.mark.slow
def test_fewer_pairs_than_the_plug_in_bets_where_it_is_close() -> None:
    truth = simulate.flips(0.2, 0.0)
    ours = simulate.needed(truth, -0.02, 0.05, 30_000, 100, 7)
    theirs = simulate.needed(truth, -0.02, 0.05, 30_000, 100, 7, plug_in=True)
    assert ours.half < 0.8 * theirs.half and ours.most < 0.8 * theirs.most
