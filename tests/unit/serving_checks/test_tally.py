"""What is counted of answers that were read: tokens, time per token, agreement, cost; and of nothing, nothing."""

from datetime import UTC, datetime
from typing import Any

import pytest

from registry.contracts import Pair, Reply
from serving_checks.gateway.served_metrics import MOST_VERSIONS, Served
from serving_checks.gateway.tally import Tally
from serving_checks.gateway.upstream import Answered
from serving_checks.readings.cost import DevicePrice
from serving_checks.transport.metrics import parse_metrics

PRICE = DevicePrice.model_validate(
    {"device": "a GPU", "currency": "USD", "per_hour": 3.6, "source": "a page", "read_on": "2026-01-02"}
)
CHAMPION, CANDIDATE = (
    Served("champion", "1", "/v1/chat/completions"),
    Served("candidate", "2", "/v1/chat/completions"),
)

INPUT, OUTPUT = {"gen_ai_token_type": "input"}, {"gen_ai_token_type": "output"}


def answered(begin: float, seconds: float) -> Answered:
    return Answered(200, "application/json", b"{}", begin, begin + seconds / 2, begin + seconds)


def reply(first: float | None = None, **told: Any) -> Reply:
    tokens = {"prompt_tokens": 100, "completion_tokens": 11}
    return Reply.model_validate({"id": "x", "sent_at": datetime.now(UTC), "first_token_seconds": first} | tokens | told)


def pair(same: bool | None, champion: str = "1", candidate: str = "2") -> Pair:
    sides = {"champion": {"version": champion}, "candidate": {"version": candidate}}
    told = {"prompt_hash": "sha256:p", "prompt_characters": 1, "at": datetime.now(UTC), "same": same}
    return Pair.model_validate({"id": "x", "number": 0, "source": "mirror"} | sides | told)


def value(tally: Tally, name: str, **labels: str) -> float:
    found = [
        one.value for one in parse_metrics(tally.page()) if one.name == name and labels.items() <= one.labels.items()
    ]
    assert len(found) == 1, (name, found)
    return found[0]


def test_tokens_time_per_token_and_cost() -> None:
    tally = Tally("demo", PRICE)
    # Two clients at a time for ten seconds, and a copy after them.
    for begin in (0.0, 0.0):
        tally.client_answered(CHAMPION, answered(begin, 10.0), reply(first=2.0))
    tally.copy_answered(CANDIDATE, answered(20.0, 5.0), reply(first=1.0))
    tally.attempt_answered(Served("candidate", "3", CHAMPION.path), answered(40.0, 4.0), reply(first=1.0))
    attempt = {"traffic": "attempt", "version": "3"}
    assert value(tally, "gen_ai_client_token_usage_sum", **attempt, **OUTPUT) == 11
    assert value(tally, "quantbench_gateway_busy_seconds_total", version="3") == pytest.approx(4)
    attempted = tally.read().versions["3"].cost
    assert attempted is not None and attempted.requests == 1
    told = {"arm": "champion", "traffic": "client", "gen_ai_operation_name": "chat"}
    assert value(tally, "gen_ai_client_token_usage_sum", **told, **INPUT) == 200
    assert value(tally, "gen_ai_client_token_usage_sum", **told, **OUTPUT) == 22
    assert value(tally, "gen_ai_server_time_per_output_token_seconds_sum", **told) == pytest.approx(2 * 0.8)
    assert value(tally, "quantbench_gateway_busy_seconds_total", version="1") == pytest.approx(10)
    mirrored = {"traffic": "mirror", "arm": "candidate", "version": "2"}
    assert value(tally, "quantbench_gateway_requests_total", status="200", **mirrored) == 1
    assert value(tally, "gen_ai_server_request_duration_seconds_sum", **mirrored) == pytest.approx(5)
    read = tally.read().versions
    assert read["1"].mirrored is None
    mirrored_load = read["2"].mirrored
    assert mirrored_load is not None and (mirrored_load.requests, mirrored_load.p50_seconds) == (1, pytest.approx(5))
    assert read["1"].time_per_token_p50_seconds == pytest.approx(0.8)
    # 10 s of 0.1 cents: a fifth for 200 tokens, the rest for 22.
    cost = read["1"].cost
    assert cost is not None and cost.mean_in_flight == pytest.approx(2)
    assert cost.input_per_million == pytest.approx(0.01 * 0.2 / 200 * 1e6)
    assert cost.output_per_million == pytest.approx(0.01 * 0.8 / 22 * 1e6)
    shown = value(tally, "quantbench_gateway_cost_per_million_tokens", version="1", **OUTPUT)
    assert shown == pytest.approx(cost.output_per_million)


def test_an_answer_without_tokens_is_counted_as_none_and_not_as_0() -> None:
    tally = Tally("demo", PRICE)
    unknown = reply(first=1.0, prompt_tokens=None, completion_tokens=None)
    tally.client_answered(CHAMPION, answered(0.0, 4.0), unknown)
    assert "gen_ai_client_token_usage_sum{" not in tally.page()
    assert "gen_ai_server_time_per_output_token_seconds_sum{" not in tally.page()
    read = tally.read().versions["1"]
    assert (read.cost, read.time_per_token_p50_seconds) == (None, None)
    # One that is counted among three that are not: it bears its part of the time.
    for begin in (0.0, 0.0):
        tally.client_answered(CHAMPION, answered(begin, 4.0), unknown)
    tally.client_answered(CHAMPION, answered(0.0, 4.0), reply(first=1.0))
    cost = tally.read().versions["1"].cost
    assert cost is not None and (cost.requests, cost.counted) == (4, 1)
    assert cost.all_per_million == pytest.approx(0.001 * 4 / 4 / 111 * 1e6)


def test_a_number_that_no_answer_has_is_not_summed_up() -> None:
    tally = Tally("demo", PRICE)
    for tokens in ({}, {"prompt_tokens": 10**99}, {"completion_tokens": 10**99}):
        tally.client_answered(CHAMPION, answered(0.0, 4.0), reply(first=1.0, **tokens))
    assert value(tally, "gen_ai_client_token_usage_sum", **INPUT) == 100
    cost = tally.read().versions["1"].cost
    assert cost is not None and (cost.requests, cost.counted) == (3, 1)


def test_one_token_has_no_time_after_the_first() -> None:
    tally = Tally("demo", None)
    tally.client_answered(CHAMPION, answered(0.0, 4.0), reply(first=1.0, completion_tokens=1))
    assert "gen_ai_server_time_per_output_token_seconds_sum{" not in tally.page()
    assert tally.read().versions["1"].cost is None, "without a price"
    assert "cost_per_million_tokens{" not in tally.page()


def test_how_alike_both_sides_answer() -> None:
    tally = Tally("demo", None)
    assert tally.read().agreement is None
    for same in (True, True, False, None):
        tally.compared(pair(same))
    told = tally.read().agreement
    assert told is not None and (told.compared, told.same, told.failed) == (3, 2, 1)
    assert value(tally, "quantbench_gateway_pairs_compared_total", same="failed") == 1
    tally.compared(pair(False, candidate="3"))
    told = tally.read().agreement
    assert told is not None and (told.candidate, told.compared, told.same) == ("3", 1, 0), "of the versions of now"


def test_a_copy_that_fails_is_a_number() -> None:
    tally = Tally("demo", None)
    tally.copy_failed(CANDIDATE, 504)
    refused = answered(0.0, 1.0)._replace(status=500)
    tally.copy_answered(CANDIDATE, refused, reply(error="HTTP 500", prompt_tokens=None, completion_tokens=None))
    assert value(tally, "quantbench_gateway_requests_total", status="504", traffic="mirror") == 1
    assert value(tally, "quantbench_gateway_requests_total", status="500", traffic="mirror") == 1
    read = tally.read().versions["2"]
    assert read.mirrored is not None and (read.mirrored.requests, read.mirrored.failed) == (2, 2)
    assert "quantbench_gateway_busy_seconds_total{" not in tally.page(), "an error tells nothing of cost"


def test_of_many_versions_the_last_ones_are_kept() -> None:
    tally = Tally("demo", PRICE)
    for version in range(50):
        tally.client_answered(CHAMPION._replace(version="0"), answered(0.0, 1.0), reply(first=0.5))
        served = Served("candidate", str(version), "/v1/completions")
        tally.copy_answered(served, answered(0.0, 1.0), reply(first=0.5))
        tally.compared(pair(True, "0", str(version)))
    assert tally.read().versions.keys() == {"0", *map(str, range(50 - MOST_VERSIONS + 1, 50))}
    told: dict[tuple[str, str], set[str]] = {}
    for one in parse_metrics(tally.page()):
        for label in ("version", "candidate"):
            if label in one.labels:
                told.setdefault((one.name, label), set()).add(one.labels[label])
    assert {len(versions) for versions in told.values()} == {MOST_VERSIONS}
