"""Measures what `evals/asking/request_plan.py` assumes: the cost of a request, and of a token with its log-probability.

    .venv/bin/python -P benchmarks/request_plan.py CHECKPOINT

Run it alone on the machine; about three minutes. Prompts of several lengths, none of them in the prefix cache, are
asked for one token (plain) and for the log-probabilities of all their tokens as well (echo), as many at once as an
evaluation asks. Least squares of the relative errors give the seconds of a request, of a plain token and of an echoed
one. The plan counts in plain tokens, so it is their ratios that it wants.
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

import numpy as np

from evals.asking.client import Client
from evals.asking.request_plan import ECHO_COST, REQUEST_COST, Score, Scoring
from pipelines.planning.device import detect_machine
from serving_checks.engines.base import ServerRequest
from serving_checks.engines.vllm import VllmServerConfig
from serving_checks.server import serve

LENGTHS = (16, 64, 256)
NUM_CONCURRENT = 48
SERVER = VllmServerConfig(max_model_len=2048, max_num_seqs=32)


def requests_of(length: int, count: int, echo: bool, vocabulary: int, draw: random.Random) -> list[Scoring]:
    """`count` prompts of `length` random tokens; with `echo` their own log-probabilities are wanted too."""
    requests = []
    for _ in range(count):
        prompt = tuple(draw.randrange(vocabulary) for _ in range(length))
        question = Score(prompt[:1], (*prompt[1:], 0)) if echo else Score(prompt, (0,))
        requests.append(Scoring(prompt, 1 if echo else length, [(question, 0)]))
    return requests


def costs(rows: list[tuple[int, int, bool, float]]) -> tuple[float, float, float]:
    """Seconds of a request, a plain token and an echoed token.

    Args:
        rows: (length, count, echo, seconds) of each batch.
    """
    parts = np.array([[count, length * count * (not echo), length * count * echo] for length, count, echo, _ in rows])
    seconds = np.array([row[-1] for row in rows])
    found, *_ = np.linalg.lstsq(parts / seconds[:, None], np.ones(len(rows)), rcond=None)
    return float(found[0]), float(found[1]), float(found[2])


def main() -> None:
    """Print a line a batch and the two ratios beside the assumed ones."""
    machine = detect_machine()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--tokens", type=int, default=4096, help="of the prompts of a batch, together")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dtype", default=machine.serve_dtype(in_16_bits_only=False))
    arguments = parser.parse_args()
    vocabulary = json.loads((arguments.checkpoint / "config.json").read_text())["vocab_size"]
    request = ServerRequest(SERVER, arguments.checkpoint, arguments.dtype, machine.device, machine.serving_threads)
    draw = random.Random(1)  # noqa: S311 - no secret
    rows: list[tuple[int, int, bool, float]] = []
    print(
        f"{machine.device_name}, {machine.serving_threads} threads, {arguments.dtype}; starting the server", flush=True
    )
    with tempfile.TemporaryDirectory() as folder, serve(request, Path(folder) / "server.log") as server:
        client = Client([server.endpoint], NUM_CONCURRENT)
        for echo in (False, True):
            client.complete([one.body() for one in requests_of(LENGTHS[0], 4, echo, vocabulary, draw)])
        print(f"{'tokens a prompt':>16} {'requests':>9} {'kind':>6} {'seconds':>8} {'ms a request':>13}")
        for _ in range(arguments.rounds):
            for length in LENGTHS:
                for echo in (False, True):
                    count = max(1, arguments.tokens // length)
                    bodies = [one.body() for one in requests_of(length, count, echo, vocabulary, draw)]
                    start = time.monotonic()
                    client.complete(bodies)
                    seconds = time.monotonic() - start
                    rows.append((length, count, echo, seconds))
                    kind = "echo" if echo else "plain"
                    print(f"{length:16} {count:9} {kind:>6} {seconds:8.2f} {1000 * seconds / count:13.1f}", flush=True)
    of_request, plain, echoed = costs(rows)
    print(f"\na plain token takes {1e6 * plain:.0f} us")
    print(f"a request by itself, in plain tokens: {of_request / plain:.1f} (the plan assumes {REQUEST_COST})")
    print(f"an echoed token, in plain tokens:     {echoed / plain:.2f} (the plan assumes {ECHO_COST})")


if __name__ == "__main__":
    main()
