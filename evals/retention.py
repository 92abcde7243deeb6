"""What an artifact kept of its baseline, per category, from per-item pairs."""

import math
from pathlib import Path

import numpy as np

from configs.errors import StageError
from evals.samples import Sample, read_samples
from evals.statistics.paired import PairedMeans, paired_means
from registry.contracts import CategoryRetention, CategoryScore, EvaluationRecord, RetentionRecord


def compare(
    baseline: EvaluationRecord, baseline_samples: Path, artifact: EvaluationRecord, artifact_samples: Path
) -> RetentionRecord:
    """Pair both models' items and say per category what was kept.

    Raises:
        StageError: The two did not answer the same prompts.
    """
    if baseline.suite_digest != artifact.suite_digest:
        raise StageError(
            f"suite {baseline.suite} changed between baseline and artifact", remedy="measure both again with one suite"
        )
    pairs = pair(read_samples(baseline_samples), read_samples(artifact_samples))
    return RetentionRecord(
        baseline_digest=baseline.model_digest,
        artifact_digest=artifact.model_digest,
        suite=baseline.suite,
        suite_version=baseline.suite_version,
        categories=[
            category_retention(score, [one for one in pairs if one[0].category == score.category])
            for score in baseline.categories
        ],
    )


def pair(baseline: list[Sample], artifact: list[Sample]) -> list[tuple[Sample, Sample]]:
    """Join on task, filter and document; refuse where prompts or targets differ or items are missing."""
    others = {sample.key: sample for sample in artifact}
    if others.keys() != {sample.key for sample in baseline}:
        raise StageError(
            f"the items differ: {len(baseline)} of the baseline, {len(artifact)} of the artifact",
            remedy="measure both again with one suite",
        )
    pairs = [(sample, others[sample.key]) for sample in baseline]
    for one, other in pairs:
        if (one.prompt_hash, one.target_hash) != (other.prompt_hash, other.target_hash):
            raise StageError(
                f"{one.task}, item {one.doc_id}: baseline and artifact were asked different prompts",
                remedy="the tokenizers or chat templates differ; see the artifact's inspection, then measure again",
            )
    return pairs


def category_retention(score: CategoryScore, pairs: list[tuple[Sample, Sample]]) -> CategoryRetention:
    """Retention of one category with its standard error."""
    means = paired_means(
        np.array([one.score for one, _ in pairs]),
        np.array([other.score for _, other in pairs]),
        np.array([one.weight for one, _ in pairs]),
    )
    if score.unit == "perplexity":
        return _perplexity_retention(score, means)
    ratio, ratio_stderr = means.ratio()
    chance = score.chance
    above = means.baseline - chance if chance is not None else 0.0
    return CategoryRetention(
        category=score.category,
        unit=score.unit,
        items=len(pairs),
        chance=chance,
        baseline=means.baseline,
        artifact=means.artifact,
        retention=ratio,
        retention_stderr=ratio_stderr,
        chance_corrected_retention=(means.artifact - chance) / above if chance is not None and above > 0 else None,
        difference=means.difference,
        difference_stderr=means.difference_stderr,
        flips_to_wrong=sum(one.score > other.score for one, other in pairs),
        flips_to_right=sum(one.score < other.score for one, other in pairs),
    )


def _perplexity_retention(score: CategoryScore, means: PairedMeans) -> CategoryRetention:
    """exp(difference of mean log-likelihoods) is baseline over artifact perplexity."""
    retention = math.exp(means.difference)
    stderr = means.difference_stderr
    return CategoryRetention(
        category=score.category,
        unit=score.unit,
        items=score.items,
        chance=None,
        baseline=math.exp(-means.baseline),
        artifact=math.exp(-means.artifact),
        retention=retention,
        retention_stderr=retention * stderr if stderr is not None else None,
        chance_corrected_retention=None,
        difference=means.difference,
        difference_stderr=stderr,
    )
