"""The verdict over pairs: three-valued, the same whenever one looks, and wrong no more often than it says."""

import dataclasses

import numpy as np
import pytest

from evals.judging.pair_observations import Observations, observations_of
from evals.judging.shadow_verdict import judge_pairs
from evals.judging.verdict_config import Limits, VerdictConfig, verdict_digest
from registry.contracts import MetricVerdict, Pair, ShadowVerdict
from tests.shadow_pairs import answer, failed, pair, simulated_table, table_of
from tests.simulations import Share

SCORE = VerdictConfig(metrics=Limits(score=0.02))


def observed(pairs: int, seed: int = 1, **truth: object) -> Observations:
    return observations_of(simulated_table(pairs, seed, **truth))  # type: ignore[arg-type]


def metric(verdict: ShadowVerdict, name: str, prompt_class: str = "") -> MetricVerdict:
    return next(one for one in verdict.metrics if (one.metric, one.prompt_class) == (name, prompt_class))


def test_a_candidate_that_is_as_good_passes() -> None:
    verdict = judge_pairs(observed(8000), VerdictConfig())
    assert verdict.outcome == "pass"
    assert verdict.unrecorded == ["logprob", "tool_calls"], "told, though left out"
    assert "all 9 metrics are surely within their limits" in verdict.reason


WORSE: dict[str, Pair] = {
    "errors": pair(0, answer(), failed()),
    "score": pair(0, answer(score=1), answer(score=0)),
    "same": pair(0, same=False),
    "agreement": pair(0, agreement=0.0),
    "logprob": pair(0, champion_logprob=-0.1, candidate_logprob=-1.1),
    "refusals": pair(0, answer(), answer(refused=True)),
    "tool_calls": pair(0, same_tool_calls=False),
    "length_stops": pair(0, answer(), answer(finish_reason="length")),
    "tokens": pair(0, answer(), answer(completion_tokens=80)),
    "latency": pair(0, answer(), answer(seconds=4.0)),
    "first_token": pair(0, answer(), answer(first_token_seconds=0.4)),
    "time_per_token": pair(0, answer(first_token_seconds=0.0), answer(first_token_seconds=0.0, seconds=4.0)),
    "preference": pair(0, preference=-1.0),
}
BETTER: dict[str, Pair] = {
    "same": pair(0),
    "agreement": pair(0, agreement=1.0),
    "tool_calls": pair(0, same_tool_calls=True),
    "preference": pair(0, preference=1.0),
}
"""Of the others: the two answers changed places."""


@pytest.mark.parametrize("name", WORSE)
def test_each_metric_knows_which_way_is_worse(name: str) -> None:
    limits = {name: 0.5, "errors" if name == "preference" else name: 0.5}
    config = VerdictConfig.model_validate({"metrics": limits})
    worse = WORSE[name]
    turned = worse.model_copy(
        update={
            "champion": worse.candidate,
            "candidate": worse.champion,
            "champion_logprob": worse.candidate_logprob,
            "candidate_logprob": worse.champion_logprob,
        }
    )
    for one, outcome in ((worse, "fail"), (BETTER.get(name, turned), "pass")):
        pairs = [one.model_copy(update={"id": f"p{number}", "number": number}) for number in range(40)]
        assert metric(judge_pairs(observations_of(table_of(pairs)), config), name).outcome == outcome


@pytest.mark.parametrize(
    ("truth", "name"),
    [
        ({"score_loss": 0.08}, "score"),
        ({"errors": (0.0, 0.05)}, "errors"),
        ({"slower": 1.4}, "latency"),
        ({"longer": 1.4}, "tokens"),
    ],
)
def test_a_candidate_that_is_worse_in_one_thing_fails(truth: dict[str, object], name: str) -> None:
    verdict = judge_pairs(observed(3000, **truth), VerdictConfig())
    assert verdict.outcome == "fail"
    found = metric(verdict, name)
    assert found.outcome == "fail" and f"surely not {'at least' if found.at_least else 'at most'}" in found.reason


@pytest.mark.parametrize("truth", [{}, {"score_loss": 0.08}, {"score_loss": 0.02, "flips": 0.1}])
def test_the_interval_excludes_the_limit_exactly_where_it_is_decided(truth: dict[str, object]) -> None:
    for seed in range(6):
        for one in judge_pairs(observed(1500, seed, **truth), VerdictConfig()).metrics:
            assert one.low is not None and one.high is not None and one.low <= one.high
            within, beyond = (
                (one.low >= one.limit, one.high <= one.limit)
                if one.at_least
                else (one.high <= one.limit, one.low >= one.limit)
            )
            assert (one.outcome == "pass", one.outcome == "fail") == (within, beyond), one.reason


def test_who_looks_often_finds_what_one_finds_who_looks_once() -> None:
    """A metric is decided by the same pair whenever one looks, so an outcome never depends on the looks."""
    everything = observed(2400)
    late = {one.metric: one.decided_after for one in judge_pairs(everything, VerdictConfig()).metrics}
    seen: dict[str, int | None] = {}
    for pairs in range(200, 2401, 200):
        for one in judge_pairs(everything.first(pairs), VerdictConfig()).metrics:
            before = seen.get(one.metric)
            assert before is None or one.decided_after == before, "what was decided stays decided"
            seen[one.metric] = one.decided_after
    assert seen == late


def test_the_sentence_has_the_numbers() -> None:
    pairs = [pair(place, answer(score=1), answer(score=place % 40 > 0)) for place in range(1200)]
    pairs += [pair(1200, answer(score=1), failed()), pair(1201, answer(), answer())]
    found = metric(judge_pairs(observations_of(table_of(pairs)), SCORE), "score")
    assert (found.pairs, found.failed_pairs, found.unrecorded_pairs) == (1200, 1, 1)
    assert (found.champion, found.candidate) == (1, 0.975)
    assert found.value == pytest.approx(-0.025)
    assert found.reason.startswith("−2.50 points (−")
    assert "over 1,200 pairs; 2 pairs left out (1 failed, 1 not recorded)" in found.reason
    assert "whether it is at least −2 points cannot be told: about" in found.reason
    assert found.pairs_to_decide


def test_a_ratio_is_told_as_one() -> None:
    pairs = [pair(place, answer(), answer(seconds=1.2 if place % 2 else 9.0)) for place in range(60)]
    config = VerdictConfig(metrics=Limits(latency=0.1))
    found = metric(judge_pairs(observations_of(table_of(pairs)), config), "latency")
    assert found.value == pytest.approx((1.2 * 4) ** 0.5 - 1), "9 counts as 4"
    assert found.clipped_pairs == 30
    assert (found.champion, found.limit) == (1.0, pytest.approx(0.1))
    assert found.low is not None and found.low > 0.1 and found.outcome == "fail"


def test_the_budget_ends_it() -> None:
    config = VerdictConfig(metrics=Limits(score=0.02), budget_pairs=1000)
    everything = observed(1500, score_loss=0.02)
    before, after = judge_pairs(everything.first(999), config), judge_pairs(everything, config)
    assert (before.outcome, after.outcome) == ("continue", "inconclusive")
    assert (after.pairs, after.pairs_beyond_budget) == (1000, 500)
    assert after.pairs_digest == judge_pairs(everything.first(1000), config).pairs_digest != before.pairs_digest


def test_pairs_behind_one_that_is_missing_wait_while_the_record_grows() -> None:
    """Whichever answers are late are not late by chance: judged without them, slow answers would look rare."""
    pairs = [pair(number) for number in range(10) if number != 6]
    growing = judge_pairs(observations_of(table_of(pairs)), VerdictConfig(), growing=True)
    assert (growing.pairs, growing.pairs_waiting) == (6, 3)
    done = judge_pairs(observations_of(table_of(pairs)), VerdictConfig())
    assert (done.pairs, done.pairs_waiting) == (9, 0)


def test_looks_are_counted() -> None:
    assert judge_pairs(observed(30), SCORE, looks=[10, 20]).looks == [10, 20, 30]


class TestNothingToJudge:
    def test_no_pairs(self) -> None:
        empty = observations_of(table_of([pair(0)]).slice(0, 0))
        assert judge_pairs(empty, VerdictConfig()).outcome == "inconclusive"
        assert judge_pairs(empty, VerdictConfig()).reason == "nothing was recorded that could be judged"
        assert judge_pairs(empty, VerdictConfig(), growing=True).outcome == "continue"
        assert judge_pairs(empty, SCORE, growing=True).outcome == "continue"
        assert judge_pairs(empty, SCORE).outcome == "inconclusive"

    def test_one_pair_decides_nothing(self) -> None:
        verdict = judge_pairs(observations_of(table_of([pair(0)])), VerdictConfig())
        assert verdict.outcome == "continue"
        assert all(one.low is not None and one.high is not None for one in verdict.metrics)

    def test_what_was_asked_for_and_never_recorded_is_inconclusive(self) -> None:
        config = VerdictConfig(metrics=Limits(errors=0.01, preference=0.1))
        verdict = judge_pairs(observed(3000, errors=(0, 0)), config)
        assert metric(verdict, "errors").outcome == "pass"
        assert metric(verdict, "preference").outcome == verdict.outcome == "inconclusive"
        assert metric(verdict, "preference").reason.startswith(
            "No pair says anything of it; 3,000 pairs left out (3,000 not"
        )

    def test_while_the_record_grows_it_may_still_come(self) -> None:
        config = VerdictConfig(metrics=Limits(errors=0.01, preference=0.1))
        assert judge_pairs(observed(3000, errors=(0, 0)), config, growing=True).outcome == "continue"

    def test_every_pair_failed(self) -> None:
        pairs = [pair(number, failed(), failed()) for number in range(600)]
        verdict = judge_pairs(observations_of(table_of(pairs)), VerdictConfig(metrics=Limits(errors=0.01, score=0.02)))
        assert metric(verdict, "errors").outcome == "pass", "neither fails more often than the other"
        assert verdict.outcome == "inconclusive"

    def test_an_opinion_is_no_evidence(self) -> None:
        config = VerdictConfig(metrics=Limits(score=0.02, preference=0.1), unrecorded="left out")
        pairs = [pair(number, preference=1.0) for number in range(300)]
        verdict = judge_pairs(observations_of(table_of(pairs)), config)
        assert metric(verdict, "preference").outcome == "pass"
        assert verdict.outcome == "inconclusive" and "says whether the answers are as good" in verdict.reason

    def test_speed_and_health_alone_are_a_pass_only_where_they_are_asked_for(self) -> None:
        """By default all is judged that was recorded: that must not be mistaken for a word on the answers."""
        everything = observations_of(table_of([pair(number) for number in range(600)]))
        verdict = judge_pairs(everything, VerdictConfig())
        assert {one.outcome for one in verdict.metrics} == {"pass"}
        assert verdict.outcome == "inconclusive" and "within all limits, but" in verdict.reason
        assert judge_pairs(everything, VerdictConfig(metrics=Limits(errors=0.01, latency=0.1))).outcome == "pass"

    def test_what_cannot_be_is_never_a_pass(self) -> None:
        pairs = [pair(number, answer(score=1), answer(score=1)) for number in range(2000)]
        pairs.append(pair(2000, answer(score=1), answer(score=1, seconds=float("nan"))))
        config = VerdictConfig(metrics=Limits(score=0.02, latency=0.1), unrecorded="left out")
        verdict = judge_pairs(observations_of(table_of(pairs)), config)
        assert metric(verdict, "score").outcome == "pass"
        assert metric(verdict, "latency").reason == (
            "Cannot be judged: pair p2000: the candidate's seconds is nan, which cannot be."
        )
        assert verdict.outcome == "inconclusive"


def test_a_mean_that_moved_is_neither_pass_nor_fail() -> None:
    good = [pair(number, answer(score=1), answer(score=1)) for number in range(600)]
    bad = [pair(number, answer(score=1), answer(score=0)) for number in range(600, 900)]
    verdict = judge_pairs(observations_of(table_of(good + bad)), SCORE)
    assert judge_pairs(observations_of(table_of(good)), SCORE).outcome == "pass"
    assert verdict.outcome == "inconclusive" and "so it moved meanwhile" in metric(verdict, "score").reason


class TestClasses:
    CONFIG = VerdictConfig(metrics=Limits(score=0.05), classes="each", least_class_pairs=150)

    def test_a_class_that_is_worse_fails_beside_others_that_are_not(self) -> None:
        pairs = [
            pair(
                number,
                answer(score=1),
                answer(score=number % 3 > 0 or number % 4 > 0),
                prompt_class="code" if number % 3 == 0 else "chat",
            )
            for number in range(3000)
        ]
        verdict = judge_pairs(observations_of(table_of(pairs)), self.CONFIG)
        assert (metric(verdict, "score", "code").outcome, metric(verdict, "score", "chat").outcome) == ("fail", "pass")
        assert verdict.outcome == "fail" and "score (class code)" in verdict.reason

    def test_small_classes_are_told_and_those_without_a_name_have_none(self) -> None:
        named = ["", *["rare"] * 10, *["often"] * 200]
        pairs = [pair(number, answer(score=1), answer(score=1), prompt_class=name) for number, name in enumerate(named)]
        verdict = judge_pairs(observations_of(table_of(pairs)), self.CONFIG)
        assert [one.prompt_class for one in verdict.metrics] == ["", "often"]
        assert (verdict.small_classes, verdict.rare_in_classes) == (1, {})

    def test_what_is_rare_in_a_class_is_told(self) -> None:
        pairs = [
            pair(number, answer(score=1 if number < 20 else None), answer(score=1), prompt_class="code")
            for number in range(200)
        ]
        verdict = judge_pairs(observations_of(table_of(pairs)), self.CONFIG)
        assert [one.prompt_class for one in verdict.metrics] == [""]
        assert (verdict.small_classes, verdict.rare_in_classes) == (0, {"score (class code)": 20})

    def test_a_class_for_every_pair_takes_no_time(self) -> None:
        """As where the class is taken from a field that names users."""
        pairs = 50_000
        everything = observed(pairs)
        everything = dataclasses.replace(
            everything, class_names=[f"u{one}" for one in range(pairs)], class_places=np.arange(pairs)
        )
        verdict = judge_pairs(everything, VerdictConfig(classes="each", budget_pairs=pairs))
        assert verdict.small_classes == pairs and not verdict.rare_in_classes

    def test_levels_to_fail_add_up_to_alpha_whatever_the_classes(self) -> None:
        pairs = [
            pair(number, answer(score=1), answer(score=1), prompt_class=f"c{number % 40}") for number in range(8000)
        ]
        config = VerdictConfig(metrics=Limits(score=0.05, errors=0.01), classes="each", least_class_pairs=10)
        verdict = judge_pairs(observations_of(table_of(pairs)), config)
        assert len(verdict.metrics) == 2 * 41
        to_fail = [one.high_level if one.at_least else one.low_level for one in verdict.metrics]
        assert sum(to_fail) == pytest.approx(0.05 * (0.5 + 0.5 * (1 - 1 / 41)))
        assert {one.low_level if one.at_least else one.high_level for one in verdict.metrics} == {0.05}


class TestFrozen:
    def test_only_the_very_config_that_was_stored_is(self) -> None:
        everything, other = observed(50), VerdictConfig(metrics=Limits(score=0.021))
        assert judge_pairs(everything, SCORE, frozen_digest=verdict_digest(SCORE)).frozen
        assert not judge_pairs(everything, other, frozen_digest=verdict_digest(SCORE)).frozen
        assert not judge_pairs(everything, SCORE).frozen


def test_the_estimate_of_more_pairs_is_of_the_right_size() -> None:
    """Where nothing ever differs it is known: 500 pairs decide a margin of one point at 5 %."""
    pairs = [pair(number, answer(score=1), answer(score=1)) for number in range(100)]
    found = metric(judge_pairs(observations_of(table_of(pairs)), VerdictConfig(metrics=Limits(score=0.01))), "score")
    assert found.pairs_to_decide == 410
    at_the_limit = [pair(number, answer(score=1), answer(score=number % 50 > 0)) for number in range(1000)]
    found = metric(judge_pairs(observations_of(table_of(at_the_limit)), SCORE), "score")
    assert found.pairs_to_decide is None and "too near the limit" in found.reason


@pytest.mark.slow
def test_all_metrics_at_their_limits_pass_no_more_often_than_alpha() -> None:
    """Scores lose exactly what is allowed; all else is better than it has to be. One wrong metric is enough."""
    draws = 300
    passes = [
        judge_pairs(observed(4000, seed, score_loss=0.02, flips=0.06), VerdictConfig(alpha=0.1)).outcome == "pass"
        for seed in range(draws)
    ]
    assert not Share(float(np.mean(passes)), draws).exceeds(0.1)


@pytest.mark.slow
def test_several_metrics_and_classes_at_their_limits_fail_no_more_often_than_alpha() -> None:
    draws = 300
    config = VerdictConfig(alpha=0.1, metrics=Limits(score=0.02, latency=0.2, tokens=0.2), classes="each")
    truth = {"score_loss": 0.02, "flips": 0.06, "slower": 1.2, "longer": 1.2, "classes": ("a", "b", "c")}
    fails = [judge_pairs(observed(3000, seed, **truth), config).outcome == "fail" for seed in range(draws)]
    assert not Share(float(np.mean(fails)), draws).exceeds(0.1)
