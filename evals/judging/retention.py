"""What an artifact kept of its baseline, per category, from per-item pairs. docs/statistics.md explains the numbers."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evals.judging.clusters import Clusters, clustered, drawn_text, too_few_clusters
from evals.judging.evidence import share_evidence
from evals.judging.pairing import Pair, joint_looks, paired
from evals.samples import Sample
from evals.statistics.paired import PairedMeans, paired_means
from evals.statistics.resampling import paired_bootstrap
from evals.statistics.score import PairedCells, paired_cells, ratio_interval
from evals.statistics.sequential import Look, sequential_p
from evals.statistics.significance import detectable_loss, is_binary, mcnemar_p, t_interval, t_p
from evals.suites.suite import Suite
from registry.contracts import CategoryLook, CategoryRetention, CategoryScore, EvaluationRecord, RetentionRecord
from registry.gates import CategoryVerdict, Evidence, GatePolicy, holm, judge, overall

SEED = 1234
DEFAULT_POLICY = GatePolicy()
_LARGEST_LOG = 700.0
"""exp of more is no number."""


class Judged(NamedTuple):
    """A category's numbers and what they say to the gate."""

    numbers: CategoryRetention
    evidence: Evidence


def policy_of(suite: Suite) -> GatePolicy:
    """The margins and the level that a suite declares."""
    return GatePolicy(
        alpha=suite.alpha,
        power=suite.power,
        margins={category.name: category.margin for category in suite.categories},
        truncation_allowed=tuple(one.name for one in suite.categories if one.truncation == "allow"),
    )


def compare(
    baseline: EvaluationRecord,
    baseline_samples: Path,
    artifact: EvaluationRecord,
    artifact_samples: Path,
    policy: GatePolicy = DEFAULT_POLICY,
) -> RetentionRecord:
    """Pair both models' items, say per category what was kept, and judge it.

    Where one of them was evaluated adaptively, the items that both answered are compared and the p-values allow for
    its looks.

    Args:
        baseline: What the baseline scored.
        baseline_samples: Its per-item results.
        artifact: What the artifact scored.
        artifact_samples: Its per-item results.
        policy: Margins and level; `policy_of` a suite.

    Raises:
        StageError: The two did not answer the same prompts.
    """
    pairs = paired(baseline, baseline_samples, artifact, artifact_samples)
    judged = [
        category_retention(
            score, [one for one in pairs if one[0].category == score.category], policy, len(baseline.categories)
        )
        for score in baseline.categories
    ]
    return retention_record(baseline, artifact, judged, policy, joint_looks(baseline, artifact))


def retention_record(
    baseline: EvaluationRecord,
    artifact: EvaluationRecord,
    judged: Sequence[Judged],
    policy: GatePolicy,
    looks: Mapping[str, CategoryLook] = {},
) -> RetentionRecord:
    """Correct for the number of categories (and of looks) and give the verdicts."""
    said_of = verdicts(judged, policy, looks)
    tested = [one.numbers.p_value for one in judged if one.numbers.p_value is not None]
    adjusted = iter(holm(tested))
    verdict, reason = overall(said_of)
    return RetentionRecord(
        baseline_digest=baseline.model_digest,
        artifact_digest=artifact.model_digest,
        suite=baseline.suite,
        suite_version=baseline.suite_version,
        categories=[
            one.numbers.model_copy(
                update={
                    "p_holm": None if one.numbers.p_value is None else next(adjusted),
                    "look": looks.get(said.category),
                    "verdict": said.verdict,
                    "verdict_reason": said.reason,
                    "undecided": said.undecided,
                    "items_to_decide": said.items_to_decide,
                }
            )
            for one, said in zip(judged, said_of, strict=True)
        ],
        alpha=policy.alpha,
        verdict=verdict,
        verdict_reason=reason,
    )


def verdicts(
    judged: Sequence[Judged], policy: GatePolicy, looks: Mapping[str, CategoryLook] = {}
) -> list[CategoryVerdict]:
    """Judge all categories together.

    Args:
        judged: One a category.
        policy: Margins and level.
        looks: Category -> the look of an adaptive evaluation that its numbers are of; the others were asked all items.
    """
    found = judge(
        [
            _looked(one.evidence, looks[name]) if (name := one.evidence.category) in looks else one.evidence
            for one in judged
        ],
        policy,
    )
    return [
        one.model_copy(update={"reason": f"{one.reason} {_stop(one, looks[one.category])}"})
        if one.category in looks
        else one
        for one in found
    ]


def category_retention(
    score: CategoryScore, pairs: Sequence[Pair], policy: GatePolicy = DEFAULT_POLICY, categories: int = 1
) -> Judged:
    """The numbers of one category, before any correction for the other categories.

    Args:
        score: What the baseline scored; says the unit and what guessing scores.
        pairs: The category's items.
        policy: Margins and level.
        categories: How many are judged together: the detectable difference is meant at alpha / categories.
    """
    level = policy.alpha / categories
    margin = policy.margin(score.category)
    problem = _problem(score, pairs)
    if problem:
        return _unjudged(score, len(pairs), margin, problem)
    items = clustered(pairs, score.tasks_are, score.kinds_are)
    problem = too_few_clusters(score.tasks_are, items.design)
    if problem:
        return _unjudged(score, len(pairs), margin, problem)
    means = paired_means(items.baseline, items.artifact, items.weights, items.design)
    if score.unit == "perplexity":
        judged = _perplexity(score, items, means, margin, level, policy.power)
    else:
        judged = _share(score, pairs, items, means, margin, level, policy.power)
    drawn = judged.evidence.model_copy(update={"drawn": drawn_text(score.tasks_are, items.design)})
    return _with_truncation(judged._replace(evidence=drawn), pairs, policy)


def _with_truncation(judged: Judged, pairs: Sequence[Pair], policy: GatePolicy) -> Judged:
    """Items whose prompt was cut are counted, and are no evidence unless the suite allows them."""
    cut = sum(one.truncated or other.truncated for one, other in pairs)
    if not cut:
        return judged
    numbers = judged.numbers.model_copy(update={"truncated": cut})
    if judged.numbers.category in policy.truncation_allowed:
        return Judged(numbers, judged.evidence)
    return Judged(numbers, judged.evidence.model_copy(update={"truncated": cut, "p_pass": 1.0, "p_fail": 1.0}))


def _share(
    score: CategoryScore,
    pairs: Sequence[Pair],
    items: Clusters,
    means: PairedMeans,
    margin: float,
    level: float,
    power: float,
) -> Judged:
    chance = score.chance
    differences = items.artifact - items.baseline
    binary = is_binary(items.baseline) and is_binary(items.artifact)
    to_wrong = sum(one.score > other.score for one, other in pairs)
    to_right = sum(one.score < other.score for one, other in pairs)
    cells = paired_cells(items.baseline, items.artifact, items.weights, items.design)
    evidence = share_evidence(score.category, cells, margin, chance, items.rows)
    # McNemar's test counts items; it has no word for one that stands for several.
    one_by_one = binary and len(differences) == items.rows and np.ptp(items.weights) == 0 and not items.design.sampled
    second_moment = float(np.average(differences**2, weights=items.weights))
    detectable = detectable_loss(second_moment, cells.effective_items, level, power, floor=binary or second_moment == 0)
    numbers = CategoryRetention(
        **_shared(score, items, means, margin),
        baseline=means.baseline,
        artifact=means.artifact,
        baseline_stderr=means.baseline_stderr,
        artifact_stderr=means.artifact_stderr,
        **_ratios(means, cells, chance, evidence.nothing_to_keep),
        difference_low=-evidence.loss_high,
        difference_high=-evidence.loss_low,
        flips_to_wrong=to_wrong,
        flips_to_right=to_right,
        p_value=_p_value(items, cells, (to_wrong, to_right) if one_by_one else None),
        detectable_difference=detectable if detectable <= 1 else None,
    )
    return Judged(numbers, evidence)


def _p_value(items: Clusters, cells: PairedCells, flips: tuple[int, int] | None) -> float:
    """Of `no difference`, two-sided. With fixed strata McNemar's test and the bootstrap err on the safe side."""
    if flips:
        return mcnemar_p(*flips)
    if items.design.sampled:
        return min(1.0, 2 * min(cells.tails(cells.mean_z(0.0))))
    return paired_bootstrap(items.artifact - items.baseline, items.weights, SEED).p_value()


def _ratios(means: PairedMeans, cells: PairedCells, chance: float | None, nothing_to_keep: bool) -> dict[str, Any]:
    """What was kept, plain and above chance; no ratio is made of a baseline that has nothing to keep."""
    if nothing_to_keep:
        none = dict.fromkeys(("retention", "retention_stderr", "chance_corrected_retention"))
        return none | {"nothing_to_keep": True}
    ratio, ratio_stderr = means.ratio()
    low, high = ratio_interval(cells, cells.reach) or (None, None)
    above = ratio_interval(cells, cells.reach, chance) if chance is not None else None
    return {
        "retention": ratio,
        "retention_stderr": ratio_stderr,
        "retention_low": low,
        "retention_high": high,
        "chance_corrected_retention": None if chance is None else means.above(chance),
        "chance_corrected_retention_low": above[0] if above else None,
        "chance_corrected_retention_high": above[1] if above else None,
    }


def _perplexity(
    score: CategoryScore, items: Clusters, means: PairedMeans, margin: float, level: float, power: float
) -> Judged:
    """exp(difference of mean log-likelihoods) is baseline over artifact perplexity."""
    differences, documents = items.artifact - items.baseline, len(items.baseline)
    base, other, ratio = math.exp(-means.baseline), math.exp(-means.artifact), math.exp(means.difference)
    stderr = means.difference_stderr
    numbers = CategoryRetention(
        **_shared(score, items, means, margin),
        baseline=base,
        artifact=other,
        baseline_stderr=_scaled(base, means.baseline_stderr),
        artifact_stderr=_scaled(other, means.artifact_stderr),
        retention=ratio,
        retention_stderr=_scaled(ratio, stderr),
        chance_corrected_retention=None,
    )
    if not differences.any():
        return _nothing_changed(score, numbers, items.rows, margin)
    if not stderr or stderr < 1e-12 * max(1.0, abs(means.difference)):
        equal = f"all {documents} documents changed by the same amount" if documents > 1 else "there is one document"
        return Judged(
            numbers, _evidence_against(score, items.rows, margin, f"{equal}, so there is no spread to judge by")
        )
    low, high = t_interval(means.difference, stderr, means.freedom)
    p_pass, p_fail = t_p((means.difference + math.log1p(margin)) / stderr, means.freedom)
    numbers = numbers.model_copy(
        update={
            "retention_low": math.exp(low),
            "retention_high": math.exp(high),
            "difference_low": low,
            "difference_high": high,
            "p_value": 2 * min(t_p(means.difference / stderr, means.freedom)),
            "detectable_difference": math.expm1(detectable_loss(documents * stderr**2, documents, level, power)),
        }
    )
    evidence = Evidence(
        category=score.category,
        unit="perplexity",
        items=items.rows,
        margin=margin,
        loss=math.expm1(-means.difference),
        loss_low=math.expm1(-high),
        loss_high=math.expm1(-low),
        p_pass=p_pass,
        p_fail=p_fail,
    )
    return Judged(numbers, evidence)


def _nothing_changed(score: CategoryScore, numbers: CategoryRetention, rows: int, margin: float) -> Judged:
    """Every document has the very same log-likelihood, a sum over all its tokens: both models compute the same."""
    sure = {"retention_low": 1.0, "retention_high": 1.0, "difference_low": 0.0, "difference_high": 0.0, "p_value": 1.0}
    evidence = Evidence(category=score.category, unit="perplexity", items=rows, margin=margin, p_pass=0.0, p_fail=1.0)
    return Judged(numbers.model_copy(update=sure), evidence)


def _shared(score: CategoryScore, items: Clusters, means: PairedMeans, margin: float) -> dict[str, Any]:
    return {
        "category": score.category,
        "unit": score.unit,
        "items": items.rows,
        "chance": score.chance,
        "difference": means.difference,
        "difference_stderr": means.difference_stderr,
        "margin": margin,
    }


def _problem(score: CategoryScore, pairs: Sequence[Pair]) -> str | None:
    """Why no honest number can be made of these items; the first item is named."""
    if not pairs:
        return "it has no items"
    if score.unit == "share" and not score.higher_is_better:
        return "a share where less is better is not supported"
    for both in pairs:
        for who, sample in zip(("baseline", "artifact"), both, strict=True):
            wrong = _wrong_number(score, sample)
            if wrong:
                return f"task {sample.task}, item {sample.doc_id}: the {who}'s {wrong}"
    return None if any(one.weight for one, _ in pairs) else "its items have no weight"


def _wrong_number(score: CategoryScore, sample: Sample) -> str | None:
    if not math.isfinite(sample.score):
        return f"score is {sample.score}, no finite number"
    if not math.isfinite(sample.weight) or sample.weight < 0:
        return f"weight is {sample.weight}"
    if score.unit == "share" and not 0 <= sample.score <= 1:
        return f"score is {sample.score}, outside of 0 to 1"
    if score.unit == "perplexity" and abs(sample.score) > _LARGEST_LOG:
        return f"mean log-likelihood is {sample.score:.0f}, a perplexity too large for a number"
    return None


def _unjudged(score: CategoryScore, items: int, margin: float, problem: str) -> Judged:
    numbers = CategoryRetention(
        category=score.category,
        unit=score.unit,
        items=items,
        chance=score.chance,
        baseline=None,
        artifact=None,
        retention=None,
        retention_stderr=None,
        chance_corrected_retention=None,
        difference=None,
        difference_stderr=None,
        margin=margin,
    )
    return Judged(numbers, _evidence_against(score, items, margin, problem))


def _evidence_against(score: CategoryScore, items: int, margin: float, problem: str) -> Evidence:
    return Evidence(category=score.category, unit=score.unit, items=items, margin=margin, problem=problem)


def _scaled(value: float, stderr: float | None) -> float | None:
    return None if stderr is None else value * stderr


def _looked(evidence: Evidence, at: CategoryLook) -> Evidence:
    """With p-values that hold although the data are looked at more than once."""
    look = Look(fractions=at.fractions, number=at.number, spending=at.spending)
    return evidence.model_copy(
        update={"p_pass": sequential_p(look, evidence.p_pass), "p_fail": sequential_p(look, evidence.p_fail)}
    )


def _stop(one: CategoryVerdict, at: CategoryLook) -> str:
    how = "Undecided" if one.verdict == "inconclusive" else "Decided"
    which = f"{how} at look {at.number} of {len(at.fractions)}"
    if not at.stopped_early:
        return f"{which}, all {at.items:,} items."
    return f"{which}, {at.items:,} of {at.items_available:,} items: both scores are of these."
