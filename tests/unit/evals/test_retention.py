"""Retention: formulas against a second implementation, pairing against items that do not pair."""

import math
from pathlib import Path

import numpy as np
import pytest

from configs.errors import StageError
from evals.retention import category_retention, pair
from evals.samples import Sample, category_score, read_samples
from evals.statistics.paired import paired_means
from evals.suite import Category

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


def test_share_by_hand() -> None:
    one = [sample(item, score) for item, score in enumerate([1, 1, 1, 0])]
    other = [sample(item, score) for item, score in enumerate([1, 0, 0, 1])]
    kept = category_retention(category_score(SHARE, one), pair(one, other))
    assert (kept.baseline, kept.artifact, kept.items) == (0.75, 0.5, 4)
    assert kept.retention == pytest.approx(2 / 3)
    assert kept.chance_corrected_retention == pytest.approx(0.5)
    assert (kept.flips_to_wrong, kept.flips_to_right) == (2, 1)
    # differences -1, -1, 0, +1: mean -1/4, s^2 = 11/12
    difference = np.array([0, -1, -1, 1])
    assert kept.difference_stderr == pytest.approx(difference.std(ddof=1) / 2)


def test_standard_errors_agree_with_a_bootstrap() -> None:
    one, other = shares(seed=3, items=400, baseline=0.7, agreement=0.85)
    kept = category_retention(category_score(SHARE, one), pair(one, other))
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
    kept = category_retention(score, pair(one, other))
    assert score.value == pytest.approx(math.exp(-(base @ words) / words.sum()))
    assert kept.artifact == pytest.approx(category_score(PERPLEXITY, other).value)
    assert kept.retention == pytest.approx(kept.baseline / kept.artifact)
    draws = [draw.integers(0, 120, 120) for _ in range(4000)]
    boot = np.array([[math.exp(-(s[d] @ words[d]) / words[d].sum()) for s in (base, worse)] for d in draws])
    assert score.stderr == pytest.approx(boot[:, 0].std(), rel=0.08)
    assert kept.retention_stderr == pytest.approx((boot[:, 0] / boot[:, 1]).std(), rel=0.08)


def test_coverage_of_the_retention_interval() -> None:
    """95 % intervals hold the true ratio in 95 % of draws, within the Monte Carlo error of 600 draws."""
    truth, hits = (0.9 * 0.7 + 0.1 * 0.5) / 0.7, 0
    for seed in range(600):
        one, other = shares(seed, items=200, baseline=0.7, agreement=0.9)
        means = paired_means(np.array([s.score for s in one]), np.array([s.score for s in other]), np.ones(len(one)))
        ratio, stderr = means.ratio()
        assert stderr is not None
        hits += abs(ratio - truth) < 1.96 * stderr
    assert hits / 600 == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / 600))


def test_equal_models_keep_all_and_have_no_spread() -> None:
    one, _ = shares(seed=5, items=100, baseline=0.6, agreement=1.0)
    kept = category_retention(category_score(SHARE, one), pair(one, one))
    assert (kept.retention, kept.difference, kept.flips_to_wrong, kept.flips_to_right) == (1.0, 0.0, 0, 0)
    assert kept.retention_stderr == pytest.approx(0.0, abs=1e-12)


def test_a_baseline_that_scores_nothing_has_nothing_to_lose() -> None:
    one, other = [sample(i, 0.0) for i in range(4)], [sample(i, 1.0) for i in range(4)]
    kept = category_retention(category_score(SHARE, one), pair(one, other))
    assert (kept.retention, kept.retention_stderr, kept.chance_corrected_retention) == (1.0, None, None)


def test_a_single_item_has_no_standard_error() -> None:
    kept = category_retention(category_score(SHARE, [sample(0, 1.0)]), [(sample(0, 1.0), sample(0, 0.0))])
    assert (kept.retention, kept.retention_stderr, kept.difference_stderr) == (0.0, None, None)


@pytest.mark.parametrize("change", [{"prompt_hash": "other"}, {"target_hash": "other"}])
def test_other_prompts_do_not_pair(change: dict[str, object]) -> None:
    with pytest.raises(StageError, match=r"t, item 1: .* different prompts"):
        pair([sample(0, 1), sample(1, 1)], [sample(0, 1), sample(1, 1, **change)])


def test_missing_items_do_not_pair() -> None:
    with pytest.raises(StageError, match="2 of the baseline, 1 of the artifact"):
        pair([sample(0, 1), sample(1, 1)], [sample(0, 1)])


def test_items_pair_by_document_and_not_by_place() -> None:
    pairs = pair([sample(0, 1), sample(1, 0)], [sample(1, 0), sample(0, 1)])
    assert [(a.doc_id, b.doc_id) for a, b in pairs] == [(0, 0), (1, 1)]


def test_damaged_samples(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text(sample(0, 1).model_dump_json() + "\n{half")
    with pytest.raises(StageError, match="is damaged"):
        read_samples(path)
