"""Translations of one question: what they say together, and how often their intervals hold the truth."""

import numpy as np
import pytest

from evals.judging.clusters import clustered
from evals.samples import Sample, category_score
from evals.statistics.score import Z95, difference_interval, paired_cells
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
            for one in [Sample.model_construct(cluster=str(question), score=1.0, weight=1.0)]
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
