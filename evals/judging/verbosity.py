"""How many tokens an artifact's generated answers take beside its baseline's, over the same items."""

from collections.abc import Sequence

import numpy as np

from evals.judging.pairing import Pair
from evals.samples import cluster_places
from evals.statistics.paired import paired_means
from evals.statistics.significance import t_interval
from registry.contracts import VerbosityRecord


def verbosity(pairs: Sequence[Pair]) -> VerbosityRecord | None:
    """The ratio of both models' tokens, with its interval by the delta method; None where nothing was generated.

    In tokens and over pairs: in words, or over unmatched items, other things move the ratio more than an artifact does.
    """
    generated = [(one, other) for one, other in pairs if one.answer_tokens and other.answer_tokens]
    if not generated:
        return None
    # What is not independent, such as translations of one question, is one item.
    places = cluster_places([one for one, _ in generated])
    baseline, artifact = (
        np.bincount(places, np.array([both[side].answer_tokens for both in generated])).astype(np.float64)
        for side in (0, 1)
    )
    means = paired_means(baseline, artifact, np.ones(len(baseline)))
    ratio, stderr = means.ratio()
    assert ratio is not None  # noqa: S101 - every answer has its end
    low, high = (None, None) if stderr is None else t_interval(ratio, stderr, means.freedom)
    return VerbosityRecord(
        items=len(generated),
        baseline_tokens=float(baseline.sum()) / len(generated),
        artifact_tokens=float(artifact.sum()) / len(generated),
        ratio=ratio,
        low=low,
        high=high,
    )
