"""Gates: verdicts from plain numbers, their reasons, and their level over many categories."""

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from registry.gates import CategoryVerdict, Evidence, GatePolicy, holm, judge, overall
from tests import simulations as simulate

POLICY = GatePolicy()


def evidence(category: str = "knowledge", **changes: Any) -> Evidence:
    fields: dict[str, Any] = {
        "category": category,
        "unit": "share",
        "items": 500,
        "margin": 0.02,
        "loss": 0.004,
        "loss_low": -0.008,
        "loss_high": 0.016,
        "p_pass": 0.004,
        "p_fail": 0.996,
        "headroom": 0.5,
    }
    return Evidence.model_validate(fields | changes)


def test_a_pass() -> None:
    (found,) = judge([evidence()], POLICY)
    assert found == CategoryVerdict(
        category="knowledge",
        verdict="pass",
        settled=True,
        reason="Scores 0.4 points lower (95 % interval of the loss −0.8 to 1.6) over 500 items; "
        "that is surely less than the 2.0 points allowed (p = 0.004).",
    )


def test_a_fail_of_perplexity() -> None:
    worse = evidence(
        unit="perplexity", loss=0.054, loss_low=0.048, loss_high=0.06, p_pass=1.0, p_fail=1e-9, headroom=None
    )
    (found,) = judge([worse], POLICY)
    assert found.verdict == "fail"
    assert found.reason == (
        "Perplexity is 5.4 % higher (95 % interval of the loss 4.8 % to 6.0 %) over 500 documents; "
        "that is surely more than the 2.0 % allowed (p < 0.001)."
    )


@pytest.mark.parametrize("p", [(1e-9, 1.0), (1.0, 1e-9), (0.5, 0.5)])
def test_cut_prompts_give_no_verdict_whatever_the_numbers_say(p: tuple[float, float]) -> None:
    (found,) = judge([evidence(truncated=3, p_pass=p[0], p_fail=p[1])], POLICY)
    assert (found.verdict, found.undecided, found.settled) == ("inconclusive", "truncated prompts", True)
    assert "over 500 items; 3 of them lost the beginning of the prompt" in found.reason
    assert "`truncation: allow`" in found.reason
    assert overall([found])[1] == ("undecided in knowledge (1 of 1 categories: prompts did not fit into the context)")


def test_a_gain() -> None:
    (found,) = judge([evidence(loss=-0.01, loss_low=-0.03, loss_high=0.0)], POLICY)
    assert found.reason.startswith("Scores 1.0 points higher (95 % interval of the loss −3.0 to 0.0)")


def test_undecided_says_what_would_decide() -> None:
    (found,) = judge([evidence(p_pass=0.1, p_fail=0.9)], POLICY)
    # z is 1.2816 and 1.6449 + 0.8416 is needed: 500 (2.4865 / 1.2816)^2
    assert (found.verdict, found.items_to_decide) == ("inconclusive", 1883)
    assert found.reason.endswith("within the 2.0 points allowed, 500 items cannot tell: about 1,883 would decide.")


def test_more_categories_ask_for_more_items() -> None:
    alone = judge([evidence(p_pass=0.1, p_fail=0.9)], POLICY)[0].items_to_decide
    one_of_two = judge([evidence(p_pass=0.1, p_fail=0.9), evidence("other")], POLICY)[0].items_to_decide
    assert alone is not None
    assert one_of_two is not None
    assert one_of_two > alone


def test_a_loss_at_the_margin_is_not_decided_by_more_items() -> None:
    (found,) = judge([evidence(p_pass=0.49, p_fail=0.51)], POLICY)
    assert (found.verdict, found.items_to_decide) == ("inconclusive", None)
    assert "too near the margin" in found.reason


def test_holm_over_categories() -> None:
    found = judge([evidence("a", p_pass=0.03), evidence("b", p_pass=0.03)], POLICY)
    assert [one.verdict for one in found] == ["inconclusive", "inconclusive"]
    found = judge([evidence("a", p_pass=0.02), evidence("b", p_pass=0.03)], POLICY)
    assert [one.verdict for one in found] == ["pass", "pass"]
    assert "Holm over 2 categories" in found[0].reason


def test_a_category_that_cannot_be_judged_loosens_nothing() -> None:
    broken = evidence("b", p_pass=1.0, p_fail=1.0, problem="it has no items")
    found = judge([evidence("a", p_pass=0.03), broken], POLICY)
    assert [one.verdict for one in found] == ["inconclusive", "inconclusive"]
    assert found[1].reason == "Cannot be judged: it has no items."


def headroom(value: float, reach: float = 0.02) -> dict[str, float]:
    """What the baseline has above guessing, with an interval around it."""
    return {"headroom": value, "headroom_low": value - reach, "headroom_high": value + reach}


@pytest.mark.parametrize(
    ("value", "reach", "says"),
    [
        (0.0, 0.02, "at or below guessing (95 % interval −2.0 to 2.0)"),
        (-0.1, 0.02, "at or below guessing"),
        (0.0004, 0.02, "at or below guessing"),
        (0.015, 0.02, "only 1.5 points above guessing (95 % interval −0.5 to 3.5)"),
        (0.12, 0.11, "scores 12.0 points above guessing (95 % interval 1.0 to 23.0)"),
    ],
)
def test_nothing_to_keep_is_no_pass(value: float, reach: float, says: str) -> None:
    (found,) = judge([evidence(chance=0.25, **headroom(value, reach))], POLICY)
    assert (found.verdict, found.undecided, found.items_to_decide) == ("inconclusive", "nothing to keep", None)
    assert says in found.reason


def test_next_to_no_score_is_nothing_to_keep_where_guessing_scores_nothing() -> None:
    (found,) = judge([evidence(**headroom(0.03, 0.025))], POLICY)
    assert (found.verdict, found.undecided) == ("inconclusive", "nothing to keep")
    assert found.reason.startswith(
        "The baseline has next to no score here, 3.0 points (95 % interval 0.5 to 5.5), so a loss of 2.0 points cannot"
    )


@pytest.mark.parametrize(("value", "settled"), [(0.015, True), (0.1, False)])
def test_a_loss_that_is_refuted_settles_what_has_nothing_to_keep_unless_it_may_have(
    value: float, settled: bool
) -> None:
    (found,) = judge([evidence(**headroom(value, 0.09), p_pass=0.001)], POLICY)
    assert (found.undecided, found.settled) == ("nothing to keep", settled)


def test_nothing_to_lose_can_fail_still() -> None:
    (found,) = judge([evidence(**headroom(0.0), p_pass=1.0, p_fail=0.001)], POLICY)
    assert (found.verdict, found.undecided) == ("fail", None)


@pytest.mark.parametrize("loss", [0.0, -0.0, 1e-12, -1e-12, 0.0004, -0.0004])
@pytest.mark.parametrize(
    ("unit", "same"), [("share", "Scores the same (95 %"), ("perplexity", "Perplexity is the same")]
)
def test_a_difference_that_would_be_written_as_zero_is_none(loss: float, unit: str, same: str) -> None:
    for room in (0.5, 0.0):
        (found,) = judge([evidence(unit=unit, loss=loss, loss_low=-0.0001, **headroom(room))], POLICY)
        assert same.lower() in found.reason.lower()
        assert "interval of the loss 0.0" in found.reason


def test_a_small_difference_is_said_where_the_margin_is_small() -> None:
    assert judge([evidence(loss=0.0004, margin=0.005)], POLICY)[0].reason.startswith("Scores 0.04 points lower")
    assert judge([evidence(loss=0.00004, margin=0.005)], POLICY)[0].reason.startswith("Scores the same")


def test_the_worst_category_is_the_artifacts_verdict() -> None:
    good, bad, open_one = (
        evidence("good"),
        evidence("bad", p_pass=1.0, p_fail=0.0001),
        evidence("open", p_pass=0.4, p_fail=0.6),
    )
    assert overall(judge([good, open_one, bad], POLICY)) == ("fail", "fails in bad (1 of 3 categories)")
    assert overall(judge([good, open_one], POLICY)) == (
        "inconclusive",
        "undecided in open (1 of 2 categories: too few items)",
    )
    assert overall(judge([good], POLICY))[0] == "pass"
    assert overall([])[0] == "inconclusive"


def test_an_undecided_artifact_says_which_categories_more_items_would_help() -> None:
    few, more = (evidence(name, p_pass=0.4, p_fail=0.6) for name in ("reasoning", "grammar"))
    guessing, broken = evidence("arithmetic", **headroom(0.0)), evidence("language", problem="it has no items")
    found = judge([few, guessing, broken, evidence("good", p_pass=1e-6), more], POLICY)
    assert overall(found) == (
        "inconclusive",
        "undecided in reasoning, grammar (2 of 5 categories: too few items); "
        "in arithmetic (1: the baseline has next to no score, so no loss can show); in language (1: cannot be judged)",
    )
    assert overall(judge([guessing], POLICY)) == (
        "inconclusive",
        "undecided in arithmetic (1 of 1 categories: the baseline has next to no score, so no loss can show)",
    )


@pytest.mark.parametrize("fields", [{"verdict": "inconclusive"}, {"verdict": "pass", "undecided": "too few items"}])
def test_a_verdict_says_why_it_is_undecided_if_it_is(fields: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="says why it is undecided"):
        CategoryVerdict.model_validate({"category": "a", "reason": ""} | fields)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_holm_is_statsmodels(seed: int) -> None:
    from statsmodels.stats.multitest import multipletests

    draw = np.random.default_rng(seed)
    # Ties and values whose multiples exceed 1 among them.
    p_values = [float(draw.choice([draw.random(), draw.random() / 100, 0.02])) for _ in range(draw.integers(1, 12))]
    assert holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]))


def test_margins() -> None:
    policy = GatePolicy(margins={"knowledge": 0.05})
    assert (policy.margin("knowledge"), policy.margin("other")) == (0.05, 0.02)


@pytest.mark.parametrize("bad", [{"alpha": 0.0}, {"alpha": 1.0}, {"power": 0.4}, {"default_margin": 0.0}])
def test_bad_policies(bad: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        GatePolicy.model_validate(bad)


@pytest.mark.parametrize(("margin", "discordance"), [(0.02, 0.02), (0.02, 0.1), (0.05, 0.1), (0.05, 0.3)])
@pytest.mark.parametrize("items", [50, 200, 1000])
def test_wrong_passes_at_the_margin(margin: float, discordance: float, items: int) -> None:
    # Below ten expected flips the counts are coarse: docs/statistics.md has the size of the excess.
    level = 0.05 if items * discordance >= 10 else 0.06
    assert not simulate.gate_error(margin, discordance, items, 20_000, items).exceeds(level)


@pytest.mark.parametrize("items", [50, 200])
@pytest.mark.parametrize("spread", [0.05, 0.2])
def test_wrong_passes_of_graded_scores(items: int, spread: float) -> None:
    assert not simulate.graded_gate_error(0.02, spread, items, 4000, items).exceeds(0.05)


def test_wrong_passes_over_a_family() -> None:
    with_holm, without = simulate.family_error(5, 0.05, 500, 4000, 1)
    assert not with_holm.exceeds(0.05)
    assert without.hits > 0.15, "what the correction is for"
