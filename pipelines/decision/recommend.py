"""Which artifact of a run to take: limits first, then those that nothing beats, then the goal. Pure.

An accuracy is what an artifact kept in its lowest category, so that no average hides a lost skill. It comes with an
interval: of those whose interval reaches the best one's value none is surely worse, and among them the faster is taken.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from configs.names import entry_of
from pipelines.decision.limits import held_against
from pipelines.recipe.policy import Goal, Policy, RecommendConfig
from pipelines.recipe.registry_config import Approval
from pipelines.records.decision import Candidate, RecommendationRecord
from pipelines.records.model_cost import ModelCost, Pricing, cost_text, model_cost
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
    users: float
    """Requests of full context on the memory that the baseline's weights and cache take."""
    cost: ModelCost | None
    """None without a price."""

    @property
    def blended(self) -> float:
        """Price of a million tokens at the level; infinite where it is not known, which is chosen last."""
        known = self.cost.measured.cost.blended_per_million if self.cost and self.cost.measured else None
        return math.inf if known is None else known

    @property
    def cost_missing(self) -> str:
        """Why `blended` is not known."""
        if self.cost is None:
            return "the run has no price"
        return self.cost.measured_missing or "its answers came in one piece"


def recommend(
    rows: Sequence[Row],
    policy: Policy,
    config: RecommendConfig,
    approval: Approval = "person",
    pricing: Pricing | None = None,
) -> RecommendationRecord:
    """What to take of the rows, the baseline first.

    Args:
        pricing: What costs are computed from; `cheapest` has to have it.
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
    known = [
        measured for row in artifacts if row.name in passing and (measured := _measured(row, baseline, level, pricing))
    ]
    beaten = {one.row.name: better.row.name for one in known for better in known if _beats(better, one, config.goal)}
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


def _measured(row: Row, baseline: Row, level: int, pricing: Pricing | None) -> _Measured | None:
    """None where a number is missing, which no row that was measured and passed lacks."""
    lowest = lowest_category(row)
    rate, size = row.tokens_per_second(level), row.size_bytes
    if lowest is None or lowest.kept is None or size is None:
        return None
    high = lowest.kept if lowest.kept_high is None else lowest.kept_high
    cost = model_cost(row, pricing, level) if pricing else None
    return _Measured(row, lowest.kept, high, lowest.category, rate or 0.0, size, _users(row, baseline), cost)


def _users(row: Row, baseline: Row) -> float:
    """The requests of full context that its cache holds, where it gets what the weights leave of the baseline's."""
    if row.serving is None or baseline.serving is None:
        return 0.0
    mine, before = row.serving.memory, baseline.serving.memory
    if not (mine.kv_cache_requests and mine.kv_cache_bytes and before.resident_weights_bytes):
        return 0.0
    freed = before.resident_weights_bytes - (mine.resident_weights_bytes or before.resident_weights_bytes)
    return mine.kv_cache_requests * (1 + freed / mine.kv_cache_bytes)


def _beats(better: _Measured, one: _Measured, goal: Goal) -> bool:
    mine, theirs = _compared(better, goal), _compared(one, goal)
    return mine != theirs and all(own >= other for own, other in zip(mine, theirs, strict=True))


def _compared(one: _Measured, goal: Goal) -> tuple[float, ...]:
    """More of each is better. Who looks for the cheapest is told of one that is slower and still cheaper."""
    price = [-one.blended] if goal == "cheapest" else []
    return one.kept, one.tokens_per_second, -one.size_bytes, *price


def _chosen(
    choices: Sequence[_Measured], candidates: list[Candidate], config: RecommendConfig, level: int, approval: Approval
) -> RecommendationRecord:
    best = _best(choices, config)
    named = str(config.goal)
    if config.goal == "cheapest" and math.isinf(best.blended):
        named = f"fastest, since what it costs is not known ({best.cost_missing}),"
    others = [one.row.name for one in choices if one is not best]
    sentence = (
        f"take {best.row.name}, the {named} of those that keep all limits: it keeps {best.kept:.2f} in its lowest"
        f" category, {best.category}, gives {best.tokens_per_second:,.1f} output tokens/s with {level} requests at a"
        f" time{_price_text(best.cost)}, and takes {best.size_bytes / 2**20:,.0f} MiB"
    )
    unpriced = [one.row.name for one in choices if math.isinf(one.blended) and named == "cheapest"]
    if unpriced:
        sentence += f"; what {', '.join(unpriced)} costs is not known"
    if others:
        compared = "speed, size and price" if config.goal == "cheapest" else "speed and size"
        sentence += f"; {', '.join(others)} would do, and no other is better in accuracy, {compared} at once"
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


def _price_text(cost: ModelCost | None) -> str:
    """`, costs 12.3 USD a million tokens there (blended 3:1)`, and within the SLO; nothing where nothing is known."""
    measured, within = (cost.measured, cost.within_slo) if cost else (None, None)
    said = []
    if measured and measured.cost.blended_per_million is not None:
        said.append(f"{cost_text(measured.cost)} there (blended 3:1)")
    if within and within.cost.blended_per_million is not None:
        said.append(f"{cost_text(within.cost)} at the highest load that kept the SLO")
    return f", costs {' and '.join(said)}" if said else ""


def _best(choices: Sequence[_Measured], config: RecommendConfig) -> _Measured:
    if config.goal == "smallest":
        return min(choices, key=lambda one: (one.size_bytes, -one.kept))
    if config.goal == "most users":
        return max(choices, key=lambda one: (one.users, one.kept))
    if config.goal == "cheapest":
        return min(choices, key=lambda one: (one.blended, -one.tokens_per_second, -one.kept))
    if config.goal == "fastest":
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
