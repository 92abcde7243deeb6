"""What replay costs beside the servers: its wall time over that of a bare client that streams the same answers.

    .venv/bin/python -P benchmarks/replay.py [--prompts 400] [--tokens 32] [--tpot-seconds 0.02] [--concurrency 8]

Two fake servers keep an engine's clock and compute nothing, so what is over their time is the client's: building
bodies, reading streams, comparing, and keeping each pair. Run it alone on the machine.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from pipelines.recipe.replay_config import ReplayConfig
from pipelines.stage_programs.replay_stage import ReplayJob, ReplaySide, replay
from registry.contracts import Endpoint, ReplayedModel, ReplayRecord
from registry.hashing import digest_of
from registry.stage_process import StageClock
from serving_checks.processes.supervisor import Supervised
from serving_checks.replay.prompts import read_prompts
from serving_checks.server import free_port
from serving_checks.transport.http_json import get_text
from serving_checks.transport.streaming import StreamingClient


def bare_seconds(endpoint: Endpoint, prompts: list[str], tokens: int, concurrency: int) -> float:
    """Wall time of the load tests' client for the same requests."""

    async def work() -> float:
        waiting = iter(prompts)
        async with StreamingClient(endpoint) as client:

            async def ask() -> None:
                for prompt in waiting:
                    await client.complete(prompt, tokens)

            start = time.perf_counter()
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(ask())
            return time.perf_counter() - start

    return asyncio.run(work())


def replay_seconds(folder: Path, log: Path, endpoints: list[Endpoint], concurrency: int) -> tuple[float, float]:
    """Wall time of both sides' answers, one after the other, and the processor time of this process."""
    sides = [
        {"serving": {"engine": "openai", "base_url": endpoint.base_url, "served_model_name": "model"}}
        for endpoint in endpoints
    ]
    config = ReplayConfig.model_validate(
        {
            "version": 1,
            "name": "cost",
            "prompts": {"file": str(log)},
            "champion": sides[0],
            "candidate": sides[1],
            "together": False,
            "asking": {"concurrency": concurrency},
        }
    )
    side = ReplayedModel(name="fake", digest=None, engine="openai", engine_version="unknown", dtype="float32")
    opened = ReplayRecord(
        name="cost",
        config=config.shaping(),
        config_digest=digest_of(config.shaping()),
        prompts=read_prompts(config.prompts, None, None).record,
        champion=side,
        candidate=side,
        device="cpu",
        device_name="this one",
        verdict={},
        verdict_digest=digest_of({}),
        started_at=datetime.now(UTC),
    )
    job = ReplayJob(
        stage="replay",
        result_file=folder / "replay.result.json",
        output_dir=folder / "replay",
        config=config,
        opened=opened,
        champion=ReplaySide(model_dir=Path()),
        candidate=ReplaySide(model_dir=Path()),
        device="cpu",
        threads=1,
    )
    job.output_dir.mkdir()
    clock = StageClock(folder / "progress")
    start = time.process_time()
    replay(job, clock)
    return clock.timings_seconds["champion_answers"] + clock.timings_seconds["candidate_answers"], (
        time.process_time() - start
    )


def main() -> None:
    """Measure both and print them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=400)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--tpot-seconds", type=float, default=0.02)
    parser.add_argument("--concurrency", type=int, default=8)
    options = parser.parse_args()
    prompts = [f"prompt number {number} of a few words" for number in range(options.prompts)]
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as servers:
        folder = Path(scratch)
        log = folder / "log.jsonl"
        log.write_text("".join(json.dumps({"prompt": text, "max_tokens": options.tokens}) + "\n" for text in prompts))
        endpoints = [_served(servers, folder, options.tpot_seconds) for _ in range(2)]
        bare = sum(bare_seconds(one, prompts, options.tokens, options.concurrency) for one in endpoints)
        wall, computed = replay_seconds(folder, log, endpoints, options.concurrency)
    ideal = 2 * options.prompts / options.concurrency * options.tokens * options.tpot_seconds
    print(f"the servers' clocks alone  {ideal:8.2f} s")
    print(f"a bare streaming client    {bare:8.2f} s")
    print(f"replay                     {wall:8.2f} s  {100 * (wall / bare - 1):+.2f} % over the bare client")
    print(f"its processor time         {computed:8.2f} s  {1000 * computed / (2 * options.prompts):.2f} ms an answer")


def _served(servers: ExitStack, folder: Path, tpot_seconds: float) -> Endpoint:
    port = free_port(None)
    argv = [
        *(sys.executable, "-P", "-m", "serving_checks.fake.fake_server"),
        *("--port", str(port), "--tpot-seconds", str(tpot_seconds)),
    ]
    servers.enter_context(Supervised(argv, log_file=folder / f"{port}.log"))
    url = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            get_text(f"{url}/v1/models", timeout_seconds=2.0)
            return Endpoint(base_url=url, served_model_name="model", model_path="", max_model_len=4096)
        except OSError:
            time.sleep(0.05)
    raise SystemExit("the fake server does not answer")


if __name__ == "__main__":
    main()
