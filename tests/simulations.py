"""Simulated comparisons with a known truth: how often intervals hold it and how often gates are wrong.

Shared by the quick tests and by `benchmarks/uncertainty.py`, which runs more of each.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evals.judging.adaptive import Adaptive, Asked, evaluate_adaptively
from evals.judging.retention import compare, policy_of
from evals.samples import Sample, category_score, write_samples
from evals.statistics.designs import Design
from evals.statistics.heterogeneity import cochran_q
from evals.statistics.paired import paired_means
from evals.statistics.score import Z95, PairedCells, difference_stderr, paired_cells, score_z
from evals.statistics.sequential import LookPlan, boundaries
from evals.statistics.significance import t_interval, t_p
from evals.suites.suite import Category, Suite
from registry.contracts import EvaluationRecord
from tests.records import CONDITIONS

Floats = NDArray[np.float64]

BASELINE = np.array([0.0, 0.0, 1.0, 1.0])
ARTIFACT = np.array([0.0, 1.0, 0.0, 1.0])
Z_ONE_SIDED = 1.6448536269514722


class Share(NamedTuple):
    """How often something happened in how many draws."""

    hits: float
    draws: int

    @property
    def monte_carlo_stderr(self) -> float:
        return math.sqrt(max(self.hits * (1 - self.hits), 1e-4) / self.draws)

    def exceeds(self, level: float) -> bool:
        """Whether it is above `level` by more than chance explains (three standard errors at the level)."""
        return self.hits > level + 3 * math.sqrt(level * (1 - level) / self.draws)


def cells(baseline: float, loss: float, discordance: float) -> Floats:
    """Probabilities of (0, 0), (0, 1), (1, 0), (1, 1) for a baseline, a true loss and a rate of flips."""
    to_right, to_wrong = (discordance - loss) / 2, (discordance + loss) / 2
    return np.array([1 - baseline - to_right, to_right, to_wrong, baseline - to_wrong])


def draw(probabilities: Floats, items: int, draws: int, seed: int) -> tuple[Floats, NDArray[np.int64]]:
    """Distinct tables of counts [tables, cells] and how often each was drawn [tables]."""
    tables = np.random.default_rng(seed).multinomial(items, probabilities, draws)
    unique, times = np.unique(tables, axis=0, return_counts=True)
    return unique.astype(np.float64), times


def _share(hits: NDArray[np.bool_], times: NDArray[np.int64]) -> Share:
    return Share(float(hits @ times / times.sum()), int(times.sum()))


def difference_coverage(probabilities: Floats, items: int, draws: int, seed: int) -> Share:
    """Of the 95 % score interval of the paired difference."""
    counts, times = draw(probabilities, items, draws, seed)
    truth = float(probabilities @ (ARTIFACT - BASELINE))
    return _share(np.abs(score_z(ARTIFACT - BASELINE, counts, truth)) <= Z95, times)


def ratio_coverage(probabilities: Floats, chance: float, items: int, draws: int, seed: int) -> Share:
    """Of the 95 % interval of the retention, corrected for `chance` (0: plain)."""
    counts, times = draw(probabilities, items, draws, seed)
    truth = float((probabilities @ ARTIFACT - chance) / (probabilities @ BASELINE - chance))
    z = score_z(ARTIFACT - truth * BASELINE, counts, (1 - truth) * chance)
    return _share(np.abs(z) <= Z95, times)


def gate_error(margin: float, discordance: float, items: int, draws: int, seed: int, wrong: str = "pass") -> Share:
    """Wrong passes (or fails) of one category at 5 % where the true loss is exactly the margin."""
    counts, times = draw(cells(0.7, margin, discordance), items, draws, seed)
    z = score_z(ARTIFACT - BASELINE, counts, -margin)
    return _share(z >= Z_ONE_SIDED if wrong == "pass" else z <= -Z_ONE_SIDED, times)


def graded_gate_error(margin: float, spread: float, items: int, draws: int, seed: int) -> Share:
    """As `gate_error` for graded scores: differences of -1 to 1 in tenths, mostly small, whose mean is -margin."""
    grid = np.round(np.linspace(-1, 1, 21), 1)
    weight = np.exp(-np.abs(grid) / spread)
    low, high = -50.0, 50.0
    for _ in range(100):  # tilted until the mean is the margin's
        tilt = (low + high) / 2
        probabilities = weight * np.exp(tilt * grid) / (weight @ np.exp(tilt * grid))
        low, high = (tilt, high) if probabilities @ grid < -margin else (low, tilt)
    counts, times = draw(probabilities, items, draws, seed)
    return _share(score_z(grid, counts, -margin) >= Z_ONE_SIDED, times)


def looks_error(
    fractions: tuple[float, ...], spending: str, margin: float, discordance: float, items: int, draws: int, seed: int
) -> tuple[Share, Share]:
    """Wrong passes at the margin when looking several times: (with boundaries, comparing with 1.645 each time)."""
    generator = np.random.default_rng(seed)
    sizes = np.diff([0, *(round(items * fraction) for fraction in fractions)])
    parts = [generator.multinomial(size, cells(0.7, margin, discordance), draws) for size in sizes]
    bounds = boundaries(fractions, 0.05, spending)  # type: ignore[arg-type]
    guarded = naive = np.zeros(draws, dtype=bool)
    for counts, bound in zip(np.cumsum(parts, axis=0).astype(np.float64), bounds, strict=True):
        unique, where = np.unique(counts, axis=0, return_inverse=True)
        z = score_z(ARTIFACT - BASELINE, unique, -margin)[where.ravel()]
        guarded, naive = guarded | (z >= bound), naive | (z >= Z_ONE_SIDED)
    return Share(float(guarded.mean()), draws), Share(float(naive.mean()), draws)


def family_error(categories: int, margin: float, items: int, draws: int, seed: int) -> tuple[Share, Share]:
    """Draws in which any of the categories, all exactly at the margin, passes: (with Holm, without)."""
    from scipy.stats import norm

    counts = np.random.default_rng(seed).multinomial(items, cells(0.7, margin, 0.12), (draws, categories))
    unique, where = np.unique(counts.reshape(-1, 4), axis=0, return_inverse=True)
    p = norm.sf(score_z(ARTIFACT - BASELINE, unique.astype(np.float64), -margin))[where.ravel()].reshape(
        draws, categories
    )
    # Where all are at the margin, some category passes exactly if the smallest p-value does: Holm's first step.
    return Share(float((categories * p.min(1) <= 0.05).mean()), draws), Share(float((p.min(1) <= 0.05).mean()), draws)


class Perplexity(NamedTuple):
    """What was found in simulated documents of unequal length."""

    t_coverage: Share
    wrong_passes: Share


def perplexity(documents: int, draws: int, seed: int, *, skewed: bool = False) -> Perplexity:
    """95 % intervals of the log ratio of perplexities, and wrong passes where the truth is exactly the margin.

    Args:
        skewed: Few documents lose much and most a little (lognormal), in place of a symmetric spread.
    """
    generator = np.random.default_rng(seed)
    truth = -math.log1p(0.02)
    by_t = wrong = 0
    for _ in range(draws):
        words = np.round(np.exp(generator.normal(6, 0.6, documents))) + 20
        base = generator.normal(-3, 0.4, documents)
        drawn = generator.normal(0, 1, documents)
        spread = (math.exp(0.5) - np.exp(drawn)) / 4 if skewed else drawn / 2
        other = base + truth + spread / np.sqrt(words)
        means = paired_means(base, other, words)
        stderr = means.difference_stderr or 0.0
        low, high = t_interval(means.difference, stderr, documents - 1)
        by_t += low <= truth <= high
        wrong += t_p((means.difference - truth) / stderr, documents - 1)[0] <= 0.05
    return Perplexity(Share(by_t / draws, draws), Share(wrong / draws, draws))


def power(loss: float, discordance: float, items: int, alpha: float, draws: int, seed: int) -> Share:
    """How often a true loss is found at a one-sided level."""
    from scipy.stats import norm

    counts, times = draw(cells(0.7, loss, discordance), items, draws, seed)
    return _share(score_z(ARTIFACT - BASELINE, counts, 0.0) <= norm.ppf(alpha), times)


class AdaptiveOutcome(NamedTuple):
    """What adaptive evaluations of a family of categories came to."""

    any_wrong_pass: Share
    any_wrong_fail: Share
    decided: Share
    """Categories that passed or failed."""
    asked: float
    """Mean share of the items that was asked."""


def adaptive(
    losses: Sequence[float],
    margin: float,
    items: int,
    draws: int,
    seed: int,
    folder: Path,
    flips: float = 0.15,
    looks: LookPlan | None = None,
) -> AdaptiveOutcome:
    """Runs of the real loop over categories of true `losses`; a share `flips` of the items flips, or all that are lost.

    A pass is wrong where the loss is the margin or more, a fail where it is the margin or less.
    """
    generator = np.random.default_rng(seed)
    names = [f"c{place}" for place in range(len(losses))]
    suite = simulated_suite(names, margin)
    path = folder / "samples.parquet"
    wrong_passes = wrong_fails = decided = asked = 0
    for _ in range(draws):
        drawn = {
            name: generator.choice(4, items, p=cells(0.7, loss, max(flips, abs(loss))))
            for name, loss in zip(names, losses, strict=True)
        }
        baseline = simulated_samples(drawn, BASELINE, dict.fromkeys(names, range(items)))
        write_samples(path, baseline)
        plan = Adaptive(plan=looks or LookPlan(), baseline=simulated_evaluation(suite, baseline), baseline_samples=path)
        found = evaluate_adaptively(plan, suite, functools.partial(simulated_samples, drawn, ARTIFACT))
        said = final_verdicts(plan, suite, found)
        wrong_passes += any(one == "pass" and loss >= margin for one, loss in zip(said, losses, strict=True))
        wrong_fails += any(one == "fail" and loss <= margin for one, loss in zip(said, losses, strict=True))
        decided += sum(one != "inconclusive" for one in said)
        asked += len(found.samples)
    categories = draws * len(losses)
    return AdaptiveOutcome(
        Share(wrong_passes / draws, draws),
        Share(wrong_fails / draws, draws),
        Share(decided / categories, categories),
        asked / (categories * items),
    )


def final_verdicts(adaptive: Adaptive, suite: Suite, found: Asked) -> list[str]:
    """What the comparison says of an adaptive evaluation, one word a category."""
    record = simulated_evaluation(suite, found.samples).model_copy(update={"looks": found.looks})
    ours = adaptive.baseline_samples.with_name("artifact.parquet")
    write_samples(ours, found.samples)
    kept = compare(adaptive.baseline, adaptive.baseline_samples, record, ours, policy_of(suite))
    return [one.verdict for one in kept.categories]


def simulated_suite(names: Sequence[str], margin: float) -> Suite:
    """One task a category, called as it is."""
    made = [Category(name=name, description="", tasks=[name], metric="acc", margin=margin) for name in names]
    return Suite(name="simulated", version="1", description="", categories=made)


def simulated_samples(
    drawn: Mapping[str, NDArray[np.int64]], scores: Floats, items: Mapping[str, Sequence[int]]
) -> list[Sample]:
    """The wanted items of each category, scored by the cell that was drawn for them."""
    return [
        Sample(
            task=name,
            category=name,
            filter="none",
            metric="acc",
            doc_id=item,
            doc_hash=f"d{item}",
            prompt_hash="p",
            sent_hash="s",
            target_hash="t",
            score=float(scores[drawn[name][item]]),
        )
        for name, wanted in items.items()
        for item in wanted
    ]


def simulated_evaluation(suite: Suite, samples: Sequence[Sample]) -> EvaluationRecord:
    scores = [
        category_score(category, [one for one in samples if one.category == category.name])
        for category in suite.categories
    ]
    return EvaluationRecord(
        model_digest="sha256:m",
        conditions=CONDITIONS,
        suite=suite.name,
        suite_version=suite.version,
        suite_digest="sha256:s",
        tasks=[],
        categories=scores,
        samples_file="samples.parquet",
        requests=0,
        truncated_prompts=0,
    )


class DesignErrors(NamedTuple):
    """What became of simulated samples whose true loss is exactly the margin."""

    wrong_passes: Share
    wrong_fails: Share
    coverage: Share
    """Of the 95 % interval of the difference."""
    wrong_passes_pooled: Share
    """If every item were taken for independent."""


def clustered_errors(
    clusters: int, size: int, flips: float, margin: float, correlation: float, draws: int, seed: int
) -> DesignErrors:
    """A category whose kinds are a sample; flips of one kind correlate (Dirichlet-multinomial).

    Args:
        clusters: Kinds drawn.
        size: Items of each.
        flips: Share of the items that flip.
        margin: The true loss, and what it is tested against.
        correlation: Of two items' outcomes in one kind.
        draws: Simulated samples.
        seed: Of the simulation.
    """
    generator = np.random.default_rng(seed)
    mean = cells(0.7, margin, flips)
    of_kinds = generator.dirichlet(np.maximum(mean * (1 / correlation - 1), 1e-9), (draws, clusters))
    drawn = generator.multinomial(size, of_kinds)
    strata = np.zeros(clusters * size, dtype=np.intp)
    design = Design(strata, np.repeat(np.arange(clusters), size), sampled=True)
    return _design_errors(
        [np.concatenate([np.repeat(range(4), kind) for kind in one]) for one in drawn], design, margin
    )


def stratified_errors(losses: Sequence[float], size: int, flips: float, draws: int, seed: int) -> DesignErrors:
    """A category of fixed kinds of so many items each, which truly lose `losses`; the margin is their mean."""
    generator = np.random.default_rng(seed)
    drawn = [generator.multinomial(size, cells(0.7, loss, max(flips, abs(loss))), draws) for loss in losses]
    kinds = len(losses)
    design = Design(np.repeat(np.arange(kinds), size), np.arange(kinds * size), sampled=False)
    outcomes = [np.concatenate([np.repeat(range(4), kind[draw]) for kind in drawn]) for draw in range(draws)]
    return _design_errors(outcomes, design, float(np.mean(losses)))


def _design_errors(outcomes: Sequence[NDArray[np.int64]], design: Design, margin: float) -> DesignErrors:
    weights = np.ones(len(design.strata))
    found = np.empty((len(outcomes), 4), dtype=bool)
    for number, cell in enumerate(outcomes):
        baseline, artifact = BASELINE[cell], ARTIFACT[cell]
        judged = paired_cells(baseline, artifact, weights, design)
        z = judged.mean_z(-margin)
        p_pass, p_fail = judged.tails(z)
        pooled = paired_cells(baseline, artifact, weights).mean_z(-margin)
        found[number] = p_pass <= 0.05, p_fail <= 0.05, abs(z) <= judged.reach, pooled >= Z_ONE_SIDED
    return DesignErrors(*(Share(float(column.mean()), len(outcomes)) for column in found.T))


def heterogeneity_error(kinds: int, size: int, flips: float, loss: float, draws: int, seed: int) -> Share:
    """How often kinds that all lose the same are found to differ at 5 %."""
    generator = np.random.default_rng(seed)
    hits = 0
    for _ in range(draws):
        drops = []
        for counts in generator.multinomial(size, cells(0.7, loss, flips), kinds).astype(np.float64):
            kind = PairedCells(BASELINE, ARTIFACT, counts)
            drops.append((kind.mean_difference, difference_stderr(kind)))
        tested = cochran_q([one for one, _ in drops], [error for _, error in drops])
        hits += tested is not None and tested.p_value <= 0.05
    return Share(hits / draws, draws)
