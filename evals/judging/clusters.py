"""How a category's items were drawn: what is not independent is one item, and which parts are fixed or a sample.

Rows of one document, and translations of one question, are put together and count as one, with their rows' mean and
their summed weight. That mean is then an item like any other, and what is computed of items holds (ratio estimates over
clusters of unequal size: Cochran, Sampling Techniques, 3rd ed., section 9A.1). Tasks, and kinds within tasks, are
strata or clusters of these items, as the suite says.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from evals.samples import Sample, cluster_places
from evals.statistics.designs import FEWEST_CLUSTERS, Design, Numbers
from evals.statistics.score import Floats
from registry.contracts.evaluation import Sampling


class Clusters(NamedTuple):
    """Scores of two models by item, after what is not independent was put together [items]."""

    baseline: Floats
    artifact: Floats
    weights: Floats
    rows: int
    """Items before they were put together."""
    design: Design


def clustered(
    pairs: Sequence[tuple[Sample, Sample]], tasks_are: Sampling = "fixed", kinds_are: Sampling | None = None
) -> Clusters:
    """Put together what is not independent, and say how the rest was drawn; what has no weight has no say.

    Args:
        pairs: (baseline's sample, artifact's sample) of the same items; their weights are the baseline's.
        tasks_are: Whether the tasks are strata or clusters.
        kinds_are: The same of the kinds of each task; None: they are nothing.
    """
    where = cluster_places([one for one, _ in pairs])
    weights = np.array([one.weight for one, _ in pairs], dtype=np.float64)
    total = np.bincount(where, weights).astype(np.float64)
    heavy = total > 0  # an empty document has no words
    means = [
        np.bincount(where, weights * np.array([both[side].score for both in pairs], dtype=np.float64))[heavy]
        / total[heavy]
        for side in (0, 1)
    ]
    # Translations of one question are of no task by itself: their tasks are one stratum.
    tasks: list[set[str]] = [set() for _ in total]
    kinds = [""] * len(total)
    for place, (one, _) in zip(where, pairs, strict=True):
        tasks[place].add(one.task)
        kinds[place] = one.kind
    parts = [("|".join(sorted(names)), kind) for names, kind, there in zip(tasks, kinds, heavy, strict=True) if there]
    return Clusters(means[0], means[1], total[heavy], len(pairs), design_of(parts, tasks_are, kinds_are))


def design_of(parts: Sequence[tuple[str, str]], tasks_are: Sampling, kinds_are: Sampling | None) -> Design:
    """How items of these (task, kind)s were drawn."""
    of_task = _numbered([task for task, _ in parts])
    if tasks_are == "sample":
        return Design(np.zeros(len(parts), dtype=np.intp), of_task, sampled=True)
    if kinds_are == "sample":
        return Design(of_task, _numbered(parts), sampled=True)
    return Design(_numbered(parts) if kinds_are else of_task, np.arange(len(parts)), sampled=False)


def drawn_text(tasks_are: Sampling, design: Design) -> str:
    """`in 30 kinds that are a sample`; empty where the items are what was drawn."""
    if not design.sampled:
        return ""
    return f"in {design.cluster_count} {'tasks' if tasks_are == 'sample' else 'kinds'} that are a sample"


def too_few_clusters(tasks_are: Sampling, design: Design) -> str | None:
    """Why a sample of tasks or kinds says nothing of others like them."""
    if not design.sampled or design.cluster_count >= FEWEST_CLUSTERS:
        return None
    what = "tasks" if tasks_are == "sample" else "kinds"
    return (
        f"its {what} are declared a sample, and {design.cluster_count} of them are too few to say anything of others"
        f" (at least {FEWEST_CLUSTERS}); declare them `fixed` where they are all that is asked about"
    )


def _numbered(names: Sequence[object]) -> Numbers:
    """Each name's number, counted from 0 in the order of appearance."""
    first = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return np.array([first[name] for name in names], dtype=np.intp)
