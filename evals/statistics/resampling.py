"""Bootstrap over items for paired means. Pure and seeded: equal inputs give equal numbers."""

from typing import NamedTuple

import numpy as np

from evals.statistics.score import Floats

RESAMPLES = 10_000
_MOST_DRAWS = 2_500
_CHUNK = 1 << 21
"""Numbers held at once: 16 MiB."""


class Bootstrap(NamedTuple):
    """Resampled weighted means of the paired differences."""

    observed: float
    means: Floats
    """[resamples]"""

    def p_value(self) -> float:
        """Two-sided, of a true mean of 0: how often a mean centred on 0 is as far away as the observed one.

        Efron and Tibshirani (1993), 16.4, with the observed sample counted among the resamples, so that p is never 0
        (Davison and Hinkley, Bootstrap Methods, 1997, eq. 4.11).
        """
        tolerance = 1e-12 * max(1.0, abs(self.observed))
        far = np.abs(self.means - self.observed) >= abs(self.observed) - tolerance
        return float((far.sum() + 1) / (len(self.means) + 1))


def paired_bootstrap(differences: Floats, weights: Floats, seed: int, resamples: int = RESAMPLES) -> Bootstrap:
    """Resample items with replacement and take the weighted mean of the differences in each resample.

    Above 2,500 items a resample draws 2,500 and its deviation is scaled by sqrt(2,500 / items): the m out of n
    bootstrap for means (Bickel, Goetze and van Zwet 1997, Statistica Sinica 7:1): the same limit, far less work.

    Args:
        differences: Of each item [items].
        weights: Of each item [items], such as words.
        seed: Of the resampling.
        resamples: Number of resamples.
    """
    items = len(differences)
    draws = min(items, _MOST_DRAWS)
    generator = np.random.default_rng(seed)
    total, product = weights.sum(), weights * differences
    observed = float(product.sum() / total)
    means = np.empty(resamples)
    for start in range(0, resamples, max(1, _CHUNK // draws)):
        stop = min(resamples, start + max(1, _CHUNK // draws))
        # Small numbers are drawn several at once: four times faster.
        chosen = generator.integers(0, items, (stop - start, draws), dtype=np.uint16 if items < 65_536 else np.uint32)
        means[start:stop] = product[chosen].sum(1) / weights[chosen].sum(1)
    means = observed + np.sqrt(draws / items) * (means - observed)
    return Bootstrap(observed, means)
