"""What a verdict says in words: values in their units, limits, and a sentence for each metric."""

from evals.judging.pair_metrics import OF_CONTENT
from registry.contracts.shadow_verdict import MetricUnit, MetricVerdict, ShadowVerdict
from registry.numerals import with_minus

_LISTED = 6
"""Metrics that a sentence names; more are counted."""


def value_text(unit: MetricUnit, value: float) -> str:
    """`+1.25 points`, `93.1 %`, `−0.031 nats`"""
    if unit == "share":
        return f"{100 * value:.1f} %"
    # Adding 0 turns -0.0 into 0.0.
    if unit in ("points", "change"):
        return with_minus(f"{round(100 * value, 2) + 0.0:+.2f}{' points' if unit == 'points' else ' %'}")
    return with_minus(f"{round(value, 3) + 0.0:+.3f}{' nats' if unit == 'nats' else ''}")


def interval_text(one: MetricVerdict) -> str:
    """`−0.40 to +1.02`; nothing where nothing is known."""
    if one.low is None or one.high is None:
        return ""
    low, high = value_text(one.unit, one.low), value_text(one.unit, one.high)
    return f"{low.split()[0]} to {high.split()[0]}"


def limit_text(one: MetricVerdict, least: str = "at least", most: str = "at most") -> str:
    """`at least −2 points`"""
    scaled = one.limit if one.unit in ("nats", "preference") else 100 * one.limit
    sign = "" if one.unit == "share" else "+"
    points = " point" if abs(scaled) == 1 else " points"
    of = {"points": points, "share": " %", "change": " %", "nats": " nats", "preference": ""}[one.unit]
    return f"{least if one.at_least else most} {with_minus(f'{scaled:{sign}.4g}')}{of}"


def metric_name(one: MetricVerdict) -> str:
    """`latency`, or `latency (class code)`"""
    return f"{one.metric} (class {one.prompt_class})" if one.prompt_class else one.metric


def found_text(one: MetricVerdict) -> str:
    """`+0.31 points (−0.40 to +1.02) over 3,200 pairs`"""
    if one.value is None:
        return "No pair says anything of it"
    pairs = f"{one.pairs:,} pair{'' if one.pairs == 1 else 's'}"
    clipped = f", {one.clipped_pairs:,} of them clipped" if one.clipped_pairs else ""
    return f"{value_text(one.unit, one.value)} ({interval_text(one)}) over {pairs}{clipped}"


def left_out_text(one: MetricVerdict) -> str:
    """`; 12 pairs left out (8 failed, 4 not recorded)`; nothing where none was."""
    parts = [
        f"{count:,} {what}"
        for count, what in ((one.failed_pairs, "failed"), (one.unrecorded_pairs, "not recorded"))
        if count
    ]
    left_out = one.failed_pairs + one.unrecorded_pairs
    return f"; {left_out:,} pair{'' if left_out == 1 else 's'} left out ({', '.join(parts)})" if parts else ""


def more_pairs_text(pairs: int | None) -> str:
    """What an estimate of the pairs that would decide says."""
    if pairs is None:
        return (
            "it lies too near the limit, or too few pairs say anything of it, for an estimate of how many would decide"
        )
    return f"about {pairs:,} more pairs would decide, a rough estimate"


def overall_text(verdict: ShadowVerdict) -> str:
    """Why the whole verdict is what it is, in one sentence."""
    judged = len(verdict.metrics)
    by_outcome = {
        outcome: [metric_name(one) for one in verdict.metrics if one.outcome == outcome]
        for outcome in ("fail", "inconclusive", "continue")
    }
    if verdict.outcome == "pass":
        return f"all {judged} metrics are surely within their limits"
    if verdict.outcome == "fail":
        failed = by_outcome["fail"]
        return f"surely beyond the limit: {_listed(failed)} ({len(failed)} of {judged})"
    undecided = by_outcome["inconclusive"] + by_outcome["continue"]
    if not verdict.metrics:
        return "nothing was recorded that could be judged"
    if not undecided:
        wanted = ", ".join(OF_CONTENT)
        return f"within all limits, but nothing that was recorded says whether the answers are as good: {wanted}"
    return f"undecided: {_listed(undecided)} ({len(undecided)} of {judged})"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
