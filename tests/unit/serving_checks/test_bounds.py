"""Shares of the machine's limit by numbers that were computed by hand."""

from typing import Any

import pytest

from registry.contracts import LoadPoint, MachineLimits, MemoryRecord, Rates, ServingRecord, TokenWork
from serving_checks.readings.bounds import decode_share, percent_text, prefill_share
from tests.records import load_point, measurement_record, percentiles, poisson_point

MIB = 2**20
# 100 MiB read in 0.01 s; 10 GFLOP in 0.1 s; 8-bit four times as fast.
RATES = Rates(
    threads=3,
    memory_bytes_per_second=10_000 * MIB,
    float32_flop_per_second=100e9,
    bfloat16_flop_per_second=200e9,
    int8_op_per_second=400e9,
)
LIMITS = MachineLimits(
    device="cpu", alone=None, serving=RATES, cache_bytes=MIB, swept_bytes=256 * MIB, seconds=2.0, others_cores=0.0
)
WORK = TokenWork(
    linear_parameters=20_000_000,
    head_parameters=5_000_000,
    kv_values=1024,
    attention_flop=1000,
    multiplied_in="float32",
)


def served(point: LoadPoint, **changes: Any) -> ServingRecord:
    memory = MemoryRecord(artifact_bytes=1, weights_bytes_by_rank=[110 * MIB], unread_weights_bytes=10 * MIB)
    known: dict[str, Any] = {"load_points": [point], "memory": memory, "limits": LIMITS, "work": WORK}
    return measurement_record("sha256:m").serving.model_copy(update=known | changes)


def point(concurrency: int, tpot: float = 0.02, ttft: float = 0.1, **changes: Any) -> LoadPoint:
    """Four requests of 10 and 20 tokens: a context of 20 on the average while they are decoded."""
    times = {"tpot": percentiles(tpot, 2 * tpot), "ttft": percentiles(ttft, 2 * ttft)}
    return load_point(concurrency, 40.0).model_copy(update={**times, **changes})


def test_decoding_alone_is_bound_by_reading_the_weights() -> None:
    share = decode_share(served(point(1)), point(1))
    assert share is not None
    # 100 MiB of weights and 20 tokens of 4 KiB at 10,000 MiB/s; 2 x 25 M operations take 0.5 ms.
    step = (100 + 20 * 4096 / MIB) / 10_000
    assert share.limit == "memory bandwidth"
    assert share.share == pytest.approx(step / 0.02) == pytest.approx(0.5, rel=1e-3)
    assert share.tokens_per_second == pytest.approx(50)
    assert share.bound_tokens_per_second == pytest.approx(1 / step)
    assert share.sentence == (
        "decode: 50 % of what memory bandwidth allows, 50 of 99.92 tokens/s"
        " (100.1 MiB a step with 1 request, 9.8 GiB/s)"
    )
    assert not share.doubts


def test_many_requests_are_bound_by_arithmetic() -> None:
    many = point(64, tpot=0.1)
    share = decode_share(served(many), many)
    assert share is not None and share.limit == "float32 arithmetic"
    step = 64 * (2 * 25e6 + 1000 * 20) / 100e9
    assert share.share == pytest.approx(step / 0.1)
    assert share.tokens_per_second == pytest.approx(640)
    assert "64 requests, 100 GFLOP/s" in share.inputs


def test_requests_that_never_ran_together_are_not_counted_as_a_batch() -> None:
    queued = point(64, requests_running_peak=2)
    share = decode_share(served(queued), queued)
    assert share is not None and "2 requests" in share.inputs and share.tokens_per_second == pytest.approx(100)


@pytest.mark.parametrize(
    ("multiplied_in", "rate", "unit"), [("bfloat16", 200e9, "200 GFLOP/s"), ("int8", 400e9, "400 Gop/s")]
)
def test_arithmetic_is_that_of_the_type_that_is_multiplied(multiplied_in: Any, rate: float, unit: str) -> None:
    many = point(640, tpot=0.5)
    record = served(many, work=WORK.model_copy(update={"multiplied_in": multiplied_in}))
    share = decode_share(record, many)
    assert share is not None and share.limit == f"{multiplied_in} arithmetic" and unit in share.inputs
    assert share.share == pytest.approx(640 * (2 * 25e6 + 20_000) / rate / 0.5)


def test_a_rate_that_is_not_known_bounds_nothing() -> None:
    """float16 is not measured on a CPU."""
    many = point(640, tpot=0.5)
    share = decode_share(served(many, work=WORK.model_copy(update={"multiplied_in": "float16"})), many)
    assert share is not None and share.limit == "memory bandwidth"
    blind = LIMITS.model_copy(update={"serving": Rates(threads=3)})
    assert decode_share(served(many, limits=blind), many) is None


def test_a_prompt_is_bound_by_arithmetic_and_asks_the_head_once() -> None:
    long = point(1, ttft=0.4, prompt_tokens=4 * 500)
    share = prefill_share(served(long), long)
    assert share is not None and share.limit == "float32 arithmetic"
    operations = 500 * (2 * 20e6 + 1000 * 250) + 2 * 5e6
    assert share.share == pytest.approx(operations / 100e9 / 0.4)
    assert share.tokens_per_second == pytest.approx(500 / 0.4)


def test_a_short_prompt_is_bound_by_reading_the_weights_once() -> None:
    share = prefill_share(served(point(1)), point(1))
    assert share is not None and share.limit == "memory bandwidth"
    assert share.share == pytest.approx(0.01 / 0.1)


def test_a_prompt_beside_others_has_no_bound() -> None:
    assert prefill_share(served(point(2)), point(2)) is None


def test_a_window_bounds_what_is_read_of_the_past() -> None:
    record = served(point(1), work=WORK.model_copy(update={"sliding_window": 5, "kv_values": 10 * MIB}))
    share = decode_share(record, point(1))
    assert share is not None and share.share == pytest.approx((100 + 5 * 40) / 10_000 / 0.02)


def test_weights_that_fit_the_cache_are_not_bound_by_memory() -> None:
    record = served(point(1), limits=LIMITS.model_copy(update={"cache_bytes": 200 * MIB}))
    share = decode_share(record, point(1))
    assert share is not None and share.limit == "float32 arithmetic"


def test_gpus_read_and_multiply_together_and_ranks_of_a_cpu_share_its_threads() -> None:
    one, ranks, gpus = (
        decode_share(served(point(1), tensor_parallel_size=size, device=device), point(1))
        for size, device in ((1, "cpu"), (2, "cpu"), (2, "cuda"))
    )
    assert one and ranks and gpus
    assert ranks.share == one.share == pytest.approx(2 * gpus.share)


def test_more_than_everything_is_said_and_not_hidden() -> None:
    fast = point(1, tpot=0.005)
    share = decode_share(served(fast), fast)
    assert share is not None and share.share == pytest.approx(2.0, rel=1e-3)
    assert share.percent == "200 % (?)"
    assert "above 100 % is not possible" in share.sentence


def test_doubts_about_the_limits_go_with_the_share() -> None:
    doubted = LIMITS.model_copy(update={"doubts": ["other processes kept 1.5 cores busy"]})
    share = decode_share(served(point(1), limits=doubted), point(1))
    assert share is not None and share.sentence.endswith("; other processes kept 1.5 cores busy")


@pytest.mark.parametrize(
    "changes",
    [
        {"limits": None},
        {"work": None},
        {"memory": MemoryRecord(artifact_bytes=1)},
        {
            "memory": MemoryRecord(artifact_bytes=1, weights_bytes_by_rank=[0]),
            "limits": LIMITS.model_copy(update={"serving": Rates(threads=1, memory_bytes_per_second=1.0)}),
        },
    ],
)
def test_what_is_not_known_gives_no_share(changes: dict[str, Any]) -> None:
    """Old records, a model whose layers are not known, an engine that does not tell its weights."""
    record = served(point(1), **changes)
    if changes.get("limits"):
        record = record.model_copy(update={"work": WORK.model_copy(update={"kv_values": 0})})
    assert decode_share(record, point(1)) is None
    assert prefill_share(record, point(1)) is None


@pytest.mark.parametrize(
    "one",
    [
        point(1, invalid="counters disagree"),
        point(1, completed=0, output_tokens=0, prompt_tokens=0),
        point(1, output_tokens=4),
        point(1, tpot=0.0, ttft=0.0),
        point(1, tpot=float("nan"), ttft=float("nan")),
        point(1, tpot=float("inf"), ttft=float("inf")),
        poisson_point(2.0, 40.0),
    ],
)
def test_what_was_not_measured_gives_no_share(one: LoadPoint) -> None:
    assert decode_share(served(one), one) is None
    if one.output_tokens != 4:
        assert prefill_share(served(one), one) is None


def test_small_shares_keep_their_digits() -> None:
    assert [percent_text(share) for share in (0.313, 0.0042, 0.00001, 1.0, 1.3)] == [
        "31 %",
        "0.42 %",
        "0.001 %",
        "100 %",
        "130 % (?)",
    ]
