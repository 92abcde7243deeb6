"""What the judge of a gateway's pairs costs: pairs are written as the observer does it, then looked at as they grow.

PYTHONPATH=. python -P benchmarks/live_judge.py --pairs 100000
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from evals.judging.trial_judge import TrialJudge
from evals.judging.verdict_config import VerdictConfig
from registry.contracts import Answer, Pair
from registry.pair_database import PairDatabase, Trial

_TRIAL = Trial("one", "sha256:a", "sha256:b")
_NEW_AT_A_LOOK = 100


def main(pairs: int) -> None:
    """Print a line for each number."""
    metrics = {"errors": 0.01, "same": 0.6, "latency": 0.25, "tokens": 0.1, "refusals": 0.02, "length_stops": 0.02}
    # So small an alpha that nothing is decided, and every look judges all.
    config = VerdictConfig.model_validate({"alpha": 1e-6, "budget_pairs": 10 * pairs, "metrics": metrics})
    with TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.db"
        seconds = _written(path, 0, pairs)
        print(f"{pairs:,} pairs written: {pairs / seconds:,.0f} a second")
        judge = TrialJudge(path, _TRIAL.name, config)
        print(f"first look at all of them: {_look(judge):.2f} s")
        _written(path, pairs, _NEW_AT_A_LOOK)
        print(f"look with {_NEW_AT_A_LOOK} new ones: {_look(judge):.2f} s")
        print(f"look with nothing new: {1000 * _look(judge):.1f} ms")


def _written(path: Path, first: int, pairs: int) -> float:
    made = [_pair(number) for number in range(first, first + pairs)]
    start = time.perf_counter()
    with PairDatabase(path) as database:
        for one in made:
            database.offer(one, _TRIAL)
            while database.dropped:
                # As many as there is room for, and no more.
                database.dropped -= 1
                time.sleep(0.01)
                database.offer(one, _TRIAL)
    return time.perf_counter() - start


def _pair(number: int) -> Pair:
    # Half of what would have to be the same is: nothing is decided soon.
    side = {"status": 200, "completion_tokens": 20, "seconds": 1.0, "first_token_seconds": 0.1, "text_hash": "t"}
    return Pair.model_validate(
        {
            "id": f"p{number}",
            "number": 0,
            "source": "mirror",
            "at": "2026-01-01T00:00:00Z",
            "prompt_hash": "h",
            "prompt_characters": 10,
            "champion": Answer.model_validate(side),
            "candidate": Answer.model_validate(side | {"seconds": 1.0 + number % 10 / 30}),
            "same": number % 10 < 6,
        }
    )


def _look(judge: TrialJudge) -> float:
    start = time.perf_counter()
    judge.look()
    return time.perf_counter() - start


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100_000)
    main(parser.parse_args().pairs)
