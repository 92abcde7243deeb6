"""The adaptive loop with an artifact that is a formula: what is asked when, and what is decided."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from configs.errors import StageError
from evals.judging.adaptive import Adaptive, Asked, course_of, evaluate_adaptively
from evals.judging.pairing import joint_looks, pair
from evals.judging.retention import compare, policy_of
from evals.samples import SAMPLES_FILE, Sample, category_score, write_samples
from evals.statistics.sequential import LookPlan
from evals.suites.suite import Category, Suite
from registry.contracts import CategoryLook, EvaluationRecord, RetentionRecord
from tests import simulations as simulate
from tests.records import CONDITIONS

PLAN = LookPlan()
LANGUAGE = {"metric": "word_perplexity", "unit": "perplexity", "higher_is_better": False}

Score = Callable[[int], float]


def suite_of(**categories: dict[str, object]) -> Suite:
    """One task a category, called as it is."""
    fields = {"description": "", "metric": "acc", "margin": 0.05}
    made = [
        Category.model_validate(fields | {"name": name, "tasks": [name]} | changes)
        for name, changes in categories.items()
    ]
    return Suite(name="s", version="1", description="", categories=made)


def sample(category: Category, item: int, score: float) -> Sample:
    return Sample(
        task=category.name,
        category=category.name,
        filter="none",
        metric=category.metric,
        doc_id=item,
        doc_hash=f"d{item}",
        prompt_hash=f"p{item}",
        sent_hash=f"s{item}",
        target_hash="t",
        score=score,
        weight=20.0 if category.unit == "perplexity" else 1.0,
    )


def record_of(suite: Suite, samples: Sequence[Sample], looks: Sequence[CategoryLook] = ()) -> EvaluationRecord:
    scores = [
        category_score(category, [one for one in samples if one.category == category.name])
        for category in suite.categories
    ]
    return EvaluationRecord(
        model_digest="sha256:m",
        conditions=CONDITIONS,
        suite=suite.name,
        suite_version=suite.version,
        suite_digest="sha256:s",
        tasks=[],
        categories=scores,
        samples_file=SAMPLES_FILE,
        requests=0,
        truncated_prompts=0,
        looks=list(looks),
    )


class Bench:
    """A baseline that was asked everything, and an artifact that can be asked."""

    def __init__(self, folder: Path, suite: Suite, items: Mapping[str, int], **baseline: Score) -> None:
        self.folder, self.suite = folder, suite
        self.categories = {category.name: category for category in suite.categories}
        samples = [
            sample(self.categories[name], item, baseline.get(name, right)(item))
            for name, n in items.items()
            for item in range(n)
        ]
        (folder / "baseline").mkdir()
        self.samples_file = folder / "baseline" / SAMPLES_FILE
        write_samples(self.samples_file, samples)
        self.baseline = record_of(suite, samples)
        self.asked: list[dict[str, list[int]]] = []

    def run(self, plan: LookPlan = PLAN, **scores: Score) -> Asked:
        def ask(items: Mapping[str, Sequence[int]]) -> list[Sample]:
            self.asked.append({task: list(documents) for task, documents in items.items()})
            return [
                sample(self.categories[task], one, scores[task](one)) for task, ones in items.items() for one in ones
            ]

        adaptive = Adaptive(plan=plan, baseline=self.baseline, baseline_samples=self.samples_file)
        return evaluate_adaptively(adaptive, self.suite, ask)

    def stored(self, name: str, asked: Asked) -> tuple[EvaluationRecord, Path]:
        path = self.folder / f"{name}.parquet"
        write_samples(path, asked.samples)
        return record_of(self.suite, asked.samples, asked.looks), path

    def compared(self, asked: Asked) -> RetentionRecord:
        return compare(self.baseline, self.samples_file, *self.stored("artifact", asked), policy_of(self.suite))


def right(item: int) -> float:
    return 1.0


def wrong_every(n: int) -> Score:
    return lambda item: float(item % n != 0)


def verdicts(record: RetentionRecord) -> dict[str, str]:
    return {kept.category: kept.verdict for kept in record.categories}


def test_a_clear_loss_is_decided_at_the_first_look(tmp_path: Path) -> None:
    bench = Bench(tmp_path, suite_of(facts={}), {"facts": 400})
    asked = bench.run(facts=wrong_every(2))
    (look,) = asked.looks
    assert (look.number, look.items, look.items_available, look.fractions) == (1, 100, 400, PLAN.fractions)
    assert [len(items["facts"]) for items in bench.asked] == [100] == [len(asked.samples)]
    (kept,) = bench.compared(asked).categories
    assert (kept.verdict, kept.items, kept.look) == ("fail", 100, look)
    assert "Decided at look 1 of 3, 100 of 400 items" in kept.verdict_reason


def test_what_is_never_decided_is_asked_to_the_end_and_each_item_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path, suite_of(facts={}), {"facts": 400})
    asked = bench.run(facts=wrong_every(20))
    assert [len(items["facts"]) for items in bench.asked] == [100, 100, 200]
    assert sorted(one.doc_id for one in asked.samples) == list(range(400))
    (kept,) = bench.compared(asked).categories
    assert (kept.verdict, kept.look and kept.look.number) == ("inconclusive", 3)
    assert kept.verdict_reason.endswith("Undecided at look 3 of 3, all 400 items.")


def test_a_decided_category_is_left_alone_while_another_goes_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path, suite_of(clear={}, close={}), {"clear": 400, "close": 400})
    asked = bench.run(clear=wrong_every(2), close=wrong_every(20))
    assert [sorted(items) for items in bench.asked] == [["clear", "close"], ["close"], ["close"]]
    assert [(look.category, look.number, look.items) for look in asked.looks] == [("clear", 1, 100), ("close", 3, 400)]
    record = bench.compared(asked)
    assert verdicts(record) == {"clear": "fail", "close": "inconclusive"}
    assert [kept.items for kept in record.categories] == [100, 400]


@pytest.mark.slow
@pytest.mark.parametrize("spending", ["obrien_fleming", "pocock"])
def test_the_comparison_gives_the_verdicts_that_ended_the_loop(tmp_path: Path, spending: str) -> None:
    """Whatever was decided on the way; a category goes on exactly as long as it is undecided."""
    names = ["a", "b", "c", "d"]
    bench = Bench(tmp_path, suite_of(**{name: {} for name in names}), dict.fromkeys(names, 600))
    plan = LookPlan.model_validate({"fractions": (0.2, 0.4, 0.6, 0.8, 1.0), "spending": spending})
    asked = bench.run(plan, a=right, b=wrong_every(7), c=wrong_every(20), d=wrong_every(60))
    found = verdicts(bench.compared(asked))
    assert found == {"a": "pass", "b": "fail", "c": "inconclusive", "d": "pass"}
    for look in asked.looks:
        assert (look.number == 5 and not look.stopped_early) == (look.category == "c")


def test_the_baseline_s_score_is_that_of_the_paired_items(tmp_path: Path) -> None:
    bench = Bench(tmp_path, suite_of(facts={}), {"facts": 400}, facts=wrong_every(3))
    asked = bench.run(facts=lambda item: 0.0)
    (kept,) = bench.compared(asked).categories
    mine = [wrong_every(3)(one.doc_id) for one in asked.samples]
    assert kept.baseline == pytest.approx(sum(mine) / len(mine))
    assert kept.baseline != pytest.approx(bench.baseline.categories[0].value)


def test_a_single_item_has_one_look(tmp_path: Path) -> None:
    bench = Bench(tmp_path, suite_of(one={}, three={}), {"one": 1, "three": 3})
    asked = bench.run(one=right, three=right)
    assert [(look.number, look.fractions) for look in asked.looks] == [(1, (1.0,)), (3, (1 / 3, 2 / 3, 1.0))]
    assert bench.asked == [{"one": [0], "three": [asked.samples[1].doc_id]}, *bench.asked[1:]]
    assert verdicts(bench.compared(asked)) == {"one": "inconclusive", "three": "inconclusive"}


def test_equal_scores_pass_when_enough_items_are_equal(tmp_path: Path) -> None:
    bench = Bench(tmp_path, suite_of(facts={}), {"facts": 2000})
    asked = bench.run(facts=right)
    (kept,) = bench.compared(asked).categories
    assert (kept.verdict, asked.looks[0].stopped_early, kept.difference) == ("pass", True, 0.0)


def test_a_baseline_at_chance_is_not_asked_on_for_a_pass_that_cannot_be(tmp_path: Path) -> None:
    """Its hypothesis is refuted like the others', and Holm's correction counts on refuted ones not to change."""
    bench = Bench(tmp_path, suite_of(guess={"chance": 0.5}), {"guess": 4000}, guess=wrong_every(2))
    asked = bench.run(guess=wrong_every(2))
    (kept,) = bench.compared(asked).categories
    assert (kept.verdict, kept.items) == ("inconclusive", 1000)
    assert "guessing" in kept.verdict_reason


@pytest.mark.parametrize("bad", [math.nan, -900.0])
def test_a_perplexity_that_is_no_number_costs_its_category_only(tmp_path: Path, bad: float) -> None:
    suite, items = suite_of(facts={}, language=LANGUAGE), {"facts": 400, "language": 40}
    bench = Bench(tmp_path, suite, items, language=lambda item: -3.0)
    asked = bench.run(facts=wrong_every(2), language=lambda item: bad if item == 7 else -3.01)
    assert [look.items for look in asked.looks] == [100, 40]
    found = bench.compared(asked)
    assert verdicts(found) == {"facts": "fail", "language": "inconclusive"}
    assert "language, item 7: the artifact's" in found.categories[1].verdict_reason


def test_documents_of_a_perplexity_are_items(tmp_path: Path) -> None:
    bench = Bench(tmp_path, suite_of(language=LANGUAGE), {"language": 80}, language=lambda item: -3.0 - item % 7 / 10)
    asked = bench.run(language=lambda item: -3.4 - item % 7 / 10 - item % 3 / 50)
    (kept,) = bench.compared(asked).categories
    assert (kept.verdict, kept.items) == ("fail", 20)


def test_a_server_that_dies_at_the_second_look(tmp_path: Path) -> None:
    """The second try asks the same items in the same order, so that what was answered is found again."""
    suite, items = suite_of(facts={}, close={}), {"facts": 400, "close": 400}
    bench = Bench(tmp_path, suite, items)
    answers: dict[int, float] = {}
    sent: list[int] = []
    alive = [150]

    def dying(item: int) -> float:
        if item not in answers:
            if len(sent) == alive[0]:
                raise StageError("the server stopped answering", remedy="again")
            sent.append(item)
            answers[item] = wrong_every(20)(item)
        return answers[item]

    with pytest.raises(StageError, match="stopped answering"):
        bench.run(facts=wrong_every(2), close=dying)
    assert len(bench.asked) == 2
    first_try, bench.asked, alive[0] = bench.asked, [], 400
    asked = bench.run(facts=wrong_every(2), close=dying)
    assert bench.asked[:2] == first_try
    assert sorted(sent) == list(range(400))
    assert [look.number for look in asked.looks] == [1, 3]


def test_other_prompts_end_the_evaluation(tmp_path: Path) -> None:
    bench = Bench(tmp_path, suite_of(facts={}), {"facts": 40})
    adaptive = Adaptive(plan=PLAN, baseline=bench.baseline, baseline_samples=bench.samples_file)
    category = bench.suite.categories[0]

    def ask(items: Mapping[str, Sequence[int]]) -> list[Sample]:
        return [sample(category, one, 1.0).model_copy(update={"prompt_hash": "other"}) for one in items["facts"]]

    with pytest.raises(StageError, match="asked different prompts"):
        evaluate_adaptively(adaptive, bench.suite, ask)


def test_a_baseline_without_a_category(tmp_path: Path) -> None:
    bench = Bench(tmp_path, suite_of(facts={}), {"facts": 40})
    bench.suite = suite_of(facts={}, more={})
    with pytest.raises(StageError, match="no items of category more"):
        bench.run(facts=right)


def test_an_item_that_got_lost_is_not_taken_for_one_that_was_not_asked(tmp_path: Path) -> None:
    bench = Bench(tmp_path, suite_of(facts={}), {"facts": 400})
    asked = bench.run(facts=wrong_every(2))
    with pytest.raises(StageError, match="category facts was asked 100 items up to look 1, and 99 pair"):
        bench.compared(asked._replace(samples=asked.samples[1:]))


def test_only_the_side_that_stopped_may_lack_items() -> None:
    (category,) = suite_of(facts={}).categories
    few, all_of_them = ([sample(category, item, 1.0) for item in range(n)] for n in (3, 6))
    assert len(pair(all_of_them, few, artifact_stopped=["facts"])) == 3
    assert len(pair(few, all_of_them, baseline_stopped=["facts"])) == 3
    for stopped in ({}, {"baseline_stopped": ["facts"]}, {"artifact_stopped": ["other"]}):
        with pytest.raises(StageError, match="only one has facts, item 3"):
            pair(all_of_them, few, **stopped)


@pytest.mark.parametrize("plan", [PLAN, LookPlan(fractions=(0.4, 1.0))])
def test_two_adaptive_artifacts_compare_on_what_both_answered(tmp_path: Path, plan: LookPlan) -> None:
    bench = Bench(tmp_path, suite_of(facts={}), {"facts": 400})
    one, one_path = bench.stored("one", bench.run(facts=wrong_every(2)))
    other, other_path = bench.stored("other", bench.run(plan, facts=wrong_every(20)))
    (kept,) = compare(one, one_path, other, other_path, policy_of(bench.suite)).categories
    assert kept.look is not None
    assert (kept.items, kept.look.items, kept.look.number) == (100, 100, 1)
    assert set(kept.look.fractions) == {*PLAN.fractions, *plan.fractions}
    assert "look 1 of " in kept.verdict_reason
    assert joint_looks(other, one)["facts"].items == 100
    with pytest.raises(StageError, match="suite s changed"):
        compare(one.model_copy(update={"suite_digest": "x"}), one_path, other, other_path)


def task_samples(task: str, items: int, document: str = "") -> list[Sample]:
    (category,) = suite_of(facts={}).categories
    return [
        sample(category, item, 1.0).model_copy(update={"task": task, "doc_hash": f"{document or task}{item}"})
        for item in range(items)
    ]


def test_every_look_holds_its_share_of_every_task() -> None:
    course = course_of([*task_samples("small", 40), *task_samples("large", 400)], PLAN, 1)
    assert len({item for (item,) in course.units}) == 440
    for fraction, count in zip(PLAN.fractions, course.counts, strict=True):
        assert count == fraction * 440
        assert sum(task == "small" for ((task, _),) in course.units[:count]) == pytest.approx(40 * fraction, abs=1)


def test_the_order_is_random_and_depends_on_the_seed_alone() -> None:
    samples = task_samples("t", 200)
    one = course_of(samples, PLAN, 1)
    assert one.units == course_of(samples[::-1], LookPlan(fractions=(0.1, 1.0)), 1).units
    assert one.units != course_of(samples, PLAN, 2).units
    assert sum(item for ((_, item),) in one.units[:100]) / 100 == pytest.approx(99.5, abs=15)
    for declared, count in enumerate(one.counts):
        assert len(one.new_items(declared)) == count - (one.counts[declared - 1] if declared else 0)


def test_rows_of_one_document_are_asked_together() -> None:
    """They count as one in the evidence: half of one would change it at the next look."""
    samples = [*task_samples("a", 40, "shared"), *task_samples("b", 40, "shared"), *task_samples("c", 40)]
    course = course_of(samples, PLAN, 1)
    look = course.look("facts", PLAN, 0)
    asked = course.new_items(0)
    assert {item for task, item in asked if task == "a"} == {item for task, item in asked if task == "b"}
    assert (len(course.units), look.items, look.items_available) == (80, len(asked), 120)
    assert look.fractions == PLAN.fractions
    assert sum(task == "c" for task, _ in asked) == 10


def test_translations_of_one_question_are_asked_together() -> None:
    samples = [
        one.model_copy(update={"cluster": f"facts:{one.doc_id}"})
        for one in [*task_samples("de", 40), *task_samples("fr", 40)]
    ]
    course = course_of(samples, PLAN, 1)
    assert {tuple(task for task, _ in unit) for unit in course.units} == {("de", "fr")}
    assert course.look("facts", PLAN, 1).items == 40


@pytest.mark.slow
def test_the_level_holds_over_all_categories_and_looks(tmp_path: Path) -> None:
    """Three categories exactly at their margin; without the corrections more than a quarter of the draws would err."""
    found = simulate.adaptive([0.05, 0.05, 0.05], margin=0.05, items=300, draws=60, seed=5, folder=tmp_path)
    assert not found.any_wrong_pass.exceeds(0.05)
    assert not found.any_wrong_fail.exceeds(0.05)
    assert found.asked > 0.9


@pytest.mark.slow
def test_clear_cases_are_decided_with_fewer_items(tmp_path: Path) -> None:
    found = simulate.adaptive([0.15, 0.15, 0.15], margin=0.05, items=400, draws=8, seed=5, folder=tmp_path)
    assert found.decided.hits > 0.9
    assert found.asked < 0.7
