"""Which verdicts a suite can reach: whether a category can pass at all with its items, and how likely it does.

Asked of the gate itself: the best that can happen is that nothing flips, in every category. What does not pass then,
Holm's correction included, passes never.
"""

import numpy as np

from configs.base import StrictModel
from evals.judging.clusters import design_of, too_few_clusters
from evals.judging.evidence import share_evidence
from evals.judging.retention import policy_of
from evals.statistics.designs import ASSUMED_CORRELATION, Design
from evals.statistics.score import paired_cells
from evals.statistics.sizes import chance_to_pass, chance_to_pass_documents, documents_to_pass, items_to_pass
from evals.suites.resolve import ResolvedSuite
from evals.suites.suite import Category, Suite
from registry.contracts import CategoryScore, EvaluationRecord
from registry.gates import Evidence, GatePolicy, judge


class Reach(StrictModel):
    """What can become of one category."""

    category: str
    items: int | None
    """None where the rows are not on this machine; the best case and the chance are of the items wanted then."""
    margin: float
    can_pass: bool
    """If no item flips."""
    fewest: int
    """Items with which it passes if none flips, whatever the other categories do."""
    wanted: int
    """Items with which it passes with the suite's power if nothing is lost, under the suite's assumption."""
    chance: float
    """Of a pass if nothing is lost, under that assumption."""
    assumption: str
    """In words: how much changes although nothing is lost."""
    said: str
    """The finding, in a sentence."""


def reach(resolved: ResolvedSuite, baseline: EvaluationRecord | None = None) -> list[Reach]:
    """One a category, in the suite's order.

    Args:
        resolved: The suite with its data.
        baseline: What the baseline scored, where it was measured before: one that scores next to nothing above guessing
            cannot pass. It is taken for perfect else.
    """
    suite, policy = resolved.suite, policy_of(resolved.suite)
    scores = {score.category: score for score in baseline.categories} if baseline else {}
    items = {category.name: resolved.items_of(category.name) for category in suite.categories}
    wanted = {category.name: _needed(category, suite, suite.power) for category in suite.categories}
    designs = {category.name: _sampled(category, resolved) for category in suite.categories}
    best = [
        _best_case(
            category, items[category.name] or wanted[category.name], scores.get(category.name), designs[category.name]
        )
        for category in suite.categories
    ]
    return [
        _reach(
            category,
            suite,
            items[category.name],
            wanted[category.name],
            one,
            found.verdict == "pass",
            policy,
            designs[category.name],
        )
        for category, one, found in zip(suite.categories, best, judge(best, policy), strict=True)
    ]


def _sampled(category: Category, resolved: ResolvedSuite) -> Design | None:
    """The clusters of a category whose tasks or kinds are a sample, where its rows are local."""
    if "sample" not in (category.tasks_are, category.kinds_are):
        return None
    parts = resolved.parts_of(category)
    return design_of(parts, category.tasks_are, category.kinds_are) if parts else None


def _reach(
    category: Category,
    suite: Suite,
    items: int | None,
    wanted: int,
    best: Evidence,
    passes: bool,
    policy: GatePolicy,
    design: Design | None,
) -> Reach:
    fewest = _fewest(category, suite)
    asked = items or wanted
    if design:
        # As many independent items as tell the same, if those of a cluster correlate as is assumed.
        asked = round(asked / (1 + (asked / design.cluster_count - 1) * ASSUMED_CORRELATION))
    if category.unit == "perplexity":
        chance = chance_to_pass_documents(asked, category.margin, category.assumed_spread, suite.level)
        assumption = f"a document changes by {category.assumed_spread:g} nats a word"
    else:
        chance = chance_to_pass(asked, category.margin, category.assumed_flips, suite.level)
        assumption = f"{category.assumed_flips:.0%} of the items flip"
    chance = chance if passes else 0.0
    if items is None:
        said = f"the rows are not here: {wanted:,} are wanted"
    elif best.problem:
        said = f"cannot pass: {best.problem}"
    elif best.nothing_to_keep:
        said = "cannot pass: the baseline has next to nothing above guessing"
    elif not passes and "sample" in (category.tasks_are, category.kinds_are):
        said = "cannot pass with so few kinds or tasks, which are a sample: more of them would"
    elif not passes:
        said = f"cannot pass with this n: {fewest:,} would, if nothing flips"
    elif chance < policy.power:
        said = f"may pass: {wanted:,} would with {policy.power:.0%}"
    else:
        said = "can pass"
    return Reach(
        category=category.name,
        items=items,
        margin=category.margin,
        can_pass=passes,
        fewest=fewest,
        wanted=wanted,
        chance=chance,
        assumption=assumption,
        said=said,
    )


def _needed(category: Category, suite: Suite, power: float) -> int:
    if category.unit == "perplexity":
        return documents_to_pass(category.margin, category.assumed_spread, suite.level, power)
    return items_to_pass(category.margin, category.assumed_flips, suite.level, power)


def _fewest(category: Category, suite: Suite) -> int:
    """A single document whose likelihood did not change shows it."""
    return 1 if category.unit == "perplexity" else items_to_pass(category.margin, 0.0, suite.level, suite.power)


def _best_case(category: Category, items: int, score: CategoryScore | None, design: Design | None) -> Evidence:
    """The artifact answers as the baseline does."""
    problem = too_few_clusters(category.tasks_are, design) if design else None
    if problem:
        return Evidence(
            category=category.name, unit=category.unit, items=items, margin=category.margin, problem=problem
        )
    if category.unit == "perplexity":
        return Evidence(
            category=category.name,
            unit="perplexity",
            items=items,
            margin=category.margin,
            p_pass=0.0,
        )
    right = round(items * (1.0 if score is None else score.value))
    scores = np.repeat([1.0, 0.0], [right, items - right])
    cells = paired_cells(scores, scores, np.ones(items), design)
    return share_evidence(category.name, cells, category.margin, category.chance, items)
