"""How often the intervals hold the truth and how often the gate is wrong: the tables of docs/statistics.md.

Run: PYTHONPATH=. python -P benchmarks/uncertainty.py [--draws 100000]
"""

import argparse
import tempfile
from pathlib import Path

from evals.statistics.sequential import LookPlan
from tests import simulations as simulate

SIZES = (50, 200, 1000)


def main() -> None:
    """Print the tables as Markdown; each number has the Monte Carlo error that its number of draws gives."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=100_000)
    draws = parser.parse_args().draws
    print("| flips | loss | items | difference | retention | above chance 0.25 |\n|---|---|---|---|---|---|")
    for discordance, loss in ((0.02, 0.0), (0.02, 0.02), (0.1, 0.0), (0.1, 0.05), (0.3, 0.05)):
        for items in SIZES:
            truth = simulate.cells(0.7, loss, discordance)
            found = [
                simulate.difference_coverage(truth, items, draws, items),
                *(simulate.ratio_coverage(truth, chance, items, draws, items) for chance in (0.0, 0.25)),
            ]
            print(f"| {discordance:.0%} | {loss:.0%} | {items} | {' | '.join(f'{one.hits:.1%}' for one in found)} |")
    print("\n| scores | margin | flips | items | wrong passes | wrong fails |\n|---|---|---|---|---|---|")
    for margin, discordance in ((0.02, 0.02), (0.02, 0.1), (0.05, 0.1), (0.05, 0.3)):
        for items in SIZES:
            errors = [
                simulate.gate_error(margin, discordance, items, draws, items, wrong).hits for wrong in ("pass", "fail")
            ]
            print(f"| 0/1 | {margin:.0%} | {discordance:.0%} | {items} | {errors[0]:.1%} | {errors[1]:.1%} |")
    for margin, spread in ((0.02, 0.05), (0.02, 0.2)):
        for items in SIZES:
            error = simulate.graded_gate_error(margin, spread, items, draws // 10, items).hits
            print(f"| graded, {spread} | {margin:.0%} | | {items} | {error:.1%} | |")
    print("\n| looks | spending | items | wrong passes | without correction |\n|---|---|---|---|---|")
    for fractions in ((0.25, 0.5, 1.0), (0.2, 0.4, 0.6, 0.8, 1.0)):
        for spending in ("obrien_fleming", "pocock"):
            for items in (400, 2000):
                guarded, naive = simulate.looks_error(fractions, spending, 0.05, 0.15, items, draws // 4, 1)
                print(f"| {len(fractions)} | {spending} | {items} | {guarded.hits:.1%} | {naive.hits:.1%} |")
    print_adaptive(draws // 20)
    print_asked(max(20, draws // 100))
    print_designs(max(200, draws // 10))
    print("\n| categories | any wrong pass, Holm | without |\n|---|---|---|")
    for categories in (3, 8):
        family = simulate.family_error(categories, 0.05, 500, draws // 50, 1)
        print(f"| {categories} | {family[0].hits:.1%} | {family[1].hits:.1%} |")
    print("\n| documents | spread | t interval | wrong passes |\n|---|---|---|---|")
    for documents in (3, 5, 8, 20, 62, 200):
        for skewed in (False, True):
            held = simulate.perplexity(documents, draws, documents, skewed=skewed)
            shares = " | ".join(f"{one.hits:.1%}" for one in held)
            print(f"| {documents} | {'skewed' if skewed else 'even'} | {shares} |")


def print_asked(draws: int) -> None:
    """What adaptive evaluations of six categories are asked, by losses, items and spending."""
    print("\n| items, margin | true losses | obrien_fleming: asked | decided | pocock: asked | decided |")
    print("|---|---|---|---|---|---|")
    for items, margin in ((120, 0.02), (396, 0.05), (1600, 0.05)):
        for losses, flips in (((0.0,) * 6, 0.06), ((0.1, *(0.01,) * 5), 0.15), ((0.15,) * 6, 0.25), ((0.3,) * 6, 0.4)):
            told = ""
            for spending in ("obrien_fleming", "pocock"):
                looks = LookPlan.model_validate({"spending": spending})
                with tempfile.TemporaryDirectory() as folder:
                    found = simulate.adaptive(losses, margin, items, draws, 1, Path(folder), flips, looks)
                told += f" | {found.asked:.0%} | {found.decided.hits:.0%}"
            print(f"| {items}, {margin:.0%} | {', '.join(f'{loss:.0%}' for loss in losses)}{told} |", flush=True)


def print_designs(draws: int) -> None:
    """The tables of sampled kinds of 30 items each, and of fixed ones of 90."""
    print("\n| kinds | correlation | flips | margin | interval | wrong passes | wrong fails | passes if pooled |")
    print("|---|---|---|---|---|---|---|---|")
    for correlation in (0.1, 0.3):
        for kinds in (10, 15, 30, 60):
            for flips, margin in ((0.02, 0.02), (0.1, 0.05), (0.3, 0.05)):
                found = simulate.clustered_errors(kinds, 30, flips, margin, correlation, draws, kinds)
                print(f"| {kinds} | {correlation} | {flips:.0%} | {margin:.0%} | {_cells(found)} |", flush=True)
    print("\n| true losses of four fixed kinds | interval | wrong passes | wrong fails | passes if pooled |")
    print("|---|---|---|---|---|")
    for losses in ((0.05,) * 4, (0.2, 0.1, -0.05, -0.05), (0.3, 0.3, -0.13, -0.27)):
        told = _cells(simulate.stratified_errors(losses, 90, 0.15, draws, 1))
        print(f"| {', '.join(f'{loss:.0%}' for loss in losses)} | {told} |", flush=True)


def _cells(found: simulate.DesignErrors) -> str:
    rates = (found.coverage, found.wrong_passes, found.wrong_fails, found.wrong_passes_pooled)
    return " | ".join(f"{one.hits:.1%}" for one in rates)


def print_adaptive(draws: int) -> None:
    """The table of adaptive evaluations: three categories, 400 items each, margin 5 points."""
    print("\n| true losses | any wrong pass | any wrong fail | decided | items asked |\n|---|---|---|---|---|")
    for losses in ((0.05, 0.05, 0.05), (0.0, 0.0, 0.0), (0.15, 0.15, 0.15), (0.0, 0.05, 0.15)):
        with tempfile.TemporaryDirectory() as folder:
            found = simulate.adaptive(losses, 0.05, 400, draws, 1, Path(folder))
        shares = (found.any_wrong_pass.hits, found.any_wrong_fail.hits, found.decided.hits, found.asked)
        print(f"| {', '.join(f'{loss:.0%}' for loss in losses)} | {' | '.join(f'{one:.1%}' for one in shares)} |")


if __name__ == "__main__":
    main()
