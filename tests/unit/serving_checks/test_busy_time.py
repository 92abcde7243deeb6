"""Busy seconds against the plain definition: a second is busy if any request was in flight."""

import random

from serving_checks.readings.busy_time import BusyTime


def plainly(spans: list[tuple[int, int]]) -> int:
    return len({second for begin, end in spans for second in range(begin, end)})


def test_the_union_of_spans_in_any_order() -> None:
    draw = random.Random(7)  # noqa: S311
    for _ in range(200):
        spans = [(begin, begin + draw.randint(0, 9)) for begin in draw.choices(range(60), k=draw.randint(0, 25))]
        busy = BusyTime()
        for place, (begin, end) in enumerate(spans):
            busy.add(begin, end)
            assert busy.seconds == plainly(spans[: place + 1])


def test_more_spans_than_are_kept_apart() -> None:
    busy = BusyTime()
    for begin in range(20_000):
        busy.add(2 * begin, 2 * begin + 1)
    assert busy.seconds == 20_000
    busy.add(0, 3)
    assert busy.seconds == 20_000, "what was settled is not counted again"
    busy.add(0, 40_000)
    assert 20_000 < busy.seconds <= 40_000


def test_what_is_no_span_adds_nothing() -> None:
    busy = BusyTime()
    for begin, end in ((5.0, 5.0), (5.0, 4.0), (float("nan"), 1.0)):
        busy.add(begin, end)
    assert busy.seconds == 0
