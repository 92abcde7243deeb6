"""What each metric of a verdict takes from a pair, within which bounds, and what its limit means."""

import math
from typing import Literal, NamedTuple

import numpy as np

from evals.judging.pair_observations import Column, Flags, Observations
from evals.judging.verdict_config import VerdictConfig
from evals.statistics.score import Floats
from registry.contracts.shadow_verdict import MetricUnit


class Metric(NamedTuple):
    """One kind of evidence in a pair."""

    column: str
    """Of the observations; of each side's for `difference` and `ratio`."""
    compared: Literal["difference", "ratio", "alone"]
    """`difference` and `ratio` are candidate against champion; `alone`: the column says something of both."""
    unit: MetricUnit
    at_least: bool
    """Whether more is better, so that the limit is a least value."""
    least: float
    """Bounds of the column: what lies outside is a damaged record."""
    most: float


METRICS = {
    "errors": Metric("failed", "difference", "points", False, 0, 1),
    "score": Metric("score", "difference", "points", True, 0, 1),
    "same": Metric("same", "alone", "share", True, 0, 1),
    "agreement": Metric("agreement", "alone", "share", True, 0, 1),
    "logprob": Metric("logprob", "difference", "nats", True, -math.inf, math.inf),
    "refusals": Metric("refused", "difference", "points", False, 0, 1),
    "tool_calls": Metric("same_tool_calls", "alone", "share", True, 0, 1),
    "length_stops": Metric("length_stop", "difference", "points", False, 0, 1),
    "tokens": Metric("completion_tokens", "ratio", "change", False, 0, math.inf),
    "latency": Metric("seconds", "ratio", "change", False, 0, math.inf),
    "first_token": Metric("first_token_seconds", "ratio", "change", False, 0, math.inf),
    "time_per_token": Metric("seconds_per_token", "ratio", "change", False, 0, math.inf),
    "preference": Metric("preference", "alone", "preference", True, -1, 1),
}
"""By their names in Limits."""
OF_CONTENT = ("score", "same", "agreement", "logprob", "tool_calls")
"""Metrics that say whether answers are right or the same; the others say how they came, or what a model thinks."""


class Series(NamedTuple):
    """One metric of the judged pairs; arrays [pairs]."""

    metric: Metric
    champion: Column | None
    """None where the metric has no sides."""
    candidate: Column
    used: Flags
    """The pair says something of this metric."""
    values: Floats
    """What is judged: a difference, the logarithm of a ratio, a share; clipped. NaN where it is not used."""
    clipped: Flags
    low: float
    """Bounds of `values`."""
    high: float
    fault: str
    """The first value that cannot be; empty where all can."""

    @property
    def empty(self) -> bool:
        """Whether no pair says anything of it, not even what cannot be."""
        return not self.fault and not self.used.any()


def series_of(name: str, observed: Observations, config: VerdictConfig) -> Series:
    """A metric's values; pairs in which a side failed say nothing of any metric but `errors`."""
    metric = METRICS[name]
    answered = np.ones(len(observed.ids), dtype=np.bool_) if name == "errors" else ~observed.one_failed
    if metric.compared == "alone":
        both = observed.columns[metric.column]
        fault = _fault(metric, both, answered, observed.ids, name)
        used = both.known & answered
        return Series(metric, None, both, used, both.values, ~answered & False, metric.least, metric.most, fault)
    champion, candidate = (observed.columns[f"{side}.{metric.column}"] for side in ("champion", "candidate"))
    fault = _fault(metric, champion, answered, observed.ids, f"the champion's {metric.column}")
    fault = fault or _fault(metric, candidate, answered, observed.ids, f"the candidate's {metric.column}")
    used = champion.known & candidate.known & answered
    reach = _reach(metric, config)
    values = _compared(metric, champion.values, candidate.values)
    clipped = used & (np.abs(values) > reach)
    return Series(metric, champion, candidate, used, np.clip(values, -reach, reach), clipped, -reach, reach, fault)


def threshold(metric: Metric, limit: float) -> float:
    """The limit as a mean of a series' values."""
    if metric.compared == "ratio":
        return math.log1p(limit)
    if metric.compared == "alone" and metric.unit == "share":
        return limit
    return -limit if metric.at_least else limit


def in_unit(metric: Metric, value: float) -> float:
    """A mean of a series' values in the metric's unit: of logarithms, the ratio less 1."""
    return math.expm1(value) if metric.compared == "ratio" else value


def _reach(metric: Metric, config: VerdictConfig) -> float:
    if metric.compared == "ratio":
        return math.log(config.ratio_clip)
    return config.logprob_clip if metric.unit == "nats" else metric.most - metric.least


def _compared(metric: Metric, champion: Floats, candidate: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        if metric.compared == "difference":
            return candidate - champion
        # An answer of no tokens against one of some is beyond any clip; two such are alike.
        logs: Floats = np.where(candidate == champion, 0.0, np.log(candidate) - np.log(champion))
        return logs


def _fault(metric: Metric, column: Column, answered: Flags, ids: list[str], what: str) -> str:
    possible = np.isfinite(column.values) & (column.values >= metric.least) & (column.values <= metric.most)
    wrong = column.known & answered & ~possible
    if not wrong.any():
        return ""
    place = int(np.argmax(wrong))
    return f"pair {ids[place]}: {what} is {column.values[place]:g}, which cannot be"
