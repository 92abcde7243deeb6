"""Runs load tests in a process of their own, which imports (half a minute on a slow core) while others wait anyway.

with LoadClient(config, serving, model_dir, work_dir) as client:      # imports meanwhile
    with serve(...) as server:
        result = client.run(server.endpoint, output_dir)
"""

import os
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from configs.errors import RequestError, StageError
from registry.contracts.serving import Endpoint, LoadPoint, RateSearch
from registry.files import write_text_atomically
from serving_checks.engines.base import ServingConfig
from serving_checks.engines.table import engine_of
from serving_checks.load.config import LoadConfig
from serving_checks.load.job import LoadJob, LoadOutcome, LoadProgress, LoadStart
from serving_checks.load.prompts import read_text
from serving_checks.load.requests import LOAD_REQUESTS_FILE
from serving_checks.processes.endings import death_of
from serving_checks.processes.pulse import UNBOUNDED, Patience
from serving_checks.processes.supervisor import Supervised, quoted, tail_of
from serving_checks.readings.energy import EnergyTold, MeteredDevice

_OTHER_FILES = 128
"""Open files of generator and server besides the requests' connections: libraries, logs, event loops."""
_SERVER_LOG_LINES = 15
_DIRECTLY = {"NO_PROXY": "*", "no_proxy": "*", "NETRC": os.devnull}
"""vLLM's generator looks for proxies and passwords in the environment; a server under test is behind none."""


class LoadResult(NamedTuple):
    """What the load tests of one model found."""

    points: list[LoadPoint]
    """In the config's order, those of a sweep last."""
    rate_search: RateSearch | None
    requests_file: Path
    """Parquet in the output directory, a row a request (`requests.py`)."""
    suspended_seconds: float = 0.0
    """How long the generator was stopped from outside meanwhile; what it measured then is not to be believed."""
    energy: EnergyTold = EnergyTold()
    """What counted the points' energy."""


class LoadClient:
    """The load generator's process: starts importing at once, tests when told where the server is.

    Args:
        config: What to send.
        serving: How the server is served.
        tokenizer_dir: The served model's directory.
        work_dir: An empty directory for the job, its outcome and its log.
        fork_server: Address of a process with the generator's imports done, if there is one.
        patience: With the generator's process; the config has the deadline of its tests.

    Raises:
        RequestError: Too few files may be open for the connections, or the text of the prompts cannot be read.
    """

    def __init__(
        self,
        config: LoadConfig,
        serving: ServingConfig,
        tokenizer_dir: Path,
        work_dir: Path,
        fork_server: Path | None = None,
        patience: Patience = UNBOUNDED,
    ) -> None:
        check_open_files(config)
        read_text(config.prompts.file)
        self._patience = patience._replace(deadline_seconds=config.deadline_seconds)
        self._job = LoadJob(
            config=config,
            tokenizer_dir=tokenizer_dir,
            serving=serving,
            start_file=work_dir / "load_start.json",
            progress_file=work_dir / "load_progress.json",
            outcome_file=work_dir / "load_outcome.json",
        )
        key = engine_of(serving).api_key_variable
        job_file = work_dir / "load_job.json"
        write_text_atomically(job_file, self._job.model_dump_json())
        self._child = Supervised(
            [sys.executable, "-P", "-m", "serving_checks.load.generator", str(job_file)],
            log_file=work_dir / "load.log",
            env={"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"} | _DIRECTLY,
            fork_server=fork_server,
            # A fork has the variables that its fork server was started with, and not those of now.
            secrets={key: os.environ[key]} if key and key in os.environ else {},
        )

    def __enter__(self) -> Self:
        self._child.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.stop()

    def run(
        self,
        endpoint: Endpoint,
        output_dir: Path,
        server_log: Path | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        metered: MeteredDevice | None = None,
    ) -> LoadResult:
        """Run all load tests against `endpoint`.

        Args:
            endpoint: The server, already healthy.
            output_dir: Gets the requests' Parquet file.
            server_log: Its end is shown in an error, and the requests sent until then are kept beside it.
            on_progress: Is told how many load tests are done, and how many there are at most.
            metered: The server's device, whose energy is read; None where it was not started here.

        Raises:
            RequestError: Prompt and answer do not fit the server's context, or the text gives too few prompts.
            StageError: The generator failed, the deadline came first, the server died, or it completed no request of
                some load test.
        """
        config = self._job.config
        config.check_fits(endpoint.max_model_len)
        requests_file = output_dir / LOAD_REQUESTS_FILE
        start = LoadStart(endpoint=endpoint, requests_file=requests_file, metered=metered)
        write_text_atomically(self._job.start_file, start.model_dump_json())
        try:
            exit_code = self._child.attend(self._patience, on_tick=lambda _: self._tell(on_progress))
        except StageError as error:
            remedy = f"{error.remedy}; lower `requests` or raise the load's `deadline_seconds` if it was only slow"
            what = f"the load test was ended: {error.what}\n{self._kept(requests_file, server_log)}"
            raise StageError(what, remedy=remedy, blame=error.blame) from None
        if exit_code != 0:
            ending = self._child.ending(exit_code)
            death, told = death_of(ending), self._kept(requests_file, server_log)
            what = f"the load generator {ending.how}: {death.reason}: {self._child.command_line}\n{told}"
            raise StageError(what, remedy=death.remedy, blame=death.blame)
        outcome = LoadOutcome.model_validate_json(self._job.outcome_file.read_text())
        if outcome.failure and outcome.failure.bad_request:
            raise RequestError(outcome.failure.what, remedy=outcome.failure.remedy, blame=outcome.failure.blame)
        if outcome.failure:
            raise StageError(
                f"{outcome.failure.what}\n{self._kept(requests_file, server_log)}",
                remedy=outcome.failure.remedy,
                blame=outcome.failure.blame,
            )
        suspended = self._child.suspended_seconds
        return LoadResult(outcome.points, outcome.rate_search, requests_file, suspended, outcome.energy)

    def _tell(self, on_progress: Callable[[int, int], None] | None) -> None:
        if on_progress and self._job.progress_file.exists():
            told = LoadProgress.model_validate_json(self._job.progress_file.read_text())
            on_progress(told.done, told.most)

    def _kept(self, requests_file: Path, server_log: Path | None) -> str:
        """What there is to read about a failure: a failed stage's output directory goes, its logs stay."""
        tail = f"  the load generator's log ends:\n{quoted(self._child.log_tail())}"
        if server_log and requests_file.exists():
            kept = requests_file
            if requests_file.parent != server_log.parent:
                kept = server_log.with_suffix(f".{LOAD_REQUESTS_FILE}")
                shutil.move(requests_file, kept)
            tail = f"  all requests until then: {kept}\n{tail}"
        if server_log and server_log.exists():
            tail += f"\n  the server's log ({server_log}) ends:\n{quoted(tail_of(server_log, _SERVER_LOG_LINES))}"
        return tail


def check_open_files(config: LoadConfig) -> None:
    """Refuse more connections than this process, and so its children, may open.

    Raises:
        RequestError: The soft limit on open files is too low.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = config.most_in_flight + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        raise RequestError(
            f"{config.most_in_flight} requests in flight need {needed} open files, this shell allows {soft}",
            remedy=f"run `ulimit -n {needed}` first (the system's own limit is {hard}), or lower the concurrency, "
            "for an open loop `requests`",
        )
