"""Does an answer depend on what is computed beside it? Some items are asked once more, one request at a time."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from evals.samples import Sample
from evals.statistics.score import share_interval
from registry.contracts import AskedAlone


def ask_alone(
    ask: Callable[[Mapping[str, Sequence[int]]], Sequence[Sample]], samples: Sequence[Sample], most: int
) -> AskedAlone | None:
    """Compare some of `samples` with what their items score alone; None where there are none.

    Args:
        ask: Gives the samples of these documents (task -> place in its data), one request at a time.
        samples: Scored by right or wrong, and asked many at a time. The last digits of a perplexity always differ.
        most: Items that are asked, spread evenly over `samples`.
    """
    if not samples:
        return None
    chosen = samples[:: -(-len(samples) // most)]
    wanted: dict[str, list[int]] = defaultdict(list)
    for sample in chosen:
        wanted[sample.task].append(sample.doc_id)
    alone = {(sample.task, sample.doc_id): sample for sample in ask(wanted)}
    pairs = [(sample, alone[sample.task, sample.doc_id]) for sample in chosen]
    shifts = [
        abs(one - other)
        for sample, again in pairs
        for one, other in zip(sample.log_likelihoods, again.log_likelihoods, strict=True)
    ]
    changed = np.array([float(sample.score != again.score) for sample, again in pairs])
    low, high = share_interval(changed, np.ones(len(pairs)), np.arange(len(pairs)))
    return AskedAlone(
        items=len(pairs),
        changed=int(changed.sum()),
        changed_low=low,
        changed_high=high,
        mean_shift_nats=sum(shifts) / len(shifts) if shifts else None,
    )
