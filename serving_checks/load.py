"""Load tests through vLLM's own load generator (vllm/benchmarks/serve.py), in a process of its own.

That generator takes half a minute to import on a slow core, so its process is started first and waits for the server:

    with LoadClient(config, model_dir, work_dir) as client:      # imports meanwhile
        with serve(...) as server:
            points = client.run(server.endpoint)
"""

import asyncio
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import Field, TypeAdapter, model_validator

from configs.base import StrictModel
from configs.errors import RequestError, StageError
from registry.contracts.serving import Endpoint, LoadPoint
from registry.files import write_text_atomically
from serving_checks.supervisor import Supervised

_POLL_SECONDS = 0.2
_POINTS = TypeAdapter(list[LoadPoint])


class LoadConfig(StrictModel):
    """Load tests of random prompts with answers of a fixed length, one test for each number of concurrent requests."""

    concurrency: list[int] = Field(default=[1, 8], min_length=1)
    """Requests that are kept in flight, one load test for each entry."""
    requests: int = Field(default=16, ge=1)
    """Requests of each load test; at least the highest concurrency, or it would never be reached."""
    prompt_tokens: int = Field(default=64, ge=1)
    """Length of each prompt, before the tokenizer's special tokens."""
    output_tokens: int = Field(default=32, ge=2)
    """Length of each answer; the model's own end is ignored. Two at least: one token has no time per output token."""
    seed: int = 0
    """Of the random prompts; each load test adds its place in the list, so that no prompt is in the prefix cache."""
    warmup_requests: int = Field(default=2, ge=0)
    """Requests before each load test that are not counted."""
    deadline_seconds: float = Field(default=1800.0, gt=0)
    """For all load tests of one model together."""

    @model_validator(mode="after")
    def _reaches_its_concurrency(self) -> Self:
        if min(self.concurrency) < 1 or max(self.concurrency) > self.requests:
            raise ValueError(f"every concurrency must lie between 1 and `requests` ({self.requests})")
        return self


class _Job(StrictModel):
    config: LoadConfig
    tokenizer_dir: Path
    endpoint_file: Path
    points_file: Path


class LoadClient:
    """The load generator's process: starts importing at once, tests when told where the server is.

    Args:
        config: What to send.
        tokenizer_dir: The served model's directory.
        work_dir: An empty directory for the job, its result and its log.
        fork_server: Address of what `vllm_fork_server` started, if there is one.
    """

    def __init__(
        self, config: LoadConfig, tokenizer_dir: Path, work_dir: Path, fork_server: Path | None = None
    ) -> None:
        self._config = config
        self._job = _Job(
            config=config,
            tokenizer_dir=tokenizer_dir,
            endpoint_file=work_dir / "endpoint.json",
            points_file=work_dir / "points.json",
        )
        job_file = work_dir / "load_job.json"
        write_text_atomically(job_file, self._job.model_dump_json())
        self._child = Supervised(
            [sys.executable, "-P", "-m", "serving_checks.load", str(job_file)],
            log_file=work_dir / "load.log",
            env={"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"},
            fork_server=fork_server,
        )

    def __enter__(self) -> Self:
        self._child.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.stop()

    def run(self, endpoint: Endpoint) -> list[LoadPoint]:
        """Test `endpoint` at every concurrency, in the config's order.

        Raises:
            RequestError: Prompt and answer do not fit the server's context.
            StageError: The generator failed, the deadline came first, or at some concurrency no request completed.
        """
        needed = self._config.prompt_tokens + self._config.output_tokens
        if needed > endpoint.max_model_len:
            raise RequestError(
                f"a load test of {needed} tokens does not fit the server's {endpoint.max_model_len}",
                remedy="lower `prompt_tokens` or `output_tokens`, or raise `max_model_len`",
            )
        write_text_atomically(self._job.endpoint_file, endpoint.model_dump_json())
        exit_code = self._child.wait(self._config.deadline_seconds)
        if exit_code != 0:
            how = "was not done in time" if exit_code is None else f"failed with exit code {exit_code}"
            raise StageError(
                f"the load test {how}: {self._child.command_line}\n{self._child.log_tail()}",
                remedy="read the log's end; lower `requests` or raise `deadline_seconds` if it was only slow",
            )
        points = _POINTS.validate_json(self._job.points_file.read_text())
        dead = [point.concurrency for point in points if point.completed == 0]
        if dead:
            raise StageError(
                f"no request completed at concurrency {dead}\n{self._child.log_tail()}",
                remedy="look into the server's log for what it answered",
            )
        return points


def _level_arguments(config: LoadConfig, endpoint: Endpoint, tokenizer_dir: Path, place: int) -> list[str]:
    options = {
        "backend": "openai",
        "base-url": endpoint.base_url,
        "endpoint": "/v1/completions",
        "model": endpoint.served_model_name,
        "tokenizer": str(tokenizer_dir),
        "dataset-name": "random",
        "random-input-len": config.prompt_tokens,
        "random-output-len": config.output_tokens,
        "num-prompts": config.requests,
        "max-concurrency": config.concurrency[place],
        "num-warmups": config.warmup_requests,
        "seed": config.seed + place,
        "temperature": 0.0,
        "percentile-metrics": "ttft,tpot,e2el",
        "metric-percentiles": "50,99",
        "ready-check-timeout-sec": 0,
    }
    flags = ["--ignore-eos", "--disable-tqdm"]
    return [*flags, *(text for name, value in options.items() for text in (f"--{name}", str(value)))]


def point_of(result: dict[str, Any], concurrency: int, requests: int) -> LoadPoint:
    """One of vLLM's result dictionaries (milliseconds; percentiles over completed requests) as our record."""
    times = {
        f"{name}_p{percent}_seconds": result[f"p{percent}_{theirs}_ms"] / 1000
        for name, theirs in (("ttft", "ttft"), ("tpot", "tpot"), ("e2e", "e2el"))
        for percent in (50, 99)
    }
    return LoadPoint(
        concurrency=concurrency,
        requests=requests,
        completed=result["completed"],
        failed=requests - result["completed"],
        duration_seconds=result["duration"],
        prompt_tokens=result["total_input_tokens"],
        output_tokens=result["total_output_tokens"],
        output_tokens_per_second=result["output_throughput"],
        requests_per_second=result["request_throughput"],
        **times,
    )


def main(job_file: Path) -> None:
    """The load generator's process: import, wait for the endpoint, test, write the points."""
    from vllm.benchmarks.serve import add_cli_args, main_async
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    job = _Job.model_validate_json(job_file.read_text())
    parser = FlexibleArgumentParser()
    add_cli_args(parser)
    while not job.endpoint_file.exists():
        time.sleep(_POLL_SECONDS)
    endpoint = Endpoint.model_validate_json(job.endpoint_file.read_text())
    points = []
    for place, concurrency in enumerate(job.config.concurrency):
        arguments = parser.parse_args(_level_arguments(job.config, endpoint, job.tokenizer_dir, place))
        result = asyncio.run(main_async(arguments))
        points.append(point_of(result, concurrency, job.config.requests))
    write_text_atomically(job.points_file, _POINTS.dump_json(points).decode())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
