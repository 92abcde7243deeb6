"""Translations of one question: what they say together, and how often their intervals hold the truth."""

import numpy as np
import pytest
from pydantic import ValidationError

from configs.errors import StageError
from evals.asking.lm_eval_runner import _kind
from evals.judging.clusters import clustered
from evals.judging.pairing import pair
from evals.judging.retention import category_retention
from evals.samples import Sample, category_score
from evals.statistics.score import Z95, difference_interval, paired_cells
from evals.suites.suite import Category
from registry.gates import GatePolicy, judge
from tests.unit.evals.test_retention import SHARE, kept_of, sample, shares


def translated(languages: int, of_questions: tuple[list[Sample], list[Sample]]) -> tuple[list[Sample], list[Sample]]:
    """Each question asked in `languages` languages and answered alike in all of them."""

    def rows(samples: list[Sample]) -> list[Sample]:
        return [
            one.model_copy(
                update={"task": f"t_{language}", "doc_hash": f"{one.doc_id} in {language}", "cluster": f"q{one.doc_id}"}
            )
            for language in range(languages)
            for one in samples
        ]

    return rows(of_questions[0]), rows(of_questions[1])


def test_translations_of_a_question_count_as_one() -> None:
    """Eleven languages in which all is answered alike say no more than one language does."""
    questions = shares(seed=5, items=120, baseline=0.6, agreement=0.8)
    rows = translated(11, questions)
    one, eleven = kept_of(*questions), kept_of(*rows)
    assert eleven.items == 11 * one.items
    assert (eleven.flips_to_wrong, eleven.flips_to_right) == (11 * one.flips_to_wrong, 11 * one.flips_to_right)
    for name in (
        "difference",
        "difference_low",
        "difference_high",
        "retention_low",
        "retention_high",
        "artifact_stderr",
    ):
        assert getattr(eleven, name) == pytest.approx(getattr(one, name)), name
    score, single = (category_score(SHARE, samples) for samples in (rows[0], questions[0]))
    assert score.stderr == pytest.approx(single.stderr)


def test_a_cluster_s_hash_is_its_name_where_it_has_none() -> None:
    """Samples of one document stay together whether or not others are in clusters."""
    one = [sample(item, item % 2, doc_hash=f"d{item // 3}") for item in range(12)]
    other = [sample(item, 1, doc_hash=f"d{item // 3}") for item in range(12)]
    named = [[two.model_copy(update={"cluster": two.doc_hash}) for two in samples] for samples in (one, other)]
    assert kept_of(one, other) == kept_of(named[0], named[1])


def test_flips_of_translations_are_not_that_many_witnesses() -> None:
    """Three questions lost, in eleven languages each: McNemar's test on 33 flips would be sure of a loss."""
    one = [sample(item, 1.0) for item in range(60)]
    rows = translated(11, (one, [sample(item, float(item > 2)) for item in range(60)]))
    kept = kept_of(*rows)
    assert kept.flips_to_wrong == 33
    assert kept.p_value is not None and kept.p_value > 0.02


@pytest.mark.slow
def test_intervals_of_translations_hold_the_truth() -> None:
    """Questions in four languages that are mostly lost together: a nominal 95 % interval, and one of single rows."""
    draw, draws, questions, languages = np.random.default_rng(11), 60, 100, 4
    held, held_by_rows = 0, 0
    for _ in range(draws):
        hard = draw.random(questions) < 0.2
        scores = np.where(hard[:, None], draw.random((questions, languages)) < 0.2, True)
        rows = [
            (one, one.model_copy(update={"score": float(score)}))
            for question in range(questions)
            for score in scores[question]
            for one in [Sample.model_construct(task="t", cluster=str(question), score=1.0, weight=1.0)]
        ]
        by_cluster = clustered(rows)
        by_row = np.ones(scores.size), scores.ravel().astype(float), np.ones(scores.size)
        low, high = difference_interval(paired_cells(*by_cluster[:3]), Z95)
        held += low <= -0.16 <= high
        low, high = difference_interval(paired_cells(*by_row), Z95)
        held_by_rows += low <= -0.16 <= high
    # Binomial standard error of a 95 % share: 2.8 points.
    assert held / draws >= 0.88
    assert held_by_rows / draws < 0.8


def of_kinds(kinds: int, samples: list[Sample], names: str = "k{}") -> list[Sample]:
    """The samples, dealt out to so many kinds in turn."""
    return [one.model_copy(update={"kind": names.format(one.doc_id % kinds)}) for one in samples]


def strata(**declared: object) -> Category:
    return Category.model_validate(SHARE.model_dump() | declared)


SAMPLED = strata(kind="template", kinds_are="sample")
FIXED = strata(kind="template", kinds_are="fixed")


def test_kinds_that_are_a_sample_count_as_one_each() -> None:
    """Whole templates are lost: of thirty templates six, and not of three hundred items sixty."""
    one = of_kinds(30, [sample(item, 1.0) for item in range(300)])
    other = [item.model_copy(update={"score": float(item.doc_id % 30 > 5)}) for item in one]
    sampled, fixed, plain = kept_of(one, other, SAMPLED), kept_of(one, other, FIXED), kept_of(one, other)
    widths = [(kept.difference_high or 0) - (kept.difference_low or 0) for kept in (sampled, plain, fixed)]
    assert widths[0] > 2 * widths[1] > 2 * widths[2]
    assert sampled.difference == fixed.difference == plain.difference
    assert (sampled.p_value or 0) > 100 * (plain.p_value or 1)
    assert (sampled.baseline_stderr, sampled.retention) == (0, pytest.approx(0.8))


def test_too_few_kinds_say_nothing_of_others() -> None:
    one = of_kinds(9, [sample(item, 1.0) for item in range(300)])
    judged = category_retention(category_score(SAMPLED, one), pair(one, one))
    assert judged.numbers.difference is None
    assert judged.evidence.problem == (
        "its kinds are declared a sample, and 9 of them are too few to say anything of others (at least 10); declare"
        " them `fixed` where they are all that is asked about"
    )
    assert category_retention(category_score(FIXED, one), pair(one, one)).evidence.problem is None


def test_tasks_that_are_a_sample_are_the_clusters() -> None:
    one = [sample(item, 1.0, task=f"t{item % 12}") for item in range(240)]
    other = [item.model_copy(update={"score": float(item.task != "t3")}) for item in one]
    sampled, fixed = kept_of(one, other, strata(tasks_are="sample")), kept_of(one, other)
    assert (sampled.difference_low or 0) < (fixed.difference_low or 0) - 0.1
    assert category_score(strata(tasks_are="sample"), one).tasks_are == "sample"


def test_documents_of_a_sample_of_passages_are_clusters_too() -> None:
    draw = np.random.default_rng(3)
    passages = draw.normal(0, 0.2, 12)
    language = Category.model_validate(
        {"name": "knowledge", "description": "", "tasks": ["t"], "metric": "word_perplexity", "unit": "perplexity"}
        | {"higher_is_better": False, "kind": "passage", "kinds_are": "sample"}
    )
    one = of_kinds(12, [sample(item, -3.0, weight=20.0) for item in range(96)])
    other = [item.model_copy(update={"score": -3.1 + passages[item.doc_id % 12]}) for item in one]
    without = language.model_copy(update={"kind": None, "kinds_are": None})
    sampled, plain = kept_of(one, other, language), kept_of(one, other, without)
    assert (sampled.difference_stderr or 0) > 2.5 * (plain.difference_stderr or 1)


@pytest.mark.parametrize("declared", [{"kind": "template"}, {"kinds_are": "fixed"}])
def test_a_kind_and_what_it_is_are_said_together(declared: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="give both"):
        strata(**declared)


def test_a_document_without_the_field_is_told() -> None:
    assert _kind(FIXED, {"template": 7}, "task t, item 0") == "7"
    with pytest.raises(StageError, match="the document has no field template, which category knowledge takes"):
        _kind(FIXED, {"text": "a"}, "task t, item 0")


def test_a_verdict_says_that_its_kinds_are_a_sample() -> None:
    one = of_kinds(30, [sample(item, 1.0) for item in range(300)])
    for category, told in ((SAMPLED, "over 300 items in 30 kinds that are a sample"), (FIXED, "over 300 items;")):
        score = category_score(category, one)
        judged = category_retention(score, pair(one, one), GatePolicy(default_margin=0.2))
        (verdict,) = judge([judged.evidence], GatePolicy(default_margin=0.2))
        assert told in verdict.reason
