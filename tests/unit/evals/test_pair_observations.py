"""Pairs as columns: the same numbers as in the records, unknown ones unknown, and damage refused."""

import numpy as np
import pyarrow as pa
import pytest

from configs.errors import StageError
from evals.judging.pair_metrics import in_unit, series_of, threshold
from evals.judging.pair_observations import observations_of
from evals.judging.verdict_config import VerdictConfig
from registry.contracts import Pair
from tests.shadow_pairs import answer, failed, pair, table_of

CONFIG = VerdictConfig()


def values(name: str, *pairs: Pair) -> list[float | None]:
    """A metric's value of each pair; None where it says nothing of it."""
    found = series_of(name, observations_of(table_of(list(pairs))), CONFIG)
    assert not found.fault
    return [float(value) if used else None for value, used in zip(found.values, found.used, strict=True)]


@pytest.mark.parametrize(
    ("name", "one", "expected"),
    [
        ("errors", pair(0, answer(), failed()), 1),
        ("errors", pair(0, failed(), failed()), 0),
        ("score", pair(0, answer(score=1), answer(score=0.25)), -0.75),
        ("score", pair(0, answer(score=1), answer()), None),
        ("same", pair(0, same=False), 0),
        ("same", pair(0, same=None), None),
        ("agreement", pair(0, agreement=0.9), 0.9),
        ("logprob", pair(0, champion_logprob=-0.5, candidate_logprob=-0.75), -0.25),
        ("logprob", pair(0, champion_logprob=-0.5, candidate_logprob=-9.0), -1),
        ("refusals", pair(0, answer(), answer(refused=True)), 1),
        ("tool_calls", pair(0, same_tool_calls=True), 1),
        ("length_stops", pair(0, answer(finish_reason="length"), answer()), -1),
        ("tokens", pair(0, answer(), answer(completion_tokens=30)), np.log(1.5)),
        ("tokens", pair(0, answer(completion_tokens=0), answer(completion_tokens=0)), 0),
        ("tokens", pair(0, answer(completion_tokens=0), answer(completion_tokens=1)), np.log(4)),
        ("tokens", pair(0, answer(), answer(completion_tokens=None)), None),
        ("latency", pair(0, answer(), answer(seconds=100.0)), np.log(4)),
        ("first_token", pair(0, answer(), answer(first_token_seconds=0.05)), -np.log(2)),
        ("first_token", pair(0, answer(first_token_seconds=None), answer()), None),
        ("time_per_token", pair(0, answer(), answer(seconds=1.9)), np.log(2)),
        ("time_per_token", pair(0, answer(), answer(completion_tokens=1)), None),
        ("preference", pair(0, preference=-1.0), -1),
    ],
)
def test_what_a_pair_says(name: str, one: Pair, expected: float | None) -> None:
    assert values(name, one) == [None if expected is None else pytest.approx(expected)]


@pytest.mark.parametrize("name", [name for name in CONFIG.metrics.given if name != "errors"])
def test_a_pair_in_which_a_side_failed_counts_in_errors_only(name: str) -> None:
    broken = pair(
        1,
        answer(score=1.0),
        answer(score=0.0, error="cut off", refused=True, finish_reason="length"),
        agreement=0.1,
        champion_logprob=-1.0,
        candidate_logprob=-9.0,
        same_tool_calls=False,
    )
    assert values(name, broken) == [None]
    assert values("errors", broken) == [1]


def test_what_is_clipped_is_counted() -> None:
    pairs = [pair(place, answer(), answer(seconds=took)) for place, took in enumerate((3.9, 4.1, 0.2))]
    found = series_of("latency", observations_of(table_of(pairs)), CONFIG)
    assert found.clipped.tolist() == [False, True, True]


def test_limits_and_values_have_one_unit() -> None:
    observed = observations_of(table_of([pair(0)]))
    signs = {"errors": 1, "score": -1, "same": 1, "logprob": -1, "latency": 1, "preference": -1}
    for name, sign in signs.items():
        metric = series_of(name, observed, CONFIG).metric
        assert in_unit(metric, threshold(metric, 0.3)) == pytest.approx(sign * 0.3)


@pytest.mark.parametrize(
    ("name", "one", "said"),
    [
        ("latency", pair(0, answer(seconds=float("nan"))), "the champion's seconds is nan"),
        ("latency", pair(0, answer(), answer(seconds=float("inf"))), "the candidate's seconds is inf"),
        ("latency", pair(0, answer(), answer(seconds=-1.0)), "the candidate's seconds is -1"),
        ("tokens", pair(0, answer(completion_tokens=-5)), "the champion's completion_tokens is -5"),
        ("time_per_token", pair(0, answer(first_token_seconds=2.0)), "seconds_per_token is -0.05"),
        ("logprob", pair(0, champion_logprob=-1.0, candidate_logprob=float("-inf")), "logprob is -inf"),
    ],
)
def test_what_cannot_be_is_named(name: str, one: Pair, said: str) -> None:
    found = series_of(name, observations_of(table_of([pair(1), one])), CONFIG)
    assert found.fault.startswith("pair p0: ") and said in found.fault


@pytest.mark.parametrize("value", [1.5, -0.1, float("nan")])
@pytest.mark.parametrize("name", ["score", "agreement"])
def test_a_share_beyond_its_range_is_named(name: str, value: float) -> None:
    """The records refuse it; a file may hold it all the same."""
    rows = table_of([pair(0, answer(score=1.0), answer(score=1.0), agreement=1.0)]).to_pylist()
    rows[0]["candidate"]["score"], rows[0]["agreement"] = value, value
    found = series_of(name, observations_of(pa.Table.from_pylist(rows)), CONFIG)
    assert f"{name} is {value:g}, which cannot be" in found.fault


def test_a_value_that_cannot_be_in_a_failed_pair_is_no_matter() -> None:
    assert values("latency", pair(0, answer(), answer(seconds=float("nan"), error="cut off"))) == [None]


def test_pairs_are_ordered_by_number_and_not_by_the_clock() -> None:
    shuffled = [pair(2, at=pair(0).at), pair(0), pair(1, at=pair(9).at)]
    assert observations_of(table_of(shuffled)).ids == ["p0", "p1", "p2"]


def test_classes_of_the_first_pairs_are_those_that_came_first() -> None:
    pairs = [pair(number, prompt_class=name) for number, name in enumerate(("b", "a", "b", "c"))]
    observed = observations_of(table_of(pairs))
    assert observed.class_names == ["b", "a", "c"]
    assert observed.first(3).class_names == ["b", "a"]
    assert observed.first(0).class_names == []


def test_an_empty_table_has_no_observations() -> None:
    assert observations_of(table_of([pair(0)]).slice(0, 0)).ids == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda rows: rows[1].update(id="p0"), "pair p0 stands 2 times"),
        (lambda rows: rows[1].update(number=None), "no `number`"),
        (lambda rows: rows[1].update(champion=None), "no `champion`"),
        (lambda rows: rows[1]["candidate"].update(error=None), "not known whether it failed"),
        (lambda rows: [row.pop("preference") for row in rows], "preference"),
        (lambda rows: [row["candidate"].pop("seconds") for row in rows], "seconds"),
        (lambda rows: [row["candidate"].update(seconds="fast") for row in rows], "fast"),
    ],
    ids=["id twice", "no number", "no side", "no error", "no column", "no field", "text for a number"],
)
def test_a_table_that_holds_no_pairs_is_refused(damage: object, said: str) -> None:
    rows = table_of([pair(0), pair(1)]).to_pylist()
    damage(rows)  # type: ignore[operator]
    with pytest.raises(StageError, match=said):
        observations_of(pa.Table.from_pylist(rows))
