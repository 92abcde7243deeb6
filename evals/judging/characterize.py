"""Characterizes a drop: uniform or in some categories, by prompt length, by answer type, and the worst items to read.

All of it comes from the pairs that the retention comes from: nothing is measured here.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from evals.judging.clusters import clustered
from evals.samples import Sample, cluster_places
from evals.statistics.heterogeneity import cochran_q
from evals.statistics.paired import paired_means
from evals.statistics.score import Z95, difference_interval, paired_cells
from evals.statistics.significance import t_interval
from registry.contracts import (
    Breakdown,
    CategoryRetention,
    CharacterizationRecord,
    Flip,
    Heterogeneity,
    LengthTrend,
    PartDrops,
    RetentionRecord,
    StratumDrop,
)
from registry.contracts.characterization import AnswerType
from registry.gates import holm
from registry.numerals import signed

Pair = tuple[Sample, Sample]

LENGTH_BINS = 4
FLIPS_PER_CATEGORY = 2
MOST_FLIPS = 16
FEWEST_IN_A_PART = 10
"""A task or kind of fewer items is no part by itself."""
OTHERS = "others"
SIGNIFICANCE = 0.05
"""Below it a test of heterogeneity is taken for a finding."""
_NO_SPREAD = 1e-12
"""Texts that all changed by the same amount give no interval."""
_PROMPT_CHARACTERS, _ANSWER_CHARACTERS = 700, 300
_NUMBER = re.compile(r"[-+$€£]?\s*[\d][\d,. ]*\s*%?\.?")


def characterize(retention: RetentionRecord, pairs: Sequence[Pair]) -> CharacterizationRecord:
    """Say where `retention`'s artifact lost, from its paired items.

    Args:
        retention: What was kept in each category; gives each its unit.
        pairs: (baseline's sample, artifact's sample) as `evals.judging.retention.pair` returns them. Those of
            categories that have no difference (no items, scores that are no numbers) are left out: the retention says
            why.
    """
    judged = [kept for kept in retention.categories if kept.difference is not None]
    unit_of = {kept.category: kept.unit for kept in judged}
    # An empty document has no words and no say.
    weighty = [pair for pair in pairs if pair[0].weight > 0]
    shares = [pair for pair in weighty if unit_of.get(pair[0].category) == "share"]
    texts = [pair for pair in weighty if unit_of.get(pair[0].category) == "perplexity"]
    by_category = _by_category(judged)
    trend = length_trend(shares)
    return CharacterizationRecord(
        baseline_digest=retention.baseline_digest,
        artifact_digest=retention.artifact_digest,
        breakdowns=[by_category, _by_length(shares, trend), _by_answer_type(shares, texts)],
        parts=part_drops(shares, [drop.name for drop in by_category.drops]),
        length_trend=trend,
        flips=worst_flips(weighty, [drop.name for drop in by_category.drops]),
    )


def answer_type(sample: Sample) -> AnswerType:
    """What the model was asked for: one of several choices, a given continuation, a number, or any text."""
    if sample.log_likelihoods:
        return "choice" if len(sample.log_likelihoods) > 1 else "log-likelihood"
    # Worked solutions end with the number: "... so he pays 18 dollars.\n#### 18".
    final = sample.target.rpartition("####")[2].strip()
    return "number" if _NUMBER.fullmatch(final) else "free text"


def part_drops(pairs: Sequence[Pair], categories: Sequence[str]) -> list[PartDrops]:
    """Whether the tasks of a category, and its kinds of items, lost differently; Holm over all of these tests.

    Args:
        pairs: Of categories that are scored in shares.
        categories: Their order.
    """
    tested: list[tuple[str, Literal["task", "kind"], list[StratumDrop], Heterogeneity]] = []
    for category in categories:
        mine = [pair for pair in pairs if pair[0].category == category]
        several = len({one.task for one, _ in mine}) > 1
        labels: dict[Literal["task", "kind"], list[str]] = {
            "task": [one.task for one, _ in mine],
            "kind": [f"{one.task}: {one.kind}" if several and one.kind else one.kind for one, _ in mine],
        }
        for by, names in labels.items():
            drops = _worst_first(_drop(name, "share", part) for name, part in _parts(mine, names))
            found = _heterogeneity(drops)
            if found and set(names) != {""}:
                tested.append((category, by, drops, found))
    adjusted = holm([found.p_value for *_, found in tested])
    return [
        PartDrops(
            category=category,
            by=by,
            drops=drops,
            heterogeneity=found,
            p_holm=p,
            differ=p < SIGNIFICANCE,
            finding=_part_finding(category, by, drops, found, p),
        )
        for (category, by, drops, found), p in zip(tested, adjusted, strict=True)
    ]


def _parts(pairs: Sequence[Pair], names: Sequence[str]) -> list[tuple[str, list[Pair]]]:
    """The pairs by name; what has too few items to say anything by itself is put together."""
    count = Counter(names)
    found: dict[str, list[Pair]] = {}
    for name, pair in zip(names, pairs, strict=True):
        found.setdefault(name if count[name] >= FEWEST_IN_A_PART else OTHERS, []).append(pair)
    return list(found.items())


def _part_finding(category: str, by: str, drops: Sequence[StratumDrop], found: Heterogeneity, p: float) -> str:
    test = f"{_q_text(found)}, {_p_text(p)} with Holm's correction"
    if p >= SIGNIFICANCE:
        return f"No sign that the {by}s of {category} lost differently ({test})."
    return f"The {by}s of {category} lost differently ({test}): from {_drop_text(drops[0])} to {_drop_text(drops[-1])}."


def length_trend(pairs: Sequence[Pair]) -> LengthTrend | None:
    """Least squares of the paired difference on log2(prompt tokens), both relative to their category's mean.

    Long prompts come from other categories than short ones, so lengths are compared within categories only (the
    within estimator; Wooldridge, Econometric Analysis of Cross Section and Panel Data, 2nd ed., section 10.5). The
    standard error allows for unequal variances and for items that are not independent (Liang and Zeger 1986, summed by
    cluster, with Stata's correction for few clusters; where each item is its own cluster, White 1980 with that of HC1).

    Returns:
        None where no category holds two lengths, or there are too few items for a standard error.
    """
    categories = sorted({one.category for one, _ in pairs})
    lengths, differences = [], []
    for category in categories:
        mine = [pair for pair in pairs if pair[0].category == category]
        length = np.log2([max(1, one.prompt_tokens) for one, _ in mine])
        difference = np.array([other.score - one.score for one, other in mine])
        lengths.append(length - length.mean())
        differences.append(difference - difference.mean())
    ordered = sorted((one for one, _ in pairs), key=lambda one: one.category)
    places = cluster_places(ordered)
    freedom, clusters = len(pairs) - len(categories) - 1, len(set(places))
    if freedom < 1 or clusters < 2:
        return None
    x, y = np.concatenate(lengths), np.concatenate(differences)
    scatter = float(x @ x)
    if scatter < 1e-9:
        return None
    slope = float(x @ y) / scatter
    residuals = y - slope * x
    meat = float(np.sum(np.bincount(places, x * residuals) ** 2))
    variance = meat / scatter**2 * clusters / (clusters - 1) * (len(pairs) - 1) / freedom
    reach = Z95 * variance**0.5
    return LengthTrend(points_per_doubling=slope, low=slope - reach, high=slope + reach)


def worst_flips(pairs: Sequence[Pair], categories: Sequence[str]) -> list[Flip]:
    """The items on which the artifact did worse, the clearest of each category first.

    Clear is: the log-likelihoods moved far; for generated answers, which have none, the item is short to read.

    Args:
        pairs: All pairs.
        categories: Their order; the ones that lost most come first.
    """
    found: list[Flip] = []
    for category in categories:
        worse = [pair for pair in pairs if pair[0].category == category and pair[1].score < pair[0].score]
        # The document's hash last, so that equal ones stand in the same order on every machine.
        worse.sort(key=lambda pair: (-abs(shift_nats(*pair) or 0.0), _reading_length(*pair), pair[0].doc_hash))
        found += [_flip(*pair) for pair in worse[:FLIPS_PER_CATEGORY]]
    return found[:MOST_FLIPS]


def shift_nats(baseline: Sample, artifact: Sample) -> float | None:
    """By how much the item's log-likelihoods moved.

    With choices a, b, ... the margin between a and b moves by d_a - d_b, where d is each one's change; the largest move
    is max d - min d. It needs no knowledge of the right choice and does not depend on length normalization.
    """
    if not baseline.log_likelihoods or len(baseline.log_likelihoods) != len(artifact.log_likelihoods):
        return None
    change = np.array(artifact.log_likelihoods) - np.array(baseline.log_likelihoods)
    return float(change[0] if len(change) == 1 else change.max() - change.min())


def _by_category(categories: Sequence[CategoryRetention]) -> Breakdown:
    drops = _worst_first(
        StratumDrop(
            name=kept.category,
            unit="share" if kept.unit == "share" else "nats",
            items=kept.items,
            baseline=_score(kept.baseline, kept.unit),
            artifact=_score(kept.artifact, kept.unit),
            difference=kept.difference or 0.0,
            difference_low=kept.difference_low,
            difference_high=kept.difference_high,
        )
        for kept in categories
    )
    found = _heterogeneity(drops)
    compared = [drop for drop in drops if drop.unit == "share"]
    if found is None:
        finding = "There are not two categories scored in shares: whether the loss is uniform cannot be asked."
    elif found.p_value < SIGNIFICANCE:
        finding = (
            f"The loss is not uniform ({_q_text(found)}): from {_drop_text(compared[0])} to {_drop_text(compared[-1])}."
        )
    else:
        finding = f"No sign that the categories lost differently ({_q_text(found)})."
    if len(compared) < len(drops):
        finding += " Perplexity has another unit and is listed after the shares; it is not part of the test."
    return Breakdown(by="category", drops=drops, heterogeneity=found, finding=finding)


def _by_length(shares: Sequence[Pair], trend: LengthTrend | None) -> Breakdown:
    lengths = np.array([one.prompt_tokens for one, _ in shares])
    drops: list[StratumDrop] = []
    if len(lengths):
        inner = np.unique(np.quantile(lengths, np.arange(1, LENGTH_BINS) / LENGTH_BINS, method="inverted_cdf"))
        places = np.searchsorted(inner, lengths, side="left")
        for place in np.unique(places):
            mine = [pair for pair, where in zip(shares, places, strict=True) if where == place]
            low, high = min(one.prompt_tokens for one, _ in mine), max(one.prompt_tokens for one, _ in mine)
            drops.append(_drop(f"{low} to {high} tokens" if low < high else f"{low} tokens", "share", mine))
    if trend is None:
        finding = "All prompts of a category are equally long: length says nothing here."
    else:
        slope = (
            f"{signed(100 * trend.points_per_doubling)} points [{signed(100 * trend.low)}, {signed(100 * trend.high)}]"
        )
        if trend.high < 0:
            finding = f"Longer prompts lose more: each doubling within a category changes the difference by {slope}."
        elif trend.low > 0:
            finding = f"Longer prompts lose less: each doubling within a category changes the difference by {slope}."
        else:
            finding = f"Prompt length within a category makes no clear difference: {slope} with each doubling."
        finding += " Rows hold items of all categories that are scored in shares, so they differ in more than length."
    return Breakdown(by="prompt length", drops=drops, heterogeneity=_heterogeneity(drops), finding=finding)


def _by_answer_type(shares: Sequence[Pair], texts: Sequence[Pair]) -> Breakdown:
    drops = _worst_first([*_by_type(shares, "share"), *_by_type(texts, "nats")])
    compared = [drop for drop in drops if drop.unit == "share"]
    found = _heterogeneity(drops)
    if found is None:
        finding = "All answers that are scored in shares are of one type."
    elif found.p_value < SIGNIFICANCE:
        finding = f"The loss depends on the answer's type ({_q_text(found)}): {_drop_text(compared[0])} is the largest."
    else:
        finding = f"No sign that the types of answer lost differently ({_q_text(found)})."
    return Breakdown(by="answer type", drops=drops, heterogeneity=found, finding=finding)


def _score(value: float | None, unit: str) -> float:
    """A share as it is, a perplexity as the mean log-likelihood that it is made of."""
    assert value is not None, "a category with a difference has both scores"  # noqa: S101
    return value if unit == "share" else -math.log(value)


def _by_type(pairs: Sequence[Pair], unit: Literal["share", "nats"]) -> list[StratumDrop]:
    found: dict[AnswerType, list[Pair]] = {}
    for pair in pairs:
        found.setdefault(answer_type(pair[0]), []).append(pair)
    return [_drop(name, unit, mine) for name, mine in found.items()]


def _worst_first(drops: Iterable[StratumDrop]) -> list[StratumDrop]:
    """Shares before running text: their differences have no common unit."""
    return sorted(drops, key=lambda drop: (drop.unit == "nats", drop.difference))


def _drop(name: str, unit: Literal["share", "nats"], pairs: Sequence[Pair]) -> StratumDrop:
    baseline, artifact, weights, items, _ = clustered(pairs)
    means = paired_means(baseline, artifact, weights)
    low = high = None
    if unit == "share":
        # Of finite width even where no item changed.
        low, high = difference_interval(paired_cells(baseline, artifact, weights), Z95)
    elif means.difference_stderr is not None and means.difference_stderr > _NO_SPREAD:
        low, high = t_interval(means.difference, means.difference_stderr, means.freedom)
    return StratumDrop(
        name=name,
        unit=unit,
        items=items,
        baseline=means.baseline,
        artifact=means.artifact,
        difference=means.difference,
        difference_low=low,
        difference_high=high,
    )


def _heterogeneity(drops: Sequence[StratumDrop]) -> Heterogeneity | None:
    """Cochran's Q over the strata in shares; a standard error is half an interval in units of a normal's."""
    compared = [
        (drop.difference, (drop.difference_high - drop.difference_low) / (2 * Z95))
        for drop in drops
        if drop.unit == "share" and drop.difference_low is not None and drop.difference_high is not None
    ]
    found = cochran_q([one for one, _ in compared], [error for _, error in compared])
    if found is None:
        return None
    return Heterogeneity(
        statistic=found.q,
        degrees_of_freedom=found.degrees_of_freedom,
        p_value=found.p_value,
        inconsistency=found.i_squared,
    )


def _q_text(found: Heterogeneity) -> str:
    p = _p_text(found.p_value)
    return f"Cochran's Q {found.statistic:.1f} with {found.degrees_of_freedom} degrees of freedom, {p}"


def _p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _drop_text(drop: StratumDrop) -> str:
    return f"{drop.name} ({signed(100 * drop.difference)} points)"


def _reading_length(baseline: Sample, artifact: Sample) -> int:
    return len(baseline.prompt) + len(baseline.answer) + len(artifact.answer)


def _flip(baseline: Sample, artifact: Sample) -> Flip:
    return Flip(
        task=baseline.task,
        category=baseline.category,
        doc_id=baseline.doc_id,
        answer_type=answer_type(baseline),
        baseline_score=baseline.score,
        artifact_score=artifact.score,
        shift_nats=shift_nats(baseline, artifact),
        # The question stands at the end of a prompt, behind the examples.
        prompt=_tail(baseline.prompt),
        expected=_head(baseline.target),
        baseline_answer=_head(baseline.answer),
        artifact_answer=_head(artifact.answer),
    )


def _tail(text: str) -> str:
    return text if len(text) <= _PROMPT_CHARACTERS else "…" + text[1 - _PROMPT_CHARACTERS :]


def _head(text: str) -> str:
    return text if len(text) <= _ANSWER_CHARACTERS else text[: _ANSWER_CHARACTERS - 1] + "…"
