"""Items that are not independent of each other: rows of one document, and translations of one question.

Each cluster counts as one, with its rows' mean and their summed weight. Its mean is then an item like any other, and
what is computed of independent items holds (ratio estimates over clusters of unequal size: Cochran, Sampling
Techniques, 3rd ed., section 9A.1).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from evals.samples import Sample, cluster_places
from evals.statistics.score import Floats


class Clusters(NamedTuple):
    """Scores of two models by cluster [clusters]."""

    baseline: Floats
    artifact: Floats
    weights: Floats
    rows: int
    """Items before they were put together."""


def clustered(pairs: Sequence[tuple[Sample, Sample]]) -> Clusters:
    """Put together what is not independent; what has no weight has no say.

    Args:
        pairs: (baseline's sample, artifact's sample) of the same items; their weights are the baseline's.
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
    return Clusters(means[0], means[1], total[heavy], len(pairs))
