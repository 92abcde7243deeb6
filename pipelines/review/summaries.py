"""What the page of many runs needs of each, kept beside its record: a record of a run takes a hundred times as long to
read. Damaged, of another version or older than the record, a summary is made anew.
"""

import logging
import math
from contextlib import suppress

from configs.names import entry_of
from evals.statistics.score import Z95
from pipelines.recipe.registry_config import RegistryConfig
from pipelines.recipe.run_config import TrackingConfig
from pipelines.records.rows import UNQUANTIZED
from pipelines.records.run_record import ResultFile, RunRecord, result_file
from pipelines.review.costs import price_shown, run_pricing
from pipelines.review.one_run import category_cells, category_columns, columns, model_rows, run_row
from pipelines.review.page_data import CategoryColumn, Models, Notice, PriceShown, Runs
from pipelines.review.short_json import rounded
from registry.contracts import CategoryScore
from registry.contracts.base import Record
from registry.hashing import digest_of
from registry.sealed import DamagedFile, read_sealed, write_sealed
from serving_checks.readings.cost import DevicePrice

logger = logging.getLogger(__name__)

SUMMARY_FILE = "review.json"
VERSION = 1
"""Of what a summary says: goes up with every change of the columns or of what is put into them."""


class ScoreIntervals(Record):
    """95 % intervals of the scores of one `CategoryColumn`, in its order; None where there is none."""

    low: list[float | None]
    high: list[float | None]


class RunSummary(Record):
    """`SUMMARY_FILE` of a run's folder. Indices are those within the run."""

    version: int = VERSION
    size_bytes: int
    """This and the next: of the record that it was made of."""
    written_ns: int
    runs: Runs
    """One row."""
    models: Models
    categories: list[CategoryColumn]
    intervals: list[ScoreIntervals]
    """A list a category."""
    digests: list[str | None]
    """In full; a list a model, as the next two."""
    entries: list[str | None]
    """The recipe's entry that an artifact is of; None for baselines and replicates, which nobody deploys."""
    measurements: list[str | None]
    """Objects of the store that hold what was measured."""
    ledger: str | None
    """Address that the recipe names; None for the workspace's own."""
    tracking: str | None
    """Where MLflow is, by the recipe; None for the workspace's own."""
    experiment: str
    price: PriceShown | None
    notices: list[Notice]
    """What its reader has to know."""
    price_digest: str | None
    """Of the price that its costs were computed from where its recipe has none; None without one."""
    recorded_id: str
    """Under which MLflow knows the run; a folder may be called otherwise."""
    champion: str
    """What the alias of production is called there."""

    @property
    def run_id(self) -> str:
        return self.runs.id[0]

    @property
    def registered_model(self) -> str:
        return self.runs.registered_model[0]


def summary_of(record: RunRecord, file: ResultFile, price: DevicePrice | None = None) -> RunSummary:
    """What the page of many runs needs of one.

    Args:
        record: All of it.
        file: Where it is. Its folder gives the run its name, as for all commands: a folder may be a copy of another.
        price: For a run whose recipe has none.
    """
    found = category_columns(category_cells(record))
    pricing, notices = run_pricing(file.run_id, record.config, price)
    registry = RegistryConfig.model_validate(record.config.get("registry", {}))
    tracking = record.config.get("tracking", {})
    outcomes = {one.name: one.result.object for one in record.outcomes}
    objects = [outcomes.get(f"measure:{row.name}") for row in record.rows]
    summary = RunSummary(
        size_bytes=file.size_bytes,
        written_ns=file.written_ns,
        runs=columns(Runs, [run_row(record) | {"id": file.run_id}]),
        models=columns(Models, model_rows(record, pricing=pricing)),
        categories=found,
        intervals=[_intervals(column, record) for column in found],
        digests=[row.digest for row in record.rows],
        entries=[
            row.name if row.method != UNQUANTIZED and row.name == entry_of(row.name) else None for row in record.rows
        ],
        measurements=[one.digest if one else None for one in objects],
        ledger=registry.ledger,
        tracking=tracking.get("uri"),
        experiment=str(tracking.get("experiment") or TrackingConfig().experiment),
        price=price_shown(pricing),
        notices=notices,
        price_digest=_price_digest(price),
        recorded_id=record.run_id,
        champion=registry.aliases.of("champion"),
    )
    return RunSummary.model_validate(rounded(summary.model_dump()))


def read_summary(file: ResultFile, price: DevicePrice | None = None) -> RunSummary:
    """The summary of a run, made and written where it is not there or not of this record.

    Args:
        file: The record.
        price: For a run whose recipe has none.

    Raises:
        FileNotFoundError: The run was removed.
        DamagedFile: Its record is damaged, or of a version that this one cannot read.
    """
    place = file.path.with_name(SUMMARY_FILE)
    try:
        known = read_sealed(place, RunSummary)
        made_of = known.version, known.size_bytes, known.written_ns, known.price_digest
        if made_of == (VERSION, file.size_bytes, file.written_ns, _price_digest(price)):
            return known
    except (FileNotFoundError, DamagedFile):
        pass
    return _kept(read_sealed(file.path, RunRecord), file, price)


def keep_summary(record: RunRecord) -> None:
    """Write the summary of a run whose record was written just now: a page of many runs need not read it."""
    with suppress(FileNotFoundError):  # somebody removed it
        _kept(record, result_file(record.run_dir))


def _kept(record: RunRecord, file: ResultFile, price: DevicePrice | None = None) -> RunSummary:
    summary = summary_of(record, file, price)
    place = file.path.with_name(SUMMARY_FILE)
    try:
        write_sealed(place, summary)
    except OSError as error:
        logger.warning("%s is not written, so the run is read in full each time: %s", place, error)
    return summary


def _price_digest(price: DevicePrice | None) -> str | None:
    return digest_of(price.model_dump(mode="json")) if price else None


def _intervals(column: CategoryColumn, record: RunRecord) -> ScoreIntervals:
    ends = [_ends(record.rows[model].score(column.name)) for model in column.model]
    return ScoreIntervals(low=[low for low, _ in ends], high=[high for _, high in ends])


def _ends(score: CategoryScore | None) -> tuple[float | None, float | None]:
    """A share's own interval where it is known: all right, its standard error is 0 and would say that it is sure."""
    if score is None:
        return None, None
    if score.low is not None and score.high is not None:
        return score.low, score.high
    return z_interval(score.value, score.stderr)


def z_interval(value: float | None, stderr: float | None) -> tuple[float | None, float | None]:
    """95 % interval of a value by its standard error."""
    if value is None or stderr is None or not math.isfinite(stderr) or not math.isfinite(value):
        return None, None
    return value - Z95 * stderr, value + Z95 * stderr
