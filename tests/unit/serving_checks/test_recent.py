"""The last minute of a server's requests."""

import pytest

from serving_checks.gateway.recent import Recent


def test_what_is_older_than_a_minute_is_gone() -> None:
    recent = Recent(1000.0)
    recent.add(1001.0, 9.0)
    for number in range(100):
        recent.add(1100.0 + number / 10, 0.01 * (number + 1), 0.001 if number % 2 else None)
    recent.add(1109.95, None)
    load = recent.load(1110.0)
    assert (load.requests, load.failed, load.window_seconds) == (101, 1, 60.0)
    assert load.requests_per_second == pytest.approx(101 / 60)
    assert (load.p50_seconds, load.p95_seconds) == (pytest.approx(0.50), pytest.approx(0.95))
    assert load.first_token_p50_seconds == 0.001


def test_nothing_is_told_of_nothing() -> None:
    recent = Recent(5.0)
    told = recent.load(5.0)
    assert (told.requests, told.requests_per_second, told.p50_seconds) == (0, None, None)
    assert recent.load(15.0).requests_per_second == 0, "for ten seconds nobody came"


def test_of_a_dense_minute_the_last_requests_tell() -> None:
    recent = Recent(0.0)
    for number in range(100_000):
        recent.add(number / 10_000, 0.001)
    assert recent.load(10.0).requests_per_second == pytest.approx(10_000, rel=0.01)
