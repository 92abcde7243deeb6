"""What our load tests cost on top of vLLM's own generator, and how many requests a second their client sustains.

    .venv/bin/python -P benchmarks/load_client.py overhead CHECKPOINT [--dtype float32] [--rounds 5] [--paced]
    .venv/bin/python -P benchmarks/load_client.py rate CHECKPOINT [--seconds 10] [--rates 100 250 500 750]

Run it alone on the machine. `overhead` serves the checkpoint and sends the same prompts in turns by vLLM's generator
alone (`main_async`, as `vllm bench serve` does) and as the load tests do, server watched and requests recorded; the
target is at most 1 % of throughput. Two runs of one kind differ by a tenth where others share the machine's cores, so
the processor time that the server took is told too: on a CPU that is what throughput is made of. With `--paced` the
fake server stands for vLLM and takes 20 ms a step whatever else goes on, so that a percent can be seen. `rate` sends
Poisson arrivals to the fake server, which answers at once; the target is 500 requests a second with next to no wait
between a request's arrival and its sending.
"""

import argparse
import asyncio
import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from registry.contracts.serving import Endpoint
from serving_checks.engines.base import ServerRequest
from serving_checks.engines.vllm import VllmEngine, VllmServerConfig
from serving_checks.load.adapter import Load, VllmGenerator
from serving_checks.load.points import load_point, percentiles
from serving_checks.load.prompts import Prompt, PromptSource, read_text
from serving_checks.load.requests import write_rows
from serving_checks.load.watch import ServerCounts, ServerWatch
from serving_checks.processes.supervisor import Supervised
from serving_checks.server import free_port, serve
from serving_checks.transport.http_json import get_text, post

PROMPT_TOKENS, OUTPUT_TOKENS, REQUESTS, CONCURRENCY = 64, 32, 32, 8
PACED = ("--ttft-seconds", "0.1", "--tpot-seconds", "0.02")
RATE_PROMPT_TOKENS, RATE_OUTPUT_TOKENS = 32, 4


def directly(endpoint: Endpoint, tokenizer_dir: Path, prompts: list[Prompt], folder: Path) -> tuple[float, float]:
    """Output tokens per second, and seconds all in all, by vLLM's generator with nothing of ours."""
    from vllm.benchmarks.serve import add_cli_args, main_async
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    dataset = folder / "prompts.jsonl"
    dataset.write_text("\n".join(json.dumps({"prompt": prompt.text}) for prompt in prompts))
    options: dict[str, Any] = {
        "backend": "openai",
        "base-url": endpoint.base_url,
        "endpoint": "/v1/completions",
        "model": endpoint.served_model_name,
        "tokenizer": tokenizer_dir,
        "dataset-name": "custom",
        "dataset-path": dataset,
        "custom-output-len": OUTPUT_TOKENS,
        "num-prompts": len(prompts),
        "max-concurrency": CONCURRENCY,
        "temperature": 0.0,
        "ready-check-timeout-sec": 0,
    }
    flags = ["--ignore-eos", "--disable-tqdm", "--disable-shuffle", "--skip-chat-template"]
    parser = FlexibleArgumentParser()
    add_cli_args(parser)
    arguments = parser.parse_args(
        [*flags, *(text for key, value in options.items() for text in (f"--{key}", str(value)))]
    )
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        result = asyncio.run(main_async(arguments))
    if result["completed"] != len(prompts):
        raise SystemExit(f"{result['failed']} requests failed")
    return float(result["output_throughput"]), time.perf_counter() - start


def as_we_do(endpoint: Endpoint, generator: VllmGenerator, prompts: list[Prompt], folder: Path) -> tuple[float, float]:
    """Likewise, with server watch, records and statistics as in a load test."""
    load = Load("short", CONCURRENCY, None)
    start = time.perf_counter()
    with ServerWatch(endpoint, VllmEngine(VllmServerConfig()).metrics) as watch:
        sent = generator.send(endpoint, load, prompts, OUTPUT_TOKENS)
    write_rows(folder / "rows.parquet", sent.rows)
    counts = watch.counts(sum(row.prompt_tokens for row in sent.rows), sum(row.output_tokens for row in sent.rows))
    point = load_point(load, sent, OUTPUT_TOKENS, counts, slo=None)
    if point.failed or point.invalid:
        raise SystemExit(point.invalid or f"{point.failed} requests failed")
    return point.output_tokens_per_second, time.perf_counter() - start


@contextlib.contextmanager
def vllm(checkpoint: Path, dtype: str) -> Iterator[tuple[Endpoint, int | None]]:
    """vLLM's endpoint, and the process whose children it is."""
    request = ServerRequest(VllmServerConfig(max_num_seqs=CONCURRENCY), checkpoint, dtype, "cpu", None)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder, serve(request, Path(folder) / "server.log") as server:
        yield server.endpoint, server.pid


@contextlib.contextmanager
def fake(checkpoint: Path, *options: str) -> Iterator[tuple[Endpoint, int | None]]:
    """Likewise the fake server's."""
    port = free_port(None)
    base_url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-P", "-m", "serving_checks.fake.fake_server", "--port", str(port), *options]
    with tempfile.TemporaryDirectory() as folder, Supervised(command, log_file=Path(folder) / "server.log") as child:
        while True:
            try:
                get_text(f"{base_url}/health")
                break
            except OSError:
                if child.wait(0.1) is not None:
                    raise SystemExit(f"the fake server died:\n{child.log_tail()}") from None
        yield (
            Endpoint(base_url=base_url, served_model_name="model", model_path=str(checkpoint), max_model_len=4096),
            child.pid,
        )


def overhead(checkpoint: Path, dtype: str, rounds: int, paced: bool) -> None:
    """Both in turns on one server; the order within a round alternates."""
    generator, source = _client(checkpoint)
    readings: dict[str, list[tuple[float, float, float]]] = {"directly": [], "as we do": []}
    server = fake(checkpoint, *PACED) if paced else vllm(checkpoint, dtype)
    with tempfile.TemporaryDirectory() as folder, server as (endpoint, pid):
        for turn in range(rounds + 1):
            for kind in list(readings)[:: 1 if turn % 2 else -1]:
                post(f"{endpoint.base_url}/reset_prefix_cache")
                prompts = [source.prompt(PROMPT_TOKENS) for _ in range(REQUESTS)]
                before = _cpu_seconds(pid)
                if kind == "directly":
                    throughput, seconds = directly(endpoint, checkpoint, prompts, Path(folder))
                else:
                    throughput, seconds = as_we_do(endpoint, generator, prompts, Path(folder))
                reading = (throughput, seconds, _cpu_seconds(pid) - before)
                # The first round warms the server up.
                if turn:
                    readings[kind].append(reading)
                    print(
                        f"round {turn}, {kind:9}: {throughput:8.2f} tokens/s, {seconds:6.2f} s in all, server "
                        f"{reading[2]:.2f} s of processor time",
                        flush=True,
                    )
    fastest = {kind: max(reading[0] for reading in readings[kind]) for kind in readings}
    print("fastest round: " + ", ".join(f"{kind} {value:.2f} tokens/s" for kind, value in fastest.items()))
    for place, what in ((0, "throughput"), (2, "the server's processor time")):
        direct, ours = ([reading[place] for reading in readings[kind]] for kind in ("directly", "as we do"))
        ratios = [mine / theirs for mine, theirs in zip(ours, direct, strict=True)]
        spread = statistics.stdev(ratios) / len(ratios) ** 0.5 if rounds > 1 else float("nan")
        print(
            f"{what}: median directly {statistics.median(direct):.2f}, as we do {statistics.median(ours):.2f}; "
            f"changed by {100 * (statistics.mean(ratios) - 1):+.2f} % ± {100 * spread:.2f} (standard error)"
        )


def _cpu_seconds(pid: int | None) -> float:
    """Processor time of a server's processes so far."""
    processes = psutil.Process(pid).children(recursive=True)
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def rate(checkpoint: Path, seconds: float, rates: list[float]) -> None:
    """Open loops against the fake server, one a rate."""
    generator, source = _client(checkpoint)
    with fake(checkpoint) as (endpoint, _):
        for offered in rates:
            prompts = [source.prompt(RATE_PROMPT_TOKENS) for _ in range(round(offered * seconds))]
            load = Load("short", None, offered)
            sent = generator.send(endpoint, load, prompts, RATE_OUTPUT_TOKENS)
            point = load_point(load, sent, RATE_OUTPUT_TOKENS, ServerCounts(None, None, None, None), slo=None)
            queue = percentiles(row.queue_seconds for row in sent.rows)
            # The last requests' answers are waited for, so a rate is kept where sending took as long as planned.
            planned = max(row.arrival_seconds for row in sent.rows)
            sending = max(row.start_seconds for row in sent.rows)
            print(
                f"offered {offered:6.0f}/s: sent {len(prompts) / sending:6.1f}/s, {sending:.2f} s of {planned:.2f} s, "
                f"completed {point.requests_per_second:6.1f}/s, failed {point.failed}, client wait p50 "
                f"{1000 * queue.p50_seconds:.1f} ms, p99 {1000 * queue.p99_seconds:.1f} ms, "
                f"TTFT p50 {1000 * point.ttft.p50_seconds:.1f} ms",
                flush=True,
            )


def _client(checkpoint: Path) -> tuple[VllmGenerator, PromptSource]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    engine = VllmEngine(VllmServerConfig())
    generator = VllmGenerator(tokenizer, 600.0, {**engine.greedy, **engine.fixed_length})
    return generator, PromptSource(tokenizer, read_text(None), seed=0)


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    for name in ("overhead", "rate"):
        command = commands.add_parser(name)
        command.add_argument("checkpoint", type=Path)
        if name == "overhead":
            command.add_argument("--dtype", default="float32")
            command.add_argument("--rounds", type=int, default=5)
            command.add_argument("--paced", action="store_true", help="on the fake server, 20 ms a step")
        else:
            command.add_argument("--seconds", type=float, default=10.0)
            command.add_argument("--rates", type=float, nargs="+", default=[100, 250, 500, 750])
    arguments = parser.parse_args()
    if arguments.command == "overhead":
        overhead(arguments.checkpoint, arguments.dtype, arguments.rounds, arguments.paced)
    else:
        rate(arguments.checkpoint, arguments.seconds, arguments.rates)


if __name__ == "__main__":
    main()
