"""The batching check against servers that batch continuously, statically and not at all."""

import asyncio
import threading

import pytest
from pydantic import ValidationError

from configs.errors import RequestError, StageError
from registry.contracts.serving import Endpoint
from serving_checks.checks.batching import BatchingConfig, Crowd, Seen, check_batching, judge
from serving_checks.readings.gauges import GaugeNames, GaugeSample
from serving_checks.transport.streaming import StreamedAnswer
from tests.fake_servers import GAUGES, fake_server

pytestmark = pytest.mark.slow  # servers that keep time

CONFIG = BatchingConfig(answer_tokens=8, concurrency=8, sample_seconds=0.01, deadline_seconds=60)
STEP = ("--tpot-seconds", "0.01")


def answer(ended_at: float, tokens: int, sent_at: float = 0.0) -> StreamedAnswer:
    return StreamedAnswer(sent_at, [ended_at], tokens)


def seen(**changed) -> Seen:
    found = Seen(
        gauges=GaugeSample(4, 3),
        gauge_samples=20,
        running_peak=4,
        late=[answer(2.0, 8), answer(2.5, 8)],
        long=[answer(5.0, 64), answer(5.5, 64)],
        tokens_per_second_alone=10.0,
        tokens_per_second_together=40.0,
    )
    return found._replace(**changed)


def test_a_continuous_server_passes_and_leaves_nothing(tmp_path):
    threads = threading.active_count()
    with fake_server(tmp_path, *STEP, "--max-num-seqs", "4") as endpoint:
        record = check_batching(endpoint, CONFIG, 4, gauges=GAUGES)
    assert (record.check, record.outcome) == ("batching", "pass"), record
    assert "at most 4 requests were at work while" in record.reason
    assert "4 of 4 late short requests ended before the long early ones" in record.reason
    assert record.numbers["requests_running_while_others_waited"] == 4
    assert record.numbers["requests_waiting_then"] > 0
    assert record.numbers["last_late_end_to_first_long_end_seconds"] > 0
    assert record.numbers["speedup"] > 1.5
    assert threading.active_count() == threads
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


def test_a_static_server_fails_though_it_batches(tmp_path):
    with fake_server(tmp_path, *STEP, "--max-num-seqs", "4", "--scheduling", "static") as endpoint:
        record = check_batching(endpoint, CONFIG, 4, gauges=GAUGES)
    assert record.outcome == "fail"
    assert record.reason == "0 of 4 late short requests ended before the long early ones; none of 3 attempts passed"


@pytest.mark.parametrize("limit", [("--scheduling", "sequential"), ("--max-num-seqs", "1")])
def test_a_sequential_server_fails_in_every_sign(tmp_path, limit):
    with fake_server(tmp_path, *STEP, *limit) as endpoint:
        record = check_batching(endpoint, CONFIG, 4, gauges=GAUGES)
    assert record.outcome == "fail"
    assert "at most 1 requests were at work while" in record.reason
    assert "0 of 4 late" in record.reason
    assert "asked for: 1.5 times" in record.reason
    assert record.numbers["speedup"] < 1.5


def test_without_gauges_timing_judges(tmp_path):
    with fake_server(tmp_path, *STEP, "--max-num-seqs", "4") as endpoint:
        unknown = check_batching(endpoint, CONFIG, 4, gauges=GaugeNames("tgi_batch_current_size", "tgi_queue_size"))
        none = check_batching(endpoint, CONFIG, None, gauges=None)
    for record in (unknown, none):
        assert record.outcome == "pass", record
        assert "no gauges" in record.reason
        assert "requests_running_peak" not in record.numbers


@pytest.mark.parametrize("scheduling", ["static", "sequential"])
def test_without_gauges_and_places_timing_still_fails(tmp_path, scheduling):
    with fake_server(tmp_path, *STEP, "--scheduling", scheduling) as endpoint:
        record = check_batching(endpoint, CONFIG, None, gauges=None)
    assert record.outcome == "fail"
    assert "0 of 4 late" in record.reason


def stalled(late_end: float, sent_at: float = 0.0) -> Seen:
    """What a client that was not let run has of a server that batches."""
    return seen(late=[answer(late_end, 8, sent_at=sent_at)])


@pytest.mark.parametrize(
    ("loads", "outcome", "words", "asked"),
    [
        ([stalled(6.0), stalled(9.0, sent_at=5.2), seen()], "pass", "2 of 2 late", 3),
        ([stalled(6.0)] * 3, "fail", "0 of 1 late short requests ended before the long early ones; none of 3", 3),
        # A load that says nothing does not take back what another one showed.
        ([stalled(9.0, sent_at=5.2), stalled(6.0), stalled(9.0, sent_at=5.2)], "fail", "0 of 1 late", 3),
        ([stalled(9.0, sent_at=5.2)] * 3, "not_run", "1.5 times); none of 3 attempts passed", 3),
        # The time was out at the second.
        ([stalled(6.0), None], "fail", "0 of 1 late short requests ended before the long early ones", 2),
        ([None], "not_run", "not done within", 1),
    ],
)
def test_a_load_that_a_busy_machine_spoilt_is_made_again(monkeypatch, loads, outcome, words, asked):
    made = iter(loads)
    count = 0

    def run(work, deadline_seconds):
        nonlocal count
        count += 1
        work.close()
        return next(made)

    monkeypatch.setattr("serving_checks.checks.batching.run_check", run)
    endpoint = Endpoint(base_url="http://127.0.0.1:9", served_model_name="model", model_path="", max_model_len=4096)
    record = check_batching(endpoint, BatchingConfig(), 4, gauges=GAUGES)
    assert (record.outcome, count) == (outcome, asked)
    assert words in record.reason


def test_a_server_that_dies_meanwhile_is_told(tmp_path):
    arguments = ("--mode", "die-half-way", "--die-after", "8")
    with (
        fake_server(tmp_path, *STEP, *arguments) as endpoint,
        pytest.raises(StageError, match="server broke off") as caught,
    ):
        check_batching(endpoint, CONFIG, 4, gauges=GAUGES)
    assert "log" in caught.value.remedy


def test_a_server_that_is_not_there_is_told(tmp_path):
    with fake_server(tmp_path) as endpoint:
        pass
    with pytest.raises(StageError, match="server broke off"):
        check_batching(endpoint, CONFIG, 4, gauges=GAUGES)


@pytest.mark.parametrize(("mode", "words"), [("errors", "answered HTTP 500"), ("empty", "without a token")])
def test_a_server_that_gives_no_tokens_is_told(tmp_path, mode, words):
    with fake_server(tmp_path, "--mode", mode) as endpoint, pytest.raises(StageError, match=words):
        check_batching(endpoint, CONFIG, 4, gauges=GAUGES)


def test_a_server_that_hangs_ends_at_the_deadline(tmp_path):
    with fake_server(tmp_path, "--mode", "silent") as endpoint:
        record = check_batching(endpoint, CONFIG.model_copy(update={"deadline_seconds": 0.5}), 4, gauges=GAUGES)
    assert (record.outcome, record.numbers) == ("not_run", {})
    assert "not done within 0.5 s" in record.reason


def test_answers_longer_than_the_context_are_refused_before_anything_is_sent():
    endpoint = Endpoint(base_url="http://127.0.0.1:9", served_model_name="model", model_path="", max_model_len=100)
    with pytest.raises(RequestError, match="context has 100"):
        check_batching(endpoint, BatchingConfig(), 4, gauges=GAUGES)


@pytest.mark.parametrize("places", [1, 2, 3, 4, 5, 16, 32, 256])
def test_late_requests_have_time_to_end_before_the_long_ones(places):
    crowd = Crowd.of(BatchingConfig(), places)
    assert crowd.long_requests + crowd.middling_requests >= max(places, 3)
    # A scheduler of decode steps: places go to who waits longest.
    waiting = [crowd.long_tokens] * crowd.long_requests + [crowd.middling_tokens] * crowd.middling_requests
    waiting += [crowd.late_tokens] * crowd.late_requests
    running, step, ends = [], 0, []
    while waiting or running:
        while waiting and len(running) < places:
            running.append([waiting.pop(0), 0])
        step += 1
        for one in running:
            one[1] += 1
        ends += [(step, tokens) for tokens, done in running if tokens == done]
        running = [one for one in running if one[1] < one[0]]
    last_late = max(end for end, tokens in ends if tokens == crowd.late_tokens)
    first_long = min(end for end, tokens in ends if tokens == crowd.long_tokens)
    assert (last_late < first_long) == (places > 1)


@pytest.mark.parametrize(
    ("changed", "max_num_seqs", "outcome", "words"),
    [
        ({}, 4, "pass", "4.0 times"),
        ({"gauges": None}, 4, "fail", "none was ever seen to wait"),
        # Done so soon that the gauges were looked at four times: others waited once, as the first one began.
        ({"gauges": GaugeSample(1, 7), "gauge_samples": 4}, 4, "pass", "the server was done after 4 looks"),
        ({"gauges": None, "gauge_samples": 4}, 4, "pass", "timing alone was judged"),
        # Nothing was left to overtake.
        ({"late": [answer(9.0, 8, sent_at=5.2)]}, 4, "not_run", "was done before the last late request was sent"),
        ({"gauges": GaugeSample(1, 7), "gauge_samples": 4, "running_peak": 1}, 4, "fail", "at most 1 requests were"),
        ({"gauges": GaugeSample(1, 7), "gauge_samples": 10}, 4, "fail", "at most 1 requests were at work while 7"),
        ({"gauges": None}, None, "pass", "not known"),
        ({"gauges": None, "running_peak": 1}, None, "fail", "at most 1 requests"),
        ({"gauges": GaugeSample(1, 9)}, 4, "fail", "at most 1 requests were at work while 9 waited"),
        ({"late": [answer(2.0, 8), answer(5.2, 8)]}, 4, "fail", "1 of 2 late"),
        ({"tokens_per_second_together": 12.0}, 4, "fail", "1.2 times"),
        ({"long": [answer(5.0, 64), answer(5.5, 9)]}, 4, "not_run", "order of ends says nothing"),
        ({"long": [answer(5.0, 9)], "tokens_per_second_together": 9.0}, 4, "fail", "0.9 times"),
    ],
)
def test_judgement(changed, max_num_seqs, outcome, words):
    record = judge(seen(**changed), BatchingConfig(), max_num_seqs)
    assert record.outcome == outcome
    assert words in record.reason


@pytest.mark.parametrize("bad", [{"answer_tokens": 1}, {"min_speedup": 1}, {"sample_seconds": 0}, {"speed": 2}])
def test_bad_config_is_refused(bad):
    with pytest.raises(ValidationError):
        BatchingConfig(**bad)
