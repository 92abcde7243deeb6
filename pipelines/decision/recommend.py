"""Which artifact of a run to take: limits first, then those that nothing beats, then the goal. Pure.

An accuracy is what an artifact kept in its lowest category, so that no average hides a lost skill. It comes with an
interval: of those whose interval reaches the best one's value none is surely worse, and among them the faster is taken.
"""

from collections.abc import Sequence
from typing import NamedTuple

from configs.names import entry_of
from pipelines.decision.limits import held_against
from pipelines.recipe.policy import Policy, RecommendConfig
from pipelines.recipe.registry_config import Approval
from pipelines.records.decision import Candidate, RecommendationRecord
from pipelines.records.rows import Row, concurrencies, lowest_category


class _Measured(NamedTuple):
    """What a goal compares."""

    row: Row
    kept: float
    """In the lowest category."""
    kept_high: float
    category: str
    tokens_per_second: float
    size_bytes: int
    of_limit: str
    """The share of what the machine allows, in words; empty where it is not known."""
    users: float
    """Requests of full context on the memory that the baseline's weights and cache take."""


def recommend(
    rows: Sequence[Row], policy: Policy, config: RecommendConfig, approval: Approval = "person"
) -> RecommendationRecord:
    """What to take of the rows, the baseline first.

    Args:
        approval: Whose word an artifact needs before an alias moves to it: that comes next.
    """
    baseline, *artifacts = [row for row in rows if row.name == entry_of(row.name)]
    level = config.concurrency or max(concurrencies(rows), default=1)
    candidates = [
        Candidate(
            name=row.name,
            digest=row.artifact.digest if row.artifact else None,
            limits=held_against(policy, row, baseline),
        )
        for row in artifacts
    ]
    passing = {one.name for one in candidates if one.outcome == "pass"}
    known = [measured for row in artifacts if row.name in passing and (measured := _measured(row, baseline, level))]
    beaten = {one.row.name: better.row.name for one in known for better in known if _beats(better, one)}
    candidates = [one.model_copy(update={"beaten_by": beaten.get(one.name)}) for one in candidates]
    choices = [one for one in known if one.row.name not in beaten]
    if choices:
        return _chosen(choices, candidates, config, level, approval)
    return _undecided(candidates, artifacts, config) or RecommendationRecord(
        goal=config.goal,
        kind="none",
        sentence="serve the baseline: every artifact breaks a limit",
        candidates=candidates,
        next_step="take other methods or parameters, or other limits under `policy`, and run the recipe again",
    )


def _measured(row: Row, baseline: Row, level: int) -> _Measured | None:
    """None where a number is missing, which no row that was measured and passed lacks."""
    lowest = lowest_category(row)
    rate, size = row.tokens_per_second(level), row.size_bytes
    if lowest is None or lowest.kept is None or size is None:
        return None
    high = lowest.kept if lowest.kept_high is None else lowest.kept_high
    share = row.decode_share(level)
    of_limit = f" ({share.percent} of what the machine's {share.limit} allows)" if share else ""
    return _Measured(row, lowest.kept, high, lowest.category, rate or 0.0, size, of_limit, _users(row, baseline))


def _users(row: Row, baseline: Row) -> float:
    """The requests of full context that its cache holds, where it gets what the weights leave of the baseline's."""
    if row.serving is None or baseline.serving is None:
        return 0.0
    mine, before = row.serving.memory, baseline.serving.memory
    if not (mine.kv_cache_requests and mine.kv_cache_bytes and before.resident_weights_bytes):
        return 0.0
    freed = before.resident_weights_bytes - (mine.resident_weights_bytes or before.resident_weights_bytes)
    return mine.kv_cache_requests * (1 + freed / mine.kv_cache_bytes)


def _beats(better: _Measured, one: _Measured) -> bool:
    mine = (better.kept, better.tokens_per_second, -better.size_bytes)
    theirs = (one.kept, one.tokens_per_second, -one.size_bytes)
    return mine != theirs and all(own >= other for own, other in zip(mine, theirs, strict=True))


def _chosen(
    choices: Sequence[_Measured], candidates: list[Candidate], config: RecommendConfig, level: int, approval: Approval
) -> RecommendationRecord:
    best = _best(choices, config)
    others = [one.row.name for one in choices if one is not best]
    price = (
        f", {config.price_per_hour / best.tokens_per_second / 3600 * 1e6:,.2f} a million output tokens"
        if config.price_per_hour is not None and best.tokens_per_second
        else ""
    )
    sentence = (
        f"take {best.row.name}, the {config.goal} of those that keep all limits: it keeps {best.kept:.2f} in its lowest"
        f" category, {best.category}, gives {best.tokens_per_second:,.1f} output tokens/s with {level} requests at a"
        f" time{best.of_limit}{price}, and takes {best.size_bytes / 2**20:,.0f} MiB"
    )
    if others:
        sentence += f"; {', '.join(others)} would do, and no other is better in accuracy, speed and size at once"
    digest = next(one.digest for one in candidates if one.name == best.row.name)
    return RecommendationRecord(
        goal=config.goal,
        kind="artifact",
        choice=best.row.name,
        digest=digest,
        sentence=sentence,
        candidates=candidates,
        next_step="quantbench registry "
        + (f"promote {best.row.name} --to shadow" if approval == "policy" else f"approve {best.row.name}"),
    )


def _best(choices: Sequence[_Measured], config: RecommendConfig) -> _Measured:
    if config.goal == "smallest":
        return min(choices, key=lambda one: (one.size_bytes, -one.kept))
    if config.goal == "most users":
        return max(choices, key=lambda one: (one.users, one.kept))
    if config.goal in ("fastest", "cheapest"):
        return max(choices, key=lambda one: (one.tokens_per_second, one.kept))
    most = max(one.kept for one in choices)
    return max((one for one in choices if one.kept_high >= most), key=lambda one: (one.tokens_per_second, one.kept))


def _undecided(
    candidates: list[Candidate], artifacts: Sequence[Row], config: RecommendConfig
) -> RecommendationRecord | None:
    """Where nothing passes, and of something it is not known whether it would."""
    open_ones = [one.name for one in candidates if one.outcome == "inconclusive"]
    if not open_ones:
        return None
    wanted: dict[str, int] = {}
    for row in artifacts:
        if row.name in open_ones and row.retention:
            for kept in row.retention.categories:
                if kept.verdict == "inconclusive" and kept.items_to_decide:
                    wanted[kept.category] = max(wanted.get(kept.category, 0), kept.items_to_decide)
    asked = ", ".join(f"{category}: {items}" for category, items in wanted.items())
    step = (
        f'quantbench run RECIPE --set "evaluation.items={{{asked}}}", which would decide with 80 % power where the data'
        " have so many; what was answered is not asked twice"
        if wanted
        else "see the reasons above for what is not known, and run the recipe again"
    )
    return RecommendationRecord(
        goal=config.goal,
        kind="undecided",
        sentence=f"undecided: nothing keeps all limits surely, and {', '.join(open_ones)} may",
        candidates=candidates,
        next_step=step,
    )
