"""Is the candidate as good as the champion, within limits? Three-valued, and valid however often one looks.

A metric passes when "it is beyond its limit" is refuted, and fails when "it is within" is, both by a confidence
sequence. The candidate passes if *all* metrics pass: for a wrong pass, whatever is truly beyond its limit has to be
refuted wrongly, so each may be asked at the whole alpha (intersection-union test; Berger 1982, Technometrics 24:295).
It fails if *any* fails: there the levels of all metrics and classes add up to alpha (Bonferroni), in parts that are
fixed before the data.
docs/verdict.md has the guarantees and how they were checked.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evals.judging.pair_metrics import OF_CONTENT, Series, in_unit, series_of, threshold
from evals.judging.pair_observations import Observations
from evals.judging.verdict_config import VerdictConfig, verdict_digest
from evals.judging.verdict_words import found_text, left_out_text, limit_text, more_pairs_text, overall_text
from evals.statistics.confidence_sequence import Bounded, needed_nats
from registry.contracts.shadow_verdict import MetricVerdict, Outcome, ShadowVerdict
from registry.hashing import digest_of

_MOST_TIMES = 100
"""Beyond this many times the pairs there are, more of them are not a way to decide."""


class _Group(NamedTuple):
    """Pairs that are judged together."""

    name: str
    """Of the class; empty for all."""
    places: NDArray[np.intp]
    """Of its pairs among the judged ones, ascending."""
    fail_share: float
    """Of alpha, over all of its metrics that may fail."""


class _Look(NamedTuple):
    """What is there to be judged."""

    judged: Observations
    config: VerdictConfig
    growing: bool

    @property
    def within_budget(self) -> bool:
        return len(self.judged.ids) < self.config.budget_pairs


class _Question(NamedTuple):
    """Whether the mean of observations, turned so that more is better, is above the limit."""

    better: Bounded
    limit: float
    pass_level: float
    fail_level: float


class _Answer(NamedTuple):
    """What is sure of a question."""

    low: float
    """Bounds, each at the level that decides on its side."""
    high: float
    passed_after: int | None
    """Observations."""
    failed_after: int | None

    @property
    def decided_after(self) -> int | None:
        return self.passed_after or self.failed_after


def judge_pairs(
    observed: Observations,
    config: VerdictConfig,
    *,
    frozen_digest: str | None = None,
    growing: bool = False,
    looks: Sequence[int] = (),
) -> ShadowVerdict:
    """Judge the first pairs, as many as the budget allows.

    Args:
        observed: All pairs that are there.
        config: Metrics, limits and level.
        frozen_digest: `verdict_digest` of the config that was stored before the first pair.
        growing: Pairs are still being recorded. Then those behind a number that is not there yet have to wait: which
            answers come late depends on the answers.
        looks: Judged pairs at the looks before this one.
    """
    ready = _gapless(observed) if growing else len(observed.ids)
    look = _Look(observed.first(min(ready, config.budget_pairs)), config, growing)
    series = {name: series_of(name, look.judged, config) for name in config.metrics.given}
    left_out = [name for name, one in series.items() if config.unrecorded == "left out" and one.empty]
    metrics, rare = _metric_verdicts({name: series[name] for name in series if name not in left_out}, look)
    pairs = len(look.judged.ids)
    found = ShadowVerdict(
        outcome=_outcome(metrics, look),
        reason="",
        alpha=config.alpha,
        config=config.model_dump(mode="json"),
        config_digest=verdict_digest(config),
        frozen_digest=frozen_digest,
        frozen=verdict_digest(config) == frozen_digest,
        pairs=pairs,
        pairs_beyond_budget=ready - pairs,
        pairs_waiting=len(observed.ids) - ready,
        pairs_digest=digest_of(look.judged.ids),
        looks=[*looks, pairs],
        metrics=metrics,
        unrecorded=left_out,
        small_classes=_small_classes(look),
        rare_in_classes=rare,
    )
    return found.model_copy(update={"reason": overall_text(found)})


def _gapless(observed: Observations) -> int:
    """How many of the first pairs have the numbers 0, 1, 2, ... without a gap."""
    missing = observed.numbers != np.arange(len(observed.numbers))
    return int(np.argmax(missing)) if missing.any() else len(missing)


def _groups(look: _Look) -> Iterator[_Group]:
    """All pairs, and each class if asked for that has enough of them.

    How many classes there will be is not known before the data, so the k-th that appears may spend 1 / (k (k + 1)) of
    the classes' half of alpha: for any number of them that is no more than the half.
    """
    judged, each = look.judged, look.config.classes == "each"
    yield _Group("", np.arange(len(judged.ids)), 0.5 if each else 1.0)
    if each:
        by_class = np.argsort(judged.class_places, kind="stable")
        ends = np.cumsum(np.bincount(judged.class_places, minlength=len(judged.class_names)))
        classes = zip(judged.class_names, np.split(by_class, ends[:-1]), strict=True) if judged.class_names else ()
        for order, (name, places) in enumerate((one for one in classes if one[0]), start=1):
            if len(places) >= look.config.least_class_pairs:
                yield _Group(name, places, 0.5 / (order * (order + 1)))


def _metric_verdicts(series: Mapping[str, Series], look: _Look) -> tuple[list[MetricVerdict], dict[str, int]]:
    """The metrics of all pairs and of the classes, and those of classes that too few pairs say anything of."""
    metrics: list[MetricVerdict] = []
    rare: dict[str, int] = {}
    for group in _groups(look):
        for name, one in series.items():
            pairs = int(one.used[group.places].sum())
            if not group.name or (pairs >= look.config.least_class_pairs and not one.fault):
                metrics.append(_metric_verdict(name, one, group, look))
            elif pairs and not one.fault:
                rare[f"{name} (class {group.name})"] = pairs
    return metrics, rare


def _small_classes(look: _Look) -> int:
    sizes = np.bincount(look.judged.class_places, minlength=len(look.judged.class_names))
    named = np.array([bool(name) for name in look.judged.class_names], dtype=np.bool_)
    return int((named & (sizes < look.config.least_class_pairs)).sum()) if look.config.classes == "each" else 0


def _outcome(metrics: Sequence[MetricVerdict], look: _Look) -> Outcome:
    """The worst of the metrics; where what was not recorded is left out, nothing passes without a word on content."""
    found = {one.outcome for one in metrics}
    worst: tuple[Outcome, ...] = ("fail", "inconclusive", "continue")
    for outcome in worst:
        if outcome in found:
            return outcome
    if look.config.unrecorded == "left out" and not any(one.metric in OF_CONTENT for one in metrics):
        return "continue" if look.growing and look.within_budget else "inconclusive"
    return "pass"


def _metric_verdict(name: str, series: Series, group: _Group, look: _Look) -> MetricVerdict:
    metric, config, of_group = series.metric, look.config, group.places
    used, limit = of_group[series.used[of_group]], threshold(series.metric, config.metrics.given[name])
    # A pair in which a side failed says nothing of other metrics, and all of this one.
    failed = 0 if name == "errors" else int(look.judged.one_failed[of_group].sum())
    pass_level, fail_level = config.alpha, config.alpha * group.fail_share / len(config.metrics.given)
    found = MetricVerdict(
        metric=name,
        prompt_class=group.name,
        unit=metric.unit,
        at_least=metric.at_least,
        limit=in_unit(metric, limit),
        pairs=len(used),
        failed_pairs=failed,
        unrecorded_pairs=len(of_group) - len(used) - failed,
        clipped_pairs=int(series.clipped[used].sum()),
        low_level=pass_level if metric.at_least else fail_level,
        high_level=fail_level if metric.at_least else pass_level,
        outcome="inconclusive",
        reason=f"Cannot be judged: {series.fault}.",
    )
    if series.fault:
        return found
    if not found.pairs:
        outcome = "continue" if look.growing and look.within_budget else "inconclusive"
        reason = f"{found_text(found)}{left_out_text(found)}."
        return found.model_copy(update={"outcome": outcome, "reason": reason})
    bounded = Bounded(series.values[used], series.low, series.high)
    better, sign = (bounded, 1) if metric.at_least else (bounded.mirrored, -1)
    question = _Question(better, sign * limit, pass_level, fail_level)
    answer = _answered(question)
    ends = sorted((sign * answer.low, sign * answer.high))
    decided_after = answer.decided_after and int(used[answer.decided_after - 1]) + 1
    centre = np.median if metric.compared == "ratio" else np.mean
    found = found.model_copy(
        update={
            "champion": None if series.champion is None else float(centre(series.champion.values[used])),
            "candidate": float(centre(series.candidate.values[used])),
            "value": in_unit(metric, float(bounded.values.mean())),
            "low": in_unit(metric, ends[0]),
            "high": in_unit(metric, ends[1]),
            "decided_after": decided_after,
            "pairs_to_decide": None if decided_after else _pairs_to_decide(question, len(look.judged.ids)),
        }
    )
    return _said(found, answer, look.within_budget)


def _answered(question: _Question) -> _Answer:
    """Both bounds, and after how many observations the limit was refuted first.

    What was refuted once stays refuted, so a bound does not fall back behind a limit that it had passed.
    """
    better, limit, pass_level, fail_level = question
    passed, failed = better.above_after(limit, pass_level), better.below_after(limit, fail_level)
    low, high = better.lower(pass_level), better.upper(fail_level)
    if passed and not failed:
        low = max(low, limit)
    if failed and not passed:
        high = min(high, limit)
    return _Answer(low, high, passed, failed)


def _said(found: MetricVerdict, answer: _Answer, within_budget: bool) -> MetricVerdict:
    """The outcome with its sentence."""
    limit, told = limit_text(found), f"{found_text(found)}{left_out_text(found)}"
    outcome: Outcome
    if answer.passed_after and answer.failed_after:
        outcome = "inconclusive"
        reason = f"{told}; it was surely {limit} and surely not, so it moved meanwhile: judge the times apart."
    elif answer.passed_after:
        outcome, reason = "pass", f"{told}; surely {limit}, since pair {found.decided_after:,}."
    elif answer.failed_after:
        outcome, reason = "fail", f"{told}; surely not {limit}, since pair {found.decided_after:,}."
    else:
        outcome = "continue" if within_budget else "inconclusive"
        reason = f"{told}; whether it is {limit} cannot be told: {more_pairs_text(found.pairs_to_decide)}."
    return found.model_copy(update={"outcome": outcome, "reason": reason})


def _pairs_to_decide(question: _Question, judged: int) -> int | None:
    """More pairs that would decide if a pair goes on to tell as much; None beyond 100 times those there are."""
    better, limit, pass_level, fail_level = question
    observations = len(better.values)
    growth, wanted = max(
        (better.growth(limit), needed_nats(pass_level)), (better.mirrored.growth(-limit), needed_nats(fail_level))
    )
    if growth <= 0 or wanted / growth > _MOST_TIMES * observations:
        return None
    more = max(1.0, (wanted / growth - observations) * judged / observations)
    # Two digits are more than such an estimate is worth.
    unit = int(10 ** max(0, math.floor(math.log10(more)) - 1))
    return math.ceil(more / unit) * unit
