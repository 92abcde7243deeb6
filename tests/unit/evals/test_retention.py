"""Retention: formulas against a second implementation, pairing against items that do not pair."""

import math
from pathlib import Path

import numpy as np
import pytest

from configs.errors import StageError
from evals.judging.pairing import check_conditions, differing_conditions, pair
from evals.judging.retention import category_retention, compare, policy_of, retention_record
from evals.samples import Sample, category_score, write_samples
from evals.statistics.paired import paired_means
from evals.suites.suite import Category, Suite
from registry.contracts import (
    AskingConditions,
    CategoryLook,
    CategoryRetention,
    CategoryScore,
    EvaluationRecord,
    RetentionRecord,
)
from registry.gates import GatePolicy
from tests.records import CONDITIONS

SHARE = Category(name="knowledge", description="", tasks=["t"], metric="acc", chance=0.25)
PERPLEXITY = Category(
    name="language", description="", tasks=["t"], metric="word_perplexity", unit="perplexity", higher_is_better=False
)


def sample(item: int, score: float, category: Category = SHARE, weight: float = 1.0, **changes: object) -> Sample:
    fields: dict[str, object] = {
        "task": "t",
        "category": category.name,
        "doc_id": item,
        "doc_hash": f"d{item}",
        "prompt_hash": "p",
        "sent_hash": "s",
        "target_hash": "t",
        "filter": "none",
        "metric": category.metric,
        "score": score,
        "weight": weight,
    }
    return Sample.model_validate(fields | changes)


def shares(seed: int, items: int, baseline: float, agreement: float) -> tuple[list[Sample], list[Sample]]:
    draw = np.random.default_rng(seed)
    one = draw.random(items) < baseline
    other = np.where(draw.random(items) < agreement, one, draw.random(items) < 0.5)
    return [sample(i, float(x)) for i, x in enumerate(one)], [sample(i, float(x)) for i, x in enumerate(other)]


def kept_of(one: list[Sample], other: list[Sample], category: Category = SHARE) -> CategoryRetention:
    return category_retention(category_score(category, one), pair(one, other)).numbers


def evaluation(scores: list[CategoryScore], suite_digest: str = "sha256:s") -> EvaluationRecord:
    return EvaluationRecord(
        model_digest="sha256:m",
        conditions=CONDITIONS,
        suite="s",
        suite_version="1",
        suite_digest=suite_digest,
        tasks=[],
        categories=scores,
        samples_file="",
        requests=0,
        truncated_prompts=0,
    )


def look_at(number: int, items: int, available: int | None = None) -> CategoryLook:
    fractions = (0.25, 0.5, 1.0)
    available = available or round(items / fractions[number - 1])
    fields = {"category": SHARE.name, "number": number, "fractions": fractions, "spending": "obrien_fleming"}
    return CategoryLook.model_validate(fields | {"items": items, "items_available": available})


def judged(
    one: list[Sample],
    other: list[Sample],
    category: Category = SHARE,
    margin: float = 0.02,
    look: CategoryLook | None = None,
) -> RetentionRecord:
    policy = GatePolicy(default_margin=margin)
    record = evaluation([category_score(category, one)])
    retained = [category_retention(record.categories[0], pair(one, other), policy)]
    return retention_record(record, record, retained, policy, {look.category: look} if look else {})


def test_share_by_hand() -> None:
    one = [sample(item, score) for item, score in enumerate([1, 1, 1, 0])]
    other = [sample(item, score) for item, score in enumerate([1, 0, 0, 1])]
    kept = kept_of(one, other, SHARE)
    assert (kept.baseline, kept.artifact, kept.items) == (0.75, 0.5, 4)
    assert kept.retention == pytest.approx(2 / 3)
    assert kept.chance_corrected_retention == pytest.approx(0.5)
    assert (kept.flips_to_wrong, kept.flips_to_right) == (2, 1)
    # differences -1, -1, 0, +1: mean -1/4, s^2 = 11/12
    difference = np.array([0, -1, -1, 1])
    assert kept.difference_stderr == pytest.approx(difference.std(ddof=1) / 2)


def test_standard_errors_agree_with_a_bootstrap() -> None:
    one, other = shares(seed=3, items=400, baseline=0.7, agreement=0.85)
    kept = kept_of(one, other, SHARE)
    scores = np.array([[a.score, b.score] for a, b in zip(one, other, strict=True)])
    draw = np.random.default_rng(0)
    means = np.array([scores[draw.integers(0, 400, 400)].mean(axis=0) for _ in range(4000)])
    assert kept.retention_stderr == pytest.approx((means[:, 1] / means[:, 0]).std(), rel=0.06)
    assert kept.difference_stderr == pytest.approx((means[:, 1] - means[:, 0]).std(), rel=0.06)


def test_perplexity_agrees_with_a_bootstrap_over_documents() -> None:
    draw = np.random.default_rng(1)
    words = draw.integers(15, 40, 120).astype(float)
    base = draw.normal(-3.5, 0.4, 120)
    worse = base - 0.1 + draw.normal(0, 0.05, 120)
    one = [sample(i, s, PERPLEXITY, w) for i, (s, w) in enumerate(zip(base, words, strict=True))]
    other = [sample(i, s, PERPLEXITY, w) for i, (s, w) in enumerate(zip(worse, words, strict=True))]
    score = category_score(PERPLEXITY, one)
    kept = kept_of(one, other, PERPLEXITY)
    assert score.value == pytest.approx(math.exp(-(base @ words) / words.sum()))
    assert kept.artifact == pytest.approx(category_score(PERPLEXITY, other).value)
    assert kept.baseline is not None
    assert kept.artifact is not None
    assert kept.retention == pytest.approx(kept.baseline / kept.artifact)
    draws = [draw.integers(0, 120, 120) for _ in range(4000)]
    boot = np.array([[math.exp(-(s[d] @ words[d]) / words[d].sum()) for s in (base, worse)] for d in draws])
    assert score.stderr == pytest.approx(boot[:, 0].std(), rel=0.08)
    assert kept.retention_stderr == pytest.approx((boot[:, 0] / boot[:, 1]).std(), rel=0.08)


@pytest.mark.slow
def test_coverage_of_the_retention_interval() -> None:
    """95 % intervals hold the true ratio in 95 % of draws, within the Monte Carlo error of 600 draws."""
    truth, hits = (0.9 * 0.7 + 0.1 * 0.5) / 0.7, 0
    for seed in range(600):
        one, other = shares(seed, items=200, baseline=0.7, agreement=0.9)
        means = paired_means(np.array([s.score for s in one]), np.array([s.score for s in other]), np.ones(len(one)))
        ratio, stderr = means.ratio()
        assert ratio is not None and stderr is not None
        hits += abs(ratio - truth) < 1.96 * stderr
    assert hits / 600 == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / 600))


def test_equal_models_keep_all_and_have_no_spread() -> None:
    one, _ = shares(seed=5, items=100, baseline=0.6, agreement=1.0)
    kept = kept_of(one, one, SHARE)
    assert (kept.retention, kept.difference, kept.flips_to_wrong, kept.flips_to_right) == (1.0, 0.0, 0, 0)
    assert kept.retention_stderr == pytest.approx(0.0, abs=1e-12)


def test_a_baseline_that_scores_nothing_has_nothing_to_lose() -> None:
    one, other = [sample(i, 0.0) for i in range(4)], [sample(i, 1.0) for i in range(4)]
    found = judged(one, other)
    (kept,) = found.categories
    assert (kept.retention, kept.retention_stderr, kept.retention_low, kept.retention_high) == (None,) * 4
    assert (kept.chance_corrected_retention, kept.undecided, kept.nothing_to_keep) == (None, "nothing to keep", True)
    assert found.verdict_reason.endswith("the baseline has next to no score, so no loss can show)")


@pytest.mark.parametrize(("right", "chance"), [(1, 0.0), (2, None), (11, 0.25)])
def test_a_ruined_baseline_has_nothing_to_keep_whatever_guessing_scores(right: int, chance: float | None) -> None:
    """One right answer of 33 became two: no share of 2.00 was kept."""
    category = SHARE.model_copy(update={"chance": chance})
    one = [sample(i, float(i < right), category) for i in range(33)]
    other = [sample(i, float(i < 2 * right), category) for i in range(33)]
    found = judged(one, other, category)
    (kept,) = found.categories
    ratios = [value for name, value in kept.model_dump().items() if "retention" in name]
    assert (ratios, kept.nothing_to_keep, kept.verdict) == ([None] * 7, True, "inconclusive")
    assert kept.difference == pytest.approx(right / 33)
    says = "points above guessing" if chance else "has next to no score here"
    assert says in kept.verdict_reason


def test_a_small_score_that_is_sure_can_be_kept() -> None:
    one = [sample(i, float(i < 120), SHARE.model_copy(update={"chance": 0.0})) for i in range(2000)]
    kept = judged(one, one, SHARE.model_copy(update={"chance": 0.0})).categories[0]
    assert (kept.retention, kept.nothing_to_keep, kept.verdict) == (1.0, False, "pass")


def test_a_sure_loss_of_next_to_nothing_fails_without_a_retention() -> None:
    one, other = [sample(i, float(i < 260)) for i in range(1000)], [sample(i, float(i < 60)) for i in range(1000)]
    kept = judged(one, other).categories[0]
    assert (kept.verdict, kept.retention, kept.nothing_to_keep) == ("fail", None, True)


def test_a_single_item_has_no_standard_error() -> None:
    category = SHARE.model_copy(update={"chance": 0.0})
    kept = kept_of([sample(0, 1.0, category)], [sample(0, 0.0, category)], category)
    assert (kept.retention, kept.retention_stderr, kept.difference_stderr) == (0.0, None, None)


@pytest.mark.parametrize("change", [{"prompt_hash": "other"}, {"target_hash": "other"}])
def test_other_prompts_do_not_pair(change: dict[str, object]) -> None:
    with pytest.raises(StageError, match=r"t, item 1: .* different prompts"):
        pair([sample(0, 1), sample(1, 1)], [sample(0, 1), sample(1, 1, **change)])


def test_the_same_prompt_in_other_tokens_does_not_pair() -> None:
    with pytest.raises(StageError, match=r"t, item 1: .* the same prompt in different tokens"):
        pair([sample(0, 1), sample(1, 1)], [sample(0, 1), sample(1, 1, sent_hash="other")])


def test_what_was_not_asked_alike_does_not_compare() -> None:
    other = AskingConditions(max_model_len=16, tokenizer="sha256:u", engine={"engine": "vllm", "vllm": "0.33.0"})
    with pytest.raises(StageError) as caught:
        check_conditions(CONDITIONS, other)
    for told in ("context length 512 and 16", "tokenizer t and u", "vllm 0.32.0 and 0.33.0"):
        assert told in caught.value.what
    assert "chat template" not in caught.value.what
    check_conditions(CONDITIONS, CONDITIONS.model_copy())
    assert differing_conditions(CONDITIONS, CONDITIONS.model_copy(update={"engine": {"engine": "vllm"}})) == [
        "vllm 0.32.0 and none"
    ]


@pytest.mark.parametrize("truncation", ["no verdict", "allow"])
def test_a_category_with_cut_prompts_has_no_verdict_unless_it_is_allowed(truncation: str) -> None:
    category = SHARE.model_copy(update={"truncation": truncation})
    policy = policy_of(Suite(name="s", version="1", description="", categories=[category]))
    items = [sample(i, 1.0, truncated=i < 3) for i in range(1000)]
    record = evaluation([category_score(category, items)])
    found = retention_record(
        record, record, [category_retention(record.categories[0], pair(items, items), policy)], policy
    )
    (kept,) = found.categories
    assert (record.categories[0].truncated, kept.truncated, kept.retention) == (3, 3, 1.0)
    allowed = truncation == "allow"
    assert kept.verdict == found.verdict == ("pass" if allowed else "inconclusive")
    assert kept.undecided == (None if allowed else "truncated prompts")


def test_missing_items_do_not_pair() -> None:
    with pytest.raises(StageError, match="2 of the baseline, 1 of the artifact"):
        pair([sample(0, 1), sample(1, 1)], [sample(0, 1)])


def test_items_pair_by_document_and_not_by_place() -> None:
    pairs = pair([sample(0, 1), sample(1, 0)], [sample(1, 0), sample(0, 1)])
    assert [(a.doc_id, b.doc_id) for a, b in pairs] == [(0, 0), (1, 1)]


def test_items_that_stand_twice_do_not_pair() -> None:
    with pytest.raises(StageError, match="t, item 1 stands twice in the samples of the artifact"):
        pair([sample(0, 1), sample(1, 1)], [sample(0, 1), sample(1, 1), sample(1, 0)])


def test_intervals_hold_the_estimates() -> None:
    one, other = shares(seed=3, items=400, baseline=0.7, agreement=0.85)
    kept = kept_of(one, other).model_dump()
    for name in ("difference", "retention", "chance_corrected_retention"):
        assert kept[f"{name}_low"] < kept[name] < kept[f"{name}_high"], name
    assert kept["p_value"] is not None
    assert kept["baseline_stderr"] == pytest.approx(math.sqrt(kept["baseline"] * (1 - kept["baseline"]) / 399))


def test_a_clear_loss_fails_and_none_passes() -> None:
    one = [sample(i, 1.0) for i in range(1000)]
    worse = [sample(i, float(i >= 100)) for i in range(1000)]
    failed, passed = judged(one, worse), judged(one, one)
    assert (failed.verdict, failed.categories[0].verdict) == ("fail", "fail")
    assert failed.categories[0].verdict_reason.startswith("Scores 10.0 points lower (95 % interval of the loss 8.")
    assert "surely more than the 2.0 points allowed" in failed.categories[0].verdict_reason
    assert (passed.verdict, passed.categories[0].verdict) == ("pass", "pass")


def test_few_items_are_inconclusive_and_say_how_many_decide() -> None:
    one = [sample(i, 1.0) for i in range(100)]
    kept = judged(one, one).categories[0]
    assert kept.verdict == "inconclusive"
    assert kept.items_to_decide is not None
    # With that many equal items more than 80 % power is reached: no flips at all is the luckiest draw.
    more = [sample(i, 1.0) for i in range(kept.items_to_decide)]
    assert judged(more, more).verdict == "pass"


def test_perplexity_verdicts() -> None:
    draw = np.random.default_rng(1)
    base = draw.normal(-3.5, 0.4, 120)
    one = [sample(i, s, PERPLEXITY, 20.0) for i, s in enumerate(base)]
    for shift, verdict in ((-0.005, "pass"), (-0.05, "fail"), (-0.0198, "inconclusive")):
        other = [sample(i, s + shift + draw.normal(0, 0.01), PERPLEXITY, 20.0) for i, s in enumerate(base)]
        kept = judged(one, other, PERPLEXITY).categories[0]
        assert kept.verdict == verdict, kept.verdict_reason
        assert kept.verdict_reason.startswith("Perplexity is")
        assert kept.retention_low is not None
        assert kept.retention_high is not None
        assert kept.retention_low < math.exp(shift) + 0.002
        assert kept.retention_high > math.exp(shift) - 0.002


@pytest.mark.parametrize("documents", [1, 3, 62])
@pytest.mark.parametrize("looked", [False, True])
def test_documents_that_are_equal_to_the_bit_pass(documents: int, looked: bool) -> None:
    items = [sample(i, -3.5 - i / 7, PERPLEXITY, 20.0 + i) for i in range(documents)]
    look = CategoryLook(
        category="language",
        number=1,
        fractions=(0.5, 1.0),
        spending="obrien_fleming",
        items=documents,
        items_available=2 * documents,
    )
    found = judged(items, items, PERPLEXITY, look=look if looked else None)
    (kept,) = found.categories
    assert (found.verdict, kept.verdict) == ("pass", "pass")
    assert (kept.retention, kept.retention_low, kept.retention_high, kept.difference) == (1.0, 1.0, 1.0, 0.0)
    assert kept.p_value == 1.0
    moved = [one.model_copy(update={"score": one.score + 1e-9}) for one in items]
    assert judged(items, moved, PERPLEXITY).verdict == "inconclusive", "all moved alike, however little"


def test_the_ratio_of_few_documents_has_the_t_interval() -> None:
    """Three documents: 4.3 standard errors each way."""
    changes = (-0.01, -0.02, -0.03)
    one = [sample(i, -3.0, PERPLEXITY, 20.0) for i in range(3)]
    other = [sample(i, -3.0 + change, PERPLEXITY, 20.0) for i, change in enumerate(changes)]
    kept = kept_of(one, other, PERPLEXITY)
    reach = 4.302653 * 0.01 / math.sqrt(3)
    assert kept.retention_low == pytest.approx(math.exp(-0.02 - reach))
    assert kept.retention_high == pytest.approx(math.exp(-0.02 + reach))
    assert kept.p_value == pytest.approx(0.0742, abs=1e-4)


def test_many_looks_ask_for_more() -> None:
    one = [sample(i, 1.0) for i in range(160)]
    assert judged(one, one).verdict == "pass"
    early, last = (judged(one, one, look=look_at(number, 160)).categories[0] for number in (1, 3))
    assert (early.verdict, early.look) == ("inconclusive", look_at(1, 160))
    assert early.verdict_reason.endswith("Undecided at look 1 of 3, 160 of 640 items: both scores are of these.")
    assert last.verdict_reason.endswith("look 3 of 3, all 160 items.")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_costs_its_category_only(bad: float) -> None:
    one = [sample(i, -3.0 - i / 100, PERPLEXITY, 20.0) for i in range(20)]
    other = [*one[:19], sample(19, bad, PERPLEXITY, 20.0)]
    fine = [sample(i, 1.0) for i in range(500)]
    record = evaluation([category_score(PERPLEXITY, one), category_score(SHARE, fine)])
    both = [
        category_retention(record.categories[0], pair(one, other)),
        category_retention(record.categories[1], pair(fine, fine)),
    ]
    found = retention_record(record, record, both, GatePolicy())
    assert [kept.verdict for kept in found.categories] == ["inconclusive", "pass"]
    assert found.verdict == "inconclusive"
    assert "task t, item 19: the artifact's score is" in found.categories[0].verdict_reason
    assert RetentionRecord.model_validate_json(found.model_dump_json()) == found


def test_a_perplexity_too_large_for_a_number() -> None:
    one = [sample(i, -3.0 - i / 100, PERPLEXITY) for i in range(5)]
    kept = judged(one, [sample(i, -900.0, PERPLEXITY) for i in range(5)], PERPLEXITY).categories[0]
    assert (kept.verdict, kept.artifact) == ("inconclusive", None)
    assert "too large for a number" in kept.verdict_reason


def test_a_share_outside_of_its_range() -> None:
    kept = judged([sample(0, 1.0)], [sample(0, 37.5)]).categories[0]
    assert kept.verdict == "inconclusive"
    assert "t, item 0: the artifact's score is 37.5, outside of 0 to 1" in kept.verdict_reason


def test_an_empty_category() -> None:
    score = category_score(SHARE, [sample(0, 1.0)])
    record = evaluation([score])
    found = retention_record(record, record, [category_retention(score, [])], GatePolicy())
    assert (found.categories[0].verdict, found.categories[0].retention) == ("inconclusive", None)
    assert found.categories[0].verdict_reason == "Cannot be judged: it has no items."


@pytest.mark.parametrize("documents", [1, 30])
def test_documents_without_spread(documents: int) -> None:
    one = [sample(i, -3.0 - i / 100, PERPLEXITY, 20.0) for i in range(documents)]
    other = [sample(i, -3.05 - i / 100, PERPLEXITY, 20.0) for i in range(documents)]
    kept = judged(one, other, PERPLEXITY).categories[0]
    assert (kept.verdict, kept.difference_low) == ("inconclusive", None)
    assert kept.retention == pytest.approx(math.exp(-0.05))
    assert "no spread to judge by" in kept.verdict_reason


def test_equal_scores_have_an_interval_of_some_width() -> None:
    one = [sample(i, 1.0) for i in range(50)]
    kept = judged(one, one).categories[0]
    assert kept.difference_low == pytest.approx(-0.0713, abs=1e-3)
    assert kept.difference_high == pytest.approx(0.0713, abs=1e-3)
    assert (kept.p_value, kept.verdict) == (1.0, "inconclusive")


def test_one_item() -> None:
    category = SHARE.model_copy(update={"chance": 0.0})
    kept = judged([sample(0, 1.0, category)], [sample(0, 0.0, category)], category).categories[0]
    assert (kept.verdict, kept.difference_stderr, kept.detectable_difference) == ("inconclusive", None, None)
    assert "1 item cannot tell" in kept.verdict_reason
    # With four choices, one right answer is as good as none.
    kept = judged([sample(0, 1.0)], [sample(0, 0.0)]).categories[0]
    assert kept.verdict_reason.startswith("The baseline scores 75.0 points above guessing (95 % interval −4.3 to 75.0)")


@pytest.mark.parametrize(
    ("right", "says"), [(0, "at or below guessing"), (250, "at or below"), (260, "only 1.0 points above")]
)
def test_a_baseline_near_chance_cannot_pass(right: int, says: str) -> None:
    one = [sample(i, float(i < right)) for i in range(1000)]
    kept = judged(one, one).categories[0]
    assert kept.verdict == "inconclusive"
    assert says in kept.verdict_reason
    assert kept.verdict_reason.endswith(
        "cannot show: scores the same (95 % interval of the loss −0.4 to 0.4) over 1,000 items."
    )
    assert kept.nothing_to_keep
    assert (kept.retention, kept.chance_corrected_retention, kept.chance_corrected_retention_low) == (None,) * 3


def test_graded_scores_are_bootstrapped() -> None:
    draw = np.random.default_rng(2)
    base = draw.random(300)
    one = [sample(i, s) for i, s in enumerate(base)]
    other = [sample(i, s) for i, s in enumerate(np.clip(base - 0.1 + draw.normal(0, 0.05, 300), 0, 1))]
    kept = judged(one, other).categories[0]
    assert kept.verdict == "fail"
    assert kept.p_value == pytest.approx(1 / 10_001)


def test_rows_of_one_document_count_as_one() -> None:
    """A task that holds each document twice says no more than one that holds it once."""
    one, other = shares(seed=3, items=100, baseline=0.7, agreement=0.8)
    twice = [[s.model_copy(update={"task": task}) for task in ("a", "b") for s in side] for side in (one, other)]
    once, doubled = kept_of(one, other), kept_of(*twice)
    assert (once.items, doubled.items) == (100, 200)
    assert doubled.difference_low == pytest.approx(once.difference_low)
    assert doubled.difference_stderr == pytest.approx(once.difference_stderr)


def test_the_suite_says_the_margins() -> None:
    suite = Suite(
        name="s",
        version="1",
        description="",
        alpha=0.1,
        categories=[SHARE.model_copy(update={"margin": 0.07, "tasks": ["other"]}), PERPLEXITY],
    )
    policy = policy_of(suite)
    assert (policy.alpha, policy.margin("knowledge"), policy.margin("language")) == (0.1, 0.07, 0.02)


def test_compare_reads_pairs_and_judges(tmp_path: Path) -> None:
    one, other = shares(seed=3, items=400, baseline=0.7, agreement=0.85)
    write_samples(tmp_path / "one.parquet", one)
    write_samples(tmp_path / "other.parquet", other)
    record = evaluation([category_score(SHARE, one)])
    found = compare(
        record, tmp_path / "one.parquet", record, tmp_path / "other.parquet", GatePolicy(default_margin=0.3)
    )
    assert (found.verdict, found.categories[0].margin, found.alpha) == ("pass", 0.3, 0.05)
    with pytest.raises(StageError, match="suite s changed"):
        compare(record, tmp_path / "one.parquet", evaluation([], "sha256:x"), tmp_path / "other.parquet")
