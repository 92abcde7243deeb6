"""What the load client and its generator's process tell each other, as files."""

from pathlib import Path

from configs.base import StrictModel
from configs.errors import Blame
from registry.contracts.serving import Endpoint, LoadPoint, RateSearch
from serving_checks.engines.table import AnyServingConfig
from serving_checks.load.config import LoadConfig
from serving_checks.readings.energy import EnergyTold, MeteredDevice


class LoadJob(StrictModel):
    """Known when the process is started."""

    config: LoadConfig
    tokenizer_dir: Path
    serving: AnyServingConfig
    """Says how the server's engine calls its numbers and empties its caches."""
    start_file: Path
    """Is waited for, a `LoadStart`."""
    progress_file: Path
    """Is written before each load test, a `LoadProgress`."""
    outcome_file: Path
    """Is written last, a `LoadOutcome`."""


class LoadStart(StrictModel):
    """Known when the server runs."""

    endpoint: Endpoint
    requests_file: Path
    """Parquet, written anew after each load test, so that it is there when a later one fails."""
    metered: MeteredDevice | None = None
    """Whose energy is read; None where the server was not started here."""


class LoadProgress(StrictModel):
    """How far it is."""

    done: int
    """Load tests."""
    most: int
    """Load tests at most; a sweep may be over sooner."""


class LoadFailure(StrictModel):
    """Why the load tests ended early."""

    what: str
    remedy: str
    bad_request: bool
    """Whether what was asked for cannot be done, with any server."""
    blame: Blame | None = None


class LoadOutcome(StrictModel):
    """How it went."""

    points: list[LoadPoint]
    rate_search: RateSearch | None = None
    energy: EnergyTold = EnergyTold()
    failure: LoadFailure | None = None
