"""How long a verdict takes, how often it is wrong, and how many pairs it needs: the tables of docs/verdict.md.

Run: PYTHONPATH=. python -P benchmarks/verdict.py [--draws 2000]
"""

import argparse
import time

import numpy as np

from evals.judging.pair_observations import observations_of
from evals.judging.shadow_verdict import judge_pairs
from evals.judging.verdict_config import Limits, VerdictConfig
from tests import shadow_simulations as simulate
from tests.shadow_pairs import simulated_table

TRUTHS = {
    "0/1 scores, 0.5 % flip, all to wrong": simulate.flips(0.005, -0.005),
    "0/1 scores, 2 % flip, all to wrong": simulate.flips(0.02, -0.02),
    "0/1 scores, 5 % flip": simulate.flips(0.05, -0.02),
    "0/1 scores, 20 % flip": simulate.flips(0.2, -0.02),
    "same answers, 97 %": simulate.shares(0.97),
    "agreement, mean 95 %, skewed": simulate.skewed(0.95),
    "log ratio, spread 0.4": simulate.clipped_logs(1.1, 0.4),
    "log ratio, spread 1.5, a third clipped": simulate.clipped_logs(1.1, 1.5),
}


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=2000)
    draws = parser.parse_args().draws
    print_speed()
    print_errors(draws)
    print_control(draws)
    print_needed(max(100, draws // 10))


def print_speed() -> None:
    """A verdict over 100,000 pairs, processor time of the best of three."""
    table = simulated_table(100_000, classes=("chat", "code", "math"))
    unrecorded = ("logprob", "tool_calls", "preference")
    limits = {name: 0.1 for name in Limits.model_fields if name not in unrecorded} | {"same": 0.7, "agreement": 0.9}
    print("| pairs | metrics | classes | reading | judging |\n|---|---|---|---|---|")
    for classes in ("all", "each"):
        config = VerdictConfig.model_validate({"budget_pairs": 100_000, "classes": classes, "metrics": limits})
        reading, judging = [], []
        for _ in range(3):
            begun = time.process_time()
            observed = observations_of(table)
            read = time.process_time()
            judge_pairs(observed, config)
            judging.append(time.process_time() - read)
            reading.append(read - begun)
        asked = "3 and all" if classes == "each" else "all"
        print(f"| 100,000 | {len(limits)} | {asked} | {min(reading):.2f} s | {min(judging):.2f} s |", flush=True)


def print_errors(draws: int) -> None:
    """How often the interval ever excludes the truth: it should be no more than the level."""
    print("\n| what | true mean | 1,000 pairs | 10,000 pairs |\n|---|---|---|---|")
    for name, truth in TRUTHS.items():
        found = [simulate.ever_excluded(truth, pairs, 0.05, draws, pairs).hits for pairs in (1000, 10_000)]
        print(f"| {name} | {truth.mean:.3f} | {' | '.join(f'{one:.1%}' for one in found)} |", flush=True)


def print_control(draws: int) -> None:
    """Wrong passes at the limit, and what an interval for one look makes of the same looks."""
    print("\n| what | looks | this verdict | mean and standard error at each look |\n|---|---|---|---|")
    for name in ("0/1 scores, 5 % flip", "0/1 scores, 20 % flip", "log ratio, spread 0.4"):
        for pairs, every in ((10_000, 10_000), (10_000, 1000), (10_000, 50)):
            found = simulate.wrong_passes(TRUTHS[name], pairs, every, 0.05, draws, pairs)
            rates = f"{found.sequence.hits:.1%} | {found.naive.hits:.1%}"
            print(f"| {name} | {pairs // every} | {rates} |", flush=True)


def print_needed(draws: int) -> None:
    """Pairs until a limit is decided, for half of the draws and for four in five."""
    print("\n| truth | limit | decides | half of the time after | in 4 of 5 | plug-in bets: half | 4 of 5 |")
    print("|---|---|---|---|---|---|---|")
    # To fail, a tenth of alpha: one of ten metrics.
    cases = (
        ("no answer ever differs", simulate.flips(0.0, 0.0), -0.01, "-1 point"),
        ("no answer ever differs", simulate.flips(0.0, 0.0), -0.02, "-2 points"),
        ("1 % of the answers differ, nothing lost", simulate.flips(0.01, 0.0), -0.01, "-1 point"),
        ("5 % differ, nothing lost", simulate.flips(0.05, 0.0), -0.02, "-2 points"),
        ("5 % differ, 1 point lost", simulate.flips(0.05, -0.01), -0.02, "-2 points"),
        ("20 % differ, nothing lost", simulate.flips(0.2, 0.0), -0.02, "-2 points"),
        ("20 % differ, 1 point lost", simulate.flips(0.2, -0.01), -0.02, "-2 points"),
        ("20 % differ, 5 points lost", simulate.flips(0.2, -0.05), -0.02, "-2 points"),
        ("90 % same", simulate.shares(0.9), 0.8, "80 %"),
        ("97 % same", simulate.shares(0.97), 0.95, "95 %"),
        ("ratio 1.0, spread 0.4", simulate.clipped_logs(1.0, 0.4), float(np.log(1.1)), "+10 %"),
        ("ratio 1.05, spread 0.4", simulate.clipped_logs(1.05, 0.4), float(np.log(1.1)), "+10 %"),
        ("ratio 1.2, spread 0.4", simulate.clipped_logs(1.2, 0.4), float(np.log(1.1)), "+10 %"),
    )
    for name, truth, limit, told in cases:
        less_is_better = truth.high == simulate.CLIP
        passes = (truth.mean < limit) if less_is_better else (truth.mean > limit)
        level = 0.05 if passes else 0.005
        cells = []
        for plug_in in (False, True):
            found = simulate.needed(truth, limit, level, 60_000, draws, 11, plug_in=plug_in)
            cells += [f"{pairs:,.0f}" if np.isfinite(pairs) else "> 60,000" for pairs in found]
        print(f"| {name} | {told} | {'pass' if passes else 'fail'} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
