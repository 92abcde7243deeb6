"""An evaluation that asks a share of the items at a time and stops in each category that is decided.

The looks are declared before, and each category's items stand in a random order that no answer changes.
docs/statistics.md says why a verdict that is found early holds.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from configs.base import StrictModel
from configs.errors import StageError
from evals.judging.pairing import pair
from evals.judging.retention import Judged, category_retention, policy_of, verdicts
from evals.samples import Sample, cluster_places, read_samples
from evals.statistics.sequential import LookPlan
from evals.suites.suite import Suite
from registry.contracts import CategoryLook, EvaluationRecord

Ask = Callable[[Mapping[str, Sequence[int]]], Sequence[Sample]]
"""Task -> documents by their place in its data; gives a sample for each of them."""

Item = tuple[str, int]


class Adaptive(StrictModel):
    """What an adaptive evaluation goes by; all of it is there before the first item is asked."""

    plan: LookPlan
    baseline: EvaluationRecord
    """On all items of the suite."""
    baseline_samples: Path


class Asked(NamedTuple):
    """Samples of what was asked."""

    samples: list[Sample]
    looks: list[CategoryLook]
    """Where an adaptive evaluation stopped in each category, in the suite's order; empty where all items were asked."""


class Course(NamedTuple):
    """The order in which a category's items are asked. What is not independent is one unit and asked together."""

    units: list[list[Item]]
    counts: list[int]
    """Units asked by each declared look. A small category may have none between two: they are one look for it."""

    def new_items(self, declared: int) -> list[Item]:
        """What a declared look (0 for the first) asks that the one before did not."""
        first = self.counts[declared - 1] if declared else 0
        return [item for unit in self.units[first : self.counts[declared]] for item in unit]

    def look(self, category: str, plan: LookPlan, declared: int) -> CategoryLook:
        """The category's own look: shares are those of its units that were really asked."""
        distinct = list(dict.fromkeys(self.counts))
        return CategoryLook(
            category=category,
            number=distinct.index(self.counts[declared]) + 1,
            fractions=tuple(count / len(self.units) for count in distinct),
            spending=plan.spending,
            items=sum(map(len, self.units[: self.counts[declared]])),
            items_available=sum(map(len, self.units)),
        )


def course_of(samples: Sequence[Sample], plan: LookPlan, seed: int) -> Course:
    """Put a category's items into the order in which they are asked.

    Random within each task, and all tasks advance alike: each look holds about its share of every task. The order does
    not depend on the plan, so that what one plan asks first, another asks first too.
    """
    units: dict[int, list[Item]] = defaultdict(list)
    for place, sample in zip(cluster_places(samples), samples, strict=True):
        units[place].append((sample.task, sample.doc_id))
    # A unit of several tasks is of neither: such units are a group of their own.
    groups: dict[tuple[str, ...], list[tuple[float, list[Item]]]] = defaultdict(list)
    for unit in units.values():
        unit.sort()
        groups[tuple(task for task, _ in unit)].append((_uniform(f"{seed}:{unit}:look"), unit))
    placed: list[tuple[float, list[Item]]] = []
    for group in groups.values():
        placed += [((rank + chance) / len(group), unit) for rank, (chance, unit) in enumerate(sorted(group))]
    # Without the tolerance, 0.7 of 10 items would be 8.
    counts = [math.ceil(fraction * len(units) - 1e-9) for fraction in plan.fractions]
    return Course([unit for _, unit in sorted(placed)], counts)


def evaluate_adaptively(adaptive: Adaptive, suite: Suite, ask: Ask) -> Asked:
    """Ask look by look; a category that passes or fails at a look is asked no further.

    Args:
        adaptive: The looks, and the baseline that each look's items are paired with.
        suite: Gives margins, level and the seed of the items' order.
        ask: Asks the artifact.

    Raises:
        StageError: The baseline lacks a category or was asked other prompts, or what `ask` raises.
    """
    baseline_samples = read_samples(adaptive.baseline_samples)
    courses = _courses(suite, baseline_samples, adaptive.plan)
    scores = {score.category: score for score in adaptive.baseline.categories}
    policy = policy_of(suite)
    samples: list[Sample] = []
    judged: dict[str, Judged] = {}
    looks: dict[str, CategoryLook] = {}
    undecided = list(courses)
    for declared in range(len(adaptive.plan.fractions)):
        samples += _asked(ask, [item for name in undecided for item in courses[name].new_items(declared)])
        pairs = pair(baseline_samples, samples, artifact_stopped=courses)
        for name in undecided:
            looks[name] = courses[name].look(name, adaptive.plan, declared)
            mine = [one for one in pairs if one[0].category == name]
            judged[name] = category_retention(scores[name], mine, policy, len(courses))
        # Holm's correction is over all categories; the evidence of those decided before stays as it was then.
        found = verdicts([judged[name] for name in courses], policy, looks)
        undecided = [one.category for one in found if not one.settled]
        if not undecided:
            break
    return Asked(samples, list(looks.values()))


def _courses(suite: Suite, baseline: Sequence[Sample], plan: LookPlan) -> dict[str, Course]:
    by_category: dict[str, list[Sample]] = {category.name: [] for category in suite.categories}
    for sample in baseline:
        by_category[sample.category].append(sample)
    empty = [name for name, mine in by_category.items() if not mine]
    if empty:
        raise StageError(
            f"the baseline has no items of category {', '.join(empty)}", remedy="run `quantbench artifacts verify`"
        )
    return {name: course_of(mine, plan, suite.seed) for name, mine in by_category.items()}


def _asked(ask: Ask, items: Sequence[Item]) -> Sequence[Sample]:
    by_task: dict[str, list[int]] = defaultdict(list)
    for task, document in items:
        by_task[task].append(document)
    return ask(by_task) if by_task else []


def _uniform(name: str) -> float:
    """A number of 0..1 that is the same on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
