"""The search for the highest rate ends, and ends near the truth."""

import pytest

from registry.contracts.serving import SLO, RateSearch
from serving_checks.load.config import Sweep
from serving_checks.load.search import search_rate


def search(truth: float, steps: int = 6) -> RateSearch:
    return search_rate(Sweep(kind="sweep", steps=steps), SLO(ttft_seconds=1.0), 2.0, 10.0, lambda rate: rate <= truth)


def test_it_closes_in_on_the_highest_good_rate() -> None:
    found = search(6.0)
    assert found.tried == [1.0, 10.0, 5.5, 7.75, 6.625, 6.0625]
    assert found.highest_good_requests_per_second == 5.5
    closer = search(6.0, steps=12)
    assert closer.highest_good_requests_per_second == pytest.approx(6.0, abs=0.01)
    assert len(closer.tried) == 12


def test_it_ends_early_at_either_end() -> None:
    assert search(0.5).tried == [1.0]
    assert search(0.5).highest_good_requests_per_second is None
    assert search(99.0).tried == [1.0, 10.0]
    assert search(99.0).highest_good_requests_per_second == 10.0


def test_a_ceiling_below_the_floor_is_noise_and_does_no_harm() -> None:
    sweep = Sweep(kind="sweep", steps=3)
    found = search_rate(sweep, SLO(ttft_seconds=1.0), floor=2.0, ceiling=1.5, keeps_slo=lambda rate: False)
    assert found.tried == [1.0]
