"""How often a calibrated cascade loses more than was stated, beside two naive thresholds, and what deciding costs: the
tables of docs/routing.md.

Run: PYTHONPATH=. python -P benchmarks/route.py [--draws 500]
"""

import argparse
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evals.judging.routes import LOGPROB_THRESHOLDS
from evals.statistics.confidence_sequence import Bounded
from evals.statistics.routing import supported
from registry.prompt_features import features_of, probability

Drawn = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Log-probabilities of answers, and what is lost where these are given to the client [items]."""
ALPHA = 0.05
_MANY = 4_000_000
"""Items that a population's true losses are taken from."""


class Population(NamedTuple):
    """Prompts of which answers are sure to a degree, and wrong to another."""

    name: str
    to_wrong: float
    """Share of answers that turn wrong, at the mean."""
    to_right: float
    tells: float
    """How much log-probabilities say of that: 0 for nothing."""

    def draw(self, items: int, generator: np.random.Generator) -> Drawn:
        """Mean log-probabilities are lognormal about -0.3 nats."""
        sureness = generator.standard_normal(items)
        odds = math.log(self.to_wrong / (1 - self.to_wrong)) + self.tells * sureness
        wrong = generator.random(items) < 1 / (1 + np.exp(-odds))
        right = generator.random(items) < self.to_right
        return -0.3 * np.exp(sureness), wrong.astype(float) - (right & ~wrong)


POPULATIONS = (
    Population("5 % wrong, log-probabilities tell much", 0.05, 0.01, 1.5),
    Population("5 % wrong, they tell a little", 0.05, 0.01, 0.5),
    Population("5 % wrong, 4 % right, they tell nothing", 0.05, 0.04, 0.0),
)


def fixed_sequence(drawn: Drawn, limit: float) -> float | None:
    """The threshold that this project takes."""
    logprobs, lost = drawn
    choices = (Bounded(np.where(logprobs >= one, lost, 0.0), -1.0, 1.0) for one in LOGPROB_THRESHOLDS)
    count = supported(choices, limit, ALPHA)
    return LOGPROB_THRESHOLDS[count - 1] if count else None


def plug_in(drawn: Drawn, limit: float) -> float | None:
    """The lowest threshold whose observed loss is within the limit."""
    return _lowest(drawn, limit, errors=0.0)


def plug_in_95(drawn: Drawn, limit: float) -> float | None:
    """The lowest one whose loss and 1.645 standard errors are."""
    return _lowest(drawn, limit, errors=1.645)


def _lowest(drawn: Drawn, limit: float, errors: float) -> float | None:
    logprobs, lost = drawn
    found = [np.where(logprobs >= one, lost, 0.0) for one in LOGPROB_THRESHOLDS]
    within = [
        threshold
        for threshold, one in zip(LOGPROB_THRESHOLDS, found, strict=True)
        if one.mean() + errors * one.std() / math.sqrt(len(one)) <= limit
    ]
    return min(within, default=None)


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=500)
    draws = parser.parse_args().draws
    print_guarantee(draws)
    print_speed()


def print_guarantee(draws: int) -> None:
    """Too large losses of three ways to choose, and the share that the sound one serves cheaply."""
    print("| answers | pairs | fixed sequence | lowest observed | lowest, 95 % each | cheap | possible |")
    print("|---|---|---|---|---|---|---|")
    limit = 0.01
    for population in POPULATIONS:
        truth = population.draw(_MANY, np.random.default_rng(0))
        losses = {one: float(np.where(truth[0] >= one, truth[1], 0.0).mean()) for one in LOGPROB_THRESHOLDS}
        shares = {one: float((truth[0] >= one).mean()) for one in LOGPROB_THRESHOLDS}
        possible = max((shares[one] for one in LOGPROB_THRESHOLDS if losses[one] <= limit), default=0.0)
        for pairs in (1000, 4000, 16000):
            wrong, served = _tried(population, pairs, limit, draws, losses, shares)
            rates = " | ".join(f"{one / draws:.1%}" for one in wrong)
            told = f"{population.name} | {pairs:,} | {rates} | {served:.0%} | {possible:.0%}"
            print(f"| {told} |", flush=True)


def _tried(
    population: Population,
    pairs: int,
    limit: float,
    draws: int,
    losses: dict[float, float],
    shares: dict[float, float],
) -> tuple[list[int], float]:
    """How often each way loses more than the limit, and the median share that the first one serves."""
    ways: tuple[Callable[[Drawn, float], float | None], ...] = (fixed_sequence, plug_in, plug_in_95)
    wrong, served = [0, 0, 0], []
    for draw in range(draws):
        drawn = population.draw(pairs, np.random.default_rng(draw + 1))
        chosen = [way(drawn, limit) for way in ways]
        for place, threshold in enumerate(chosen):
            wrong[place] += threshold is not None and losses[threshold] > limit
        served.append(0.0 if chosen[0] is None else shares[chosen[0]])
    return wrong, float(np.median(served))


def print_speed() -> None:
    """Processor time of a classifier's decision and of a calibration."""
    weights = {f"w{place}": 0.1 for place in range(1024)}
    print("\n| what | time |\n|---|---|")
    for name, text in (
        ("100 characters", "What is the capital of the country? " * 3),
        ("4,000", "What is the capital of the country? " * 111),
        ("1,000,000", "What is the capital of the country? " * 27_778),
    ):
        begun = time.process_time()
        for _ in range(200):
            probability(features_of(text), weights, -1.0)
        print(f"| a classifier's decision, {name} | {(time.process_time() - begun) / 200 * 1e6:,.0f} µs |")
    drawn = POPULATIONS[0].draw(100_000, np.random.default_rng(0))
    begun = time.process_time()
    fixed_sequence(drawn, 0.05)
    print(f"| a cascade's calibration on 100,000 pairs | {time.process_time() - begun:.2f} s |")


if __name__ == "__main__":
    main()
