"""What the load client and its generator's process tell each other, as files."""

from pathlib import Path

from configs.base import StrictModel
from registry.contracts.serving import Endpoint, LoadPoint, RateSearch
from serving_checks.load.config import LoadConfig
from serving_checks.load.watch import MetricNames


class LoadJob(StrictModel):
    """Known when the process is started."""

    config: LoadConfig
    tokenizer_dir: Path
    metrics: MetricNames
    start_file: Path
    """Is waited for, a `LoadStart`."""
    outcome_file: Path
    """Is written last, a `LoadOutcome`."""


class LoadStart(StrictModel):
    """Known when the server runs."""

    endpoint: Endpoint
    requests_file: Path
    """Parquet, written anew after each load test, so that it is there when a later one fails."""


class LoadFailure(StrictModel):
    """Why the load tests ended early."""

    what: str
    remedy: str
    bad_request: bool
    """Whether what was asked for cannot be done, with any server."""


class LoadOutcome(StrictModel):
    """How it went."""

    points: list[LoadPoint]
    rate_search: RateSearch | None = None
    failure: LoadFailure | None = None
