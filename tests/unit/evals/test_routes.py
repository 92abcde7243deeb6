"""Routes from pairs and from samples: what is supported, what is refused and why, and what no route may rest on."""

from typing import Any

import numpy as np
import pytest

from configs.errors import RequestError, StageError
from evals.judging.routed_items import RoutedItems, items_of_pairs, items_of_samples
from evals.judging.routes import JudgedRoute, chosen_of, judge_routes
from evals.samples import Sample
from registry.contracts import CascadeRule, ClassesRule, ClassifierRule, Pair
from registry.contracts.route import RouteKind
from tests.shadow_pairs import answer, failed, pair, table_of

ALL: tuple[RouteKind, ...] = ("cascade", "classes", "classifier")
TOLD: tuple[RouteKind, ...] = ("cascade", "classes")
"""Without the one that scikit-learn, which takes seconds to import, is for."""


def simulated(items: int, *, tells: bool, easy: float = 0.6) -> RoutedItems:
    """A share of easy prompts that both get right; of the others the cheap one gets half wrong.

    Args:
        tells: Whether log-probabilities, classes and words tell the easy ones.
    """
    generator = np.random.default_rng(7)
    is_easy = generator.random(items) < easy
    shown = is_easy if tells else generator.random(items) < easy
    cheap = np.where(is_easy, 1.0, (generator.random(items) < 0.5).astype(float))
    unknown = np.full(items, np.nan)
    return RoutedItems(
        ids=[f"p{number}" for number in range(items)],
        quality="score",
        cheap=cheap,
        precise=np.ones(items),
        clusters=np.arange(items),
        classes=["easy" if one else "hard" for one in shown],
        texts=["two and two" if one else "the integral of the sine" for one in shown],
        mean_logprob=np.where(shown, -0.01, -1.5) * generator.uniform(0.9, 1.1, items),
        cheap_seconds=np.full(items, 0.1),
        precise_seconds=np.full(items, 0.4) if tells else unknown,
        left_out={},
    )


def judged(items: RoutedItems, kinds: tuple[RouteKind, ...] = TOLD, **changed: Any) -> list[JudgedRoute]:
    wanted: dict[str, Any] = {"loss": 0.01, "alpha": 0.05, "least_share": 0.1, "class_by": None} | changed
    found, missing = judge_routes(items, kinds, **wanted)
    assert not missing
    return found


@pytest.mark.slow
def test_what_the_records_tell_is_found_by_each_method() -> None:
    found = judged(simulated(4000, tells=True), ALL)
    assert [one.outcome.kind for one in found] == list(ALL)
    for one in found:
        outcome = one.outcome
        assert outcome.supported, outcome.reason
        assert outcome.share_cheap == pytest.approx(0.6, abs=0.05)
        assert (outcome.loss, outcome.flips_recovered) == (0, outcome.flips)
        assert outcome.gain_low > 0
        assert "better than a random choice" in outcome.reason
        assert outcome.curve.average_gap_recovered is not None and outcome.curve.average_gap_recovered > 0.75
    cascade, classes, classifier = (one.rule for one in found)
    assert isinstance(cascade, CascadeRule) and -1.4 < cascade.threshold < -0.01
    assert isinstance(classes, ClassesRule) and classes.cheap == ["easy"]
    assert isinstance(classifier, ClassifierRule) and 0.02 < classifier.threshold < 0.5
    assert chosen_of(found) in found


@pytest.mark.slow
def test_words_that_tell_nothing_teach_nothing() -> None:
    (one,) = judged(simulated(4000, tells=False), ("classifier",))
    assert not one.outcome.supported and one.outcome.gain_low <= 0


def test_an_escalation_pays_both_and_a_class_does_not() -> None:
    cascade, classes = (one.outcome.latency for one in judged(simulated(4000, tells=True)))
    assert cascade and classes
    assert (cascade.p95, cascade.p95_precise, cascade.p50) == (pytest.approx(0.5), 0.4, 0.1)
    assert classes.p95 == 0.4


def test_what_tells_nothing_is_refused_with_the_numbers() -> None:
    found = judged(simulated(4000, tells=False))
    assert not any(one.outcome.supported or one.rule for one in found)
    assert chosen_of(found) is None
    for one in found:
        assert "at most 1 point may be lost" in one.outcome.reason or "are wanted" in one.outcome.reason
        assert one.outcome.latency is None


def test_too_few_items_say_how_many_it_takes() -> None:
    (one,) = judged(simulated(200, tells=True), ("cascade",))
    assert "if nothing were lost it would take 500 items, here are 200" in one.outcome.reason
    # Each of two methods has half of alpha, so that more are needed.
    assert "would take 580 items" in judged(simulated(200, tells=True))[0].outcome.reason


def test_where_nothing_is_lost_no_route_is_needed() -> None:
    items = simulated(4000, tells=True, easy=1.0)
    (one,) = judged(items, ("cascade",))
    assert one.outcome.share_cheap == 1
    assert "no route is needed, promote the cheap one" in one.outcome.reason
    assert one.outcome.curve.average_gap_recovered is None, "there is no gap"


def test_a_share_that_is_not_worth_having() -> None:
    (one,) = judged(simulated(4000, tells=True), ("cascade",), least_share=0.9)
    assert not one.outcome.supported and one.rule is None
    assert "and 90 % are wanted; the next rule loses" in one.outcome.reason


def test_what_cannot_be_judged_says_why() -> None:
    items = simulated(400, tells=True)
    items = items.only(np.array(items.classes) == "easy")
    blank = RoutedItems(**{**vars(items), "texts": [""] * len(items), "mean_logprob": np.full(len(items), np.nan)})
    found, missing = judge_routes(blank, ALL, loss=0.01, alpha=0.05, least_share=0.1, class_by=None)
    assert not found
    assert "log-probabilities" in missing["cascade"]
    assert "one class" in missing["classes"]
    assert "keep_prompts" in missing["classifier"]
    _, missing = judge_routes(items, ("classifier",), loss=0.01, alpha=0.05, least_share=0.1, class_by=None)
    assert "fewer than 10 prompts" in missing["classifier"], "the cheap one is never worse"


def test_what_is_learned_is_judged_on_others() -> None:
    items = simulated(1000, tells=True)
    items = RoutedItems(**{**vars(items), "clusters": np.arange(1000) // 4})
    one, other = items.halves()
    assert (one ^ other).all() and 300 < one.sum() < 700
    clusters = items.clusters
    assert not set(clusters[one]) & set(clusters[other])
    again, _ = items.halves()
    assert (again == one).all()


def test_answers_without_log_probabilities_say_nothing_of_a_cascade() -> None:
    """They may not have been asked for: as answers of the precise one they would promise what was never seen."""
    items = simulated(4000, tells=True)
    items.mean_logprob[::2] = np.nan
    (one,) = judged(items, ("cascade",))
    assert (one.outcome.items, one.outcome.share_cheap) == (2000, pytest.approx(0.6, abs=0.03))


def pairs(**candidate: Any) -> list[Pair]:
    return [
        pair(number, answer(score=1.0), answer(score=number % 2, mean_logprob=-0.5, **candidate), prompt_class="a")
        for number in range(10)
    ]


def test_items_of_pairs() -> None:
    some = [*pairs(), pair(10, answer(score=1.0), failed()), pair(11, answer(), answer())]
    found = items_of_pairs(table_of(some[::-1]), "candidate")
    assert found.ids == [f"p{number}" for number in range(10)]
    assert (found.cheap.tolist(), set(found.precise)) == ([0, 1] * 5, {1.0})
    assert set(found.mean_logprob) == {-0.5}
    assert found.left_out == {"a side failed": 1, "no quality is known": 1}
    assert items_of_pairs(table_of(some), "champion").precise.tolist() == found.cheap.tolist()
    assert found.digest != items_of_pairs(table_of(some[1:]), "candidate").digest


def test_where_no_answer_is_known_it_is_whether_both_are_the_same() -> None:
    some = [pair(number, same=number < 3) for number in range(4)]
    found = items_of_pairs(table_of(some), "candidate")
    assert (found.quality, found.cheap.tolist(), found.precise.tolist()) == ("same", [1, 1, 1, 0], [1] * 4)
    with pytest.raises(RequestError, match="none says whether both answers are the same"):
        items_of_pairs(table_of([pair(0, failed(), failed(), same=None)]), "candidate")


@pytest.mark.parametrize("score", [1.5, -1.0, float("nan")])
def test_a_score_that_cannot_be(score: float) -> None:
    rows = table_of(pairs()).to_pylist()
    rows[3]["candidate"]["score"] = score
    import pyarrow

    with pytest.raises(StageError, match="no number from 0 to 1"):
        items_of_pairs(pyarrow.Table.from_pylist(rows), "candidate")


def sample(number: int, score: float, **changed: Any) -> Sample:
    fields: dict[str, Any] = {
        "task": "t",
        "category": "sums",
        "filter": "none",
        "metric": "acc",
        "doc_id": number,
        "doc_hash": f"d{number}",
        "prompt_hash": "p",
        "sent_hash": "s",
        "target_hash": "t",
        "score": score,
        "prompt": "1 + 1 =",
    }
    return Sample(**(fields | changed))


def test_items_of_samples() -> None:
    some = [(sample(number, 1.0), sample(number, 0.0, cluster="c")) for number in range(3)]
    some += [(sample(9, -5.0, windows=1), sample(9, -6.0, windows=1))]
    found = items_of_samples(some)
    assert (found.cheap.tolist(), found.precise.tolist(), found.left_out) == ([0] * 3, [1] * 3, {"no share": 1})
    assert (found.classes, found.texts, np.isnan(found.mean_logprob).all()) == (["sums"] * 3, ["1 + 1 ="] * 3, True)
    with pytest.raises(RequestError, match="no item of that run has a score"):
        items_of_samples(some[3:])
