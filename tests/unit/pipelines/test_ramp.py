"""The ramp's rules: what follows from aliases, from verdicts, from a person; and its rows in the ledger."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from configs.errors import RequestError
from evals.judging.verdict_config import VerdictConfig, verdict_digest
from pipelines.decision.ramp import Compared, following_aliases, following_verdict, following_word
from pipelines.recipe.gateway_config import GatewayConfig
from registry.contracts import RampRecord, ShadowVerdict
from serving_checks.gateway.split import SplitConfig

STEPS = [0.01, 0.05, 0.25, 1.0]
NOW = Compared("sha256:a", 1, "sha256:b", 1, was_champion=False)


def record(**changed: Any) -> RampRecord:
    told = {"champion": "sha256:a", "champion_row": 1, "candidate": "sha256:b", "candidate_row": 1, "steps": STEPS}
    return RampRecord.model_validate(told | {"step": 1, "state": "running", "trial": "t", "judge": "mine"} | changed)


def verdict(outcome: str, *, frozen: bool = True) -> ShadowVerdict:
    digest = verdict_digest(VerdictConfig())
    return ShadowVerdict(
        outcome=outcome,
        reason="so it is",
        alpha=0.05,
        config={},
        config_digest=digest,
        frozen_digest=digest,
        frozen=frozen,
        pairs=1200,
        pairs_digest="",
        looks=[],
        metrics=[],
    )


def test_a_promotion_begins_at_the_first_step_with_pairs_of_its_own() -> None:
    first, again = (following_aliases(None, NOW, STEPS, "mine") for _ in range(2))
    assert first is not None and again is not None
    assert (first.kind, first.record.share, first.record.judge) == ("begin", 0.01, "mine")
    assert first.why == "1 %, step 1 of 4: it was promoted to be tried"
    assert first.record.trial != again.record.trial, "pairs of one are none of another"
    for state in ("running", "held", "paused", "failed", "stopped", "passed"):
        # The same artifact promoted once more is an order too: it is another row.
        later = following_aliases(record(state=state), NOW._replace(candidate_row=3), STEPS, "mine")
        assert later is not None and (later.kind, later.record.step) == ("begin", 0)
        assert following_aliases(record(state=state), NOW, STEPS, "mine") is None


def test_another_champion_is_another_comparison_and_what_failed_stays_there() -> None:
    moved = NOW._replace(champion="sha256:c", champion_row=2)
    for state in ("running", "held", "paused", "passed"):
        later = following_aliases(record(state=state), moved, STEPS, "mine")
        assert later is not None and (later.kind, later.record.step, later.record.champion) == ("begin", 0, "sha256:c")
    for state in ("failed", "stopped"):
        assert following_aliases(record(state=state), moved, STEPS, "mine") is None


def test_who_was_champion_and_was_taken_back_answers_nobody() -> None:
    passed = record(state="passed", step=3)
    back = following_aliases(passed, NOW._replace(champion_row=3, was_champion=True), STEPS, "mine")
    assert back is not None
    assert (back.kind, back.record.share, back.record.champion_row) == ("stop", 0, 3)
    assert following_aliases(back.record, NOW._replace(champion_row=3), STEPS, "mine") is None


def test_a_pass_advances_to_pairs_of_its_own_and_ends_after_the_last_step() -> None:
    before = record()
    further = following_verdict(before, verdict("pass"), "mine")
    assert further is not None
    assert (further.kind, further.record.share, further.record.state) == ("advance", 0.25, "running")
    assert further.record.trial not in ("", before.trial)
    assert further.why == "5 %, step 2 of 4: so it is, over 1,200 pairs; on to 25 %, step 3 of 4"
    end = following_verdict(record(step=3), verdict("pass"), "mine")
    assert end is not None and (end.kind, end.record.state, end.record.share) == ("pass", "passed", 1)


@pytest.mark.parametrize(
    ("outcome", "state", "judge", "kind", "share"),
    [
        ("fail", "running", "mine", "fail", 0),
        ("fail", "running", "other", "fail", 0),
        ("fail", "held", "mine", "fail", 0),
        ("inconclusive", "running", "mine", "pause", 0.05),
        ("inconclusive", "running", "other", None, None),
        ("pass", "running", "other", None, None),
        ("pass", "held", "mine", None, None),
        ("continue", "running", "mine", None, None),
        *(("fail", state, "mine", None, None) for state in ("wanted", "paused", "failed", "stopped", "passed")),
    ],
)
def test_what_a_verdict_changes(outcome: str, state: str, judge: str, kind: str | None, share: float | None) -> None:
    """Any gateway stops what fails; only the one that the step belongs to lets it pass."""
    found = following_verdict(record(state=state, judge=judge), verdict(outcome), "mine")
    assert (found and (found.kind, found.record.share)) == (None if kind is None else (kind, share))
    assert following_verdict(record(state=state, judge=judge), verdict(outcome, frozen=False), "mine") is None


def test_what_somebody_may_ask_for() -> None:
    held = following_word(record(), "hold").record
    assert (held.state, held.share) == ("held", 0.05)
    on = following_word(held, "resume").record
    assert (on.state, on.trial, on.judge) == ("running", "t", "mine"), "with the pairs that it has"
    anew = following_word(record(state="paused"), "resume").record
    assert (anew.state, anew.step, anew.trial, anew.share) == ("wanted", 1, "", 0.05)
    stopped = following_word(record(), "stop").record
    assert (stopped.state, stopped.share) == ("stopped", 0)
    for state in ("running", "failed", "stopped", "passed"):
        assert following_word(record(state=state, step=3), "restart").record.step == 0
    for state, action in (("failed", "resume"), ("stopped", "stop"), ("passed", "hold"), ("running", "resume")):
        with pytest.raises(RequestError, match=f"the ramp is {state}") as caught:
            following_word(record(state=state), action)
        assert "restart" in caught.value.remedy


def test_what_was_asked_for_is_begun_by_a_gateway_and_its_steps() -> None:
    own = [0.1, 1.0]
    first = following_aliases(record(state="wanted", step=0, trial="", judge=""), NOW, own, "other")
    assert first is not None and (first.record.steps, first.record.judge, first.record.state) == (
        own,
        "other",
        "running",
    )
    amid = following_aliases(record(state="wanted", step=2, trial="", judge=""), NOW, own, "other")
    assert amid is not None and (amid.record.steps, amid.record.step, amid.record.judge) == (STEPS, 2, "other")
    assert amid.record.trial


def gateway(**changed: Any) -> GatewayConfig:
    return GatewayConfig.model_validate({"version": 1, "name": "live", "model": "demo"} | changed)


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ({"ramp": [0.1], "share": 0.2}, "give one of them"),
        ({"ramp": [0.1, 0.1]}, "a larger share than the one before"),
        ({"ramp": [0.5, 0.1]}, "a larger share than the one before"),
        ({"ramp": [0.0, 0.1]}, "greater than 0"),
        ({"ramp": [1, 5, 25, 100]}, "a number from 0 to 1 is wanted"),
    ],
)
def test_steps_that_are_none(split: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        SplitConfig.model_validate(split)


def test_a_ramp_that_could_never_pass_is_refused() -> None:
    ramp = {"ramp": STEPS}
    with pytest.raises(ValidationError, match=r"say by `verdict.metrics` what is to hold"):
        gateway(split=ramp)
    with pytest.raises(ValidationError, match="live traffic has no values of score, logprob"):
        gateway(split=ramp, verdict={"metrics": {"score": 0.1, "same": 0.5, "logprob": 0.1}})
    assert gateway(split=ramp, verdict={"metrics": {"same": 0.5}}).split.ramp == STEPS
    assert gateway(verdict={"metrics": {"score": 0.1}}).split.ramp == [], "without a ramp, nothing waits for it"


def test_the_record_is_the_same_when_it_is_read_again(tmp_path: Path) -> None:
    text = record(verdict=verdict("pass")).model_dump_json()
    assert RampRecord.model_validate(json.loads(text)) == record(verdict=verdict("pass"))
