"""From single requests to a point's numbers, worked out by hand, and the marks that a point gets."""

import heapq
from pathlib import Path

import numpy as np
import pytest

from registry.contracts.serving import SLO
from serving_checks.load.adapter import Load, Sent, arrivals, rows_of
from serving_checks.load.points import disagreement, good_share, load_point, percentiles
from serving_checks.load.requests import RequestRow, read_rows, write_rows
from serving_checks.load.saturation import is_saturated
from serving_checks.load.watch import ServerCounts

CLOSED = Load("short", 2, None)
OPEN = Load("short", None, 1.0)
SILENT = ServerCounts(None, None, None, None)


def row(**changes: object) -> RequestRow:
    """A request of 10 prompt tokens and 5 tokens, sent at once: 0.2 s to the first, four gaps of 0.1 s."""
    facts: dict[str, object] = {
        "point": 0,
        "profile": "concurrent",
        "prompts": "short",
        "request": 0,
        "arrival_seconds": 0.0,
        "start_seconds": 0.0,
        "ttft_seconds": 0.2,
        "itl_seconds": [0.1, 0.1, 0.1, 0.1],
        "e2e_seconds": 0.6,
        "prompt_tokens": 10,
        "output_tokens": 5,
        "outcome": "ok",
        "error": "",
    }
    return RequestRow(**(facts | changes))  # type: ignore[arg-type]


def failed(**changes: object) -> RequestRow:
    facts = {"outcome": "failed", "error": "refused", "ttft_seconds": None, "itl_seconds": [], "output_tokens": 0}
    return row(**(facts | {"e2e_seconds": 9.0} | changes))


def test_failed_and_timed_out_requests_are_counted_and_move_no_percentile() -> None:
    rows = [row(), row(ttft_seconds=0.4, e2e_seconds=0.8), failed(), failed(outcome="timed_out", error="timed out")]
    point = load_point(CLOSED, Sent(rows, duration_seconds=2.0), 5, SILENT, slo=None)
    assert (point.requests, point.completed, point.failed, point.timed_out) == (4, 2, 2, 1)
    assert (point.prompt_tokens, point.output_tokens) == (20, 10)
    assert (point.output_tokens_per_second, point.requests_per_second) == (5.0, 1.0)
    assert point.ttft.p50_seconds == pytest.approx(0.3)
    assert point.e2e.p99_seconds == pytest.approx(0.798)
    assert point.tpot.p99_seconds == point.itl.p50_seconds == pytest.approx(0.1)
    assert point.good_requests_per_second is None
    assert (point.profile, point.concurrency, point.requests_per_second_offered) == ("concurrent", 2, None)


def test_gaps_count_one_by_one_and_not_as_a_mean_of_each_request() -> None:
    rows = [row(itl_seconds=[0.1] * 9), row(itl_seconds=[1.0])]
    assert load_point(CLOSED, Sent(rows, 1.0), 5, SILENT, None).itl.p50_seconds == pytest.approx(0.1)


def test_goodput_counts_from_the_arrival() -> None:
    late = row(arrival_seconds=1.0, start_seconds=1.5)
    rows = [row(), late, failed()]
    slo = SLO(ttft_seconds=0.3)
    assert load_point(OPEN, Sent(rows, 2.0), 5, SILENT, slo).good_requests_per_second == 0.5
    assert good_share(rows, slo) == pytest.approx(1 / 3)
    assert good_share(rows, SLO(ttft_seconds=0.7, tpot_seconds=0.11, e2e_seconds=1.1)) == pytest.approx(2 / 3)
    assert good_share(rows, SLO(tpot_seconds=0.09)) == 0
    assert good_share(rows, SLO(e2e_seconds=0.6)) == pytest.approx(1 / 3)


def test_answers_of_one_piece_have_no_gaps_and_no_time_per_token() -> None:
    one = row(itl_seconds=[], output_tokens=1, e2e_seconds=0.2)
    point = load_point(CLOSED, Sent([one], 1.0), 5, SILENT, SLO(tpot_seconds=0.01))
    assert point.itl == point.tpot == percentiles([])
    assert point.good_requests_per_second == 1.0


@pytest.mark.parametrize(
    ("prompt", "output", "said"),
    [
        (20, 10, None),
        (None, None, None),
        (30, 15, None),
        (19, 10, "19 prompt tokens, the client 20 to 30"),
        (31, 10, "31 prompt tokens"),
        (20, 9, "9 output tokens"),
        (20, 16, "16 output tokens, the client 10 to 15"),
    ],
)
def test_both_sides_have_to_count_the_same_tokens(prompt: int | None, output: int | None, said: str | None) -> None:
    told = disagreement([row(), row(), failed()], 5, ServerCounts(prompt, output, None, None))
    assert (told is None) if said is None else (told is not None and said in told)


def test_without_failures_nothing_is_forgiven() -> None:
    told = disagreement([row()], 5, ServerCounts(11, 5, None, None))
    assert told == "the server counted 11 prompt tokens, the client 10: others were served, or some lost"


def queue(seed: int, load: float, arrivals_count: int, places: int = 4) -> list[RequestRow]:
    """Requests at a server with `places` places of one second each, offered `load` times what it can do."""
    random = np.random.default_rng(seed)
    times = arrivals(load * places, arrivals_count, seed)
    free = [0.0] * places
    rows = []
    for arrival in times:
        start = max(arrival, heapq.heappop(free))
        end = start + random.uniform(0.9, 1.1)
        heapq.heappush(free, end)
        rows.append(
            row(arrival_seconds=arrival, start_seconds=arrival, ttft_seconds=start - arrival + 0.05,
                e2e_seconds=end - arrival)
        )  # fmt: skip
    return rows


@pytest.mark.parametrize(("load", "low", "high"), [(0.3, 0, 4), (0.6, 0, 4), (2.0, 36, 40), (4.0, 38, 40)])
def test_a_queue_that_grows_is_told_from_one_that_does_not(load: float, low: int, high: int) -> None:
    marked = sum(is_saturated(queue(seed, load, 64)) for seed in range(40))
    assert low <= marked <= high


def test_few_requests_tell_no_trend_and_a_closed_loop_is_never_saturated() -> None:
    assert not is_saturated(queue(0, 4.0, 23))
    rows = queue(0, 4.0, 64)
    assert load_point(OPEN, Sent(rows, 9.0), 5, SILENT, None).saturated
    assert not load_point(CLOSED, Sent(rows, 9.0), 5, SILENT, None).saturated


def test_a_trend_in_one_of_the_two_is_not_enough() -> None:
    steady = [row(arrival_seconds=float(place), start_seconds=float(place)) for place in range(40)]
    slower = [row(arrival_seconds=float(place), start_seconds=float(place), ttft_seconds=0.01 + place / 100)
              for place in range(40)]  # fmt: skip
    assert not is_saturated(steady)
    assert not is_saturated(slower)


def test_arrivals_are_random_seeded_and_meet_the_rate() -> None:
    times = arrivals(5.0, 101, seed=1)
    assert times[0] == 0
    assert times[-1] == pytest.approx(20.0)
    gaps = np.diff(times)
    # Exponential gaps have a coefficient of variation of 1, equal ones of 0.
    assert 0.7 < gaps.std() / gaps.mean() < 1.4
    assert times == arrivals(5.0, 101, seed=1) != arrivals(5.0, 101, seed=2)
    assert arrivals(5.0, 1, seed=1) == [0.0]


def generator_result() -> dict[str, list[object]]:
    """Three requests at two places, all queued at 100.0: the third waits for the first one's place, free at 101.0."""
    return {
        "start_times": [100.0, 100.1, 101.25],
        "queue_times": [0.0, 0.1, 1.25],
        "latencies": [1.0, 2.0, 0.5],
        "ttfts": [0.3, 0.4, 0.0],
        "itls": [[0.7], [1.6], []],
        "input_lens": [10, 10, 10],
        "output_lens": [2, 2, 0],
        "errors": ["", "", "Traceback\n  ...\nClientOSError: reset by peer\n"],
    }


def test_in_a_closed_loop_a_request_arrives_when_a_place_is_free() -> None:
    rows = rows_of(generator_result(), CLOSED, point=3, due=None)
    assert [one.arrival_seconds for one in rows] == pytest.approx([0.0, 0.0, 1.0])
    assert [one.queue_seconds for one in rows] == pytest.approx([0.0, 0.1, 0.25])
    assert [one.outcome for one in rows] == ["ok", "ok", "failed"]
    assert (rows[2].ttft_seconds, rows[2].error) == (None, "ClientOSError: reset by peer")
    assert (rows[0].tpot_seconds, rows[0].end_seconds) == pytest.approx((0.7, 1.0))
    assert {one.point for one in rows} == {3}


def test_in_an_open_loop_a_request_arrives_when_it_was_due() -> None:
    result = generator_result() | {"errors": ["", "", "timed out"], "queue_times": [0.0, 0.0, 0.0]}
    rows = rows_of(result, OPEN, point=0, due=[0.0, 0.05, 1.0])
    assert [one.queue_seconds for one in rows] == pytest.approx([0.0, 0.05, 0.25])
    assert (rows[2].outcome, rows[2].profile) == ("timed_out", "poisson")


def test_rows_are_kept_whole(tmp_path: Path) -> None:
    rows = [row(), failed(outcome="timed_out", error="timed out")]
    write_rows(tmp_path / "deep" / "rows.parquet", rows)
    assert read_rows(tmp_path / "deep" / "rows.parquet") == rows
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["rows.parquet"]


def test_seconds_are_of_all_requests_and_split_where_the_first_token_is_seen() -> None:
    whole = row(itl_seconds=[], ttft_seconds=0.6)
    rows = [row(), row(ttft_seconds=0.4, e2e_seconds=0.8), whole, failed()]
    point = load_point(CLOSED, Sent(rows, 9.6), 5, SILENT, None, energy_joules=12.5)
    assert point.request_seconds == pytest.approx(0.6 + 0.8 + 0.6 + 9.0)
    assert (point.prefill_seconds, point.decode_seconds) == (pytest.approx(0.6), pytest.approx(0.8))
    assert point.energy_joules == 12.5
    pieces = load_point(CLOSED, Sent([whole], 1.0), 5, SILENT, None)
    assert (pieces.prefill_seconds, pieces.decode_seconds, pieces.energy_joules) == (0, 0, None)
