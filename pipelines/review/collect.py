"""All that the review page shows of a workspace: read, joined, compared, and cut to what a page may hold."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from configs.errors import RequestError
from pipelines.records.run_record import ResultFile, RunRecord, result_files
from pipelines.review.costs import price_notices
from pipelines.review.joining import Found, Joined, VersionKey, joined
from pipelines.review.ledger_rows import LedgerRows
from pipelines.review.mlflow_runs import Elsewhere, Tracking, elsewhere
from pipelines.review.one_run import Fate, run_detail, with_fates
from pipelines.review.page_data import Deciding, Notice, PageData, Regression, RunDetail, ShadowTraffic
from pipelines.review.pairing import Pairing
from pipelines.review.regressions import regressions
from pipelines.review.shadow_folders import shadow_traffic
from pipelines.review.shared_run import SharedRun
from pipelines.review.short_json import short_json
from pipelines.review.summaries import RunSummary
from pipelines.review.workspace_runs import RunReader
from registry.sealed import DamagedFile, read_sealed
from registry.stage_cache import StageCache
from registry.store import Store
from registry.tracking.address import sqlite_uri
from serving_checks.readings.cost import DevicePrice

MOST_REGRESSIONS = 2_000
"""Rows of a page, the newest ones."""
ASKED_EVERY_SECONDS = 60
"""Of tracking stores and ledgers on other machines."""
_RECORDS_KEPT = 8


class Collector:
    """Collects again and again; what did not change is read once.

    Args:
        root: The workspace's folder.
        store: Its objects.
        cache: Its finished stages.
        pages_at: Address of `runs/`, relative to the page.
        series: Only runs whose series holds one of these words; all where there is none.
        mlflow: Ask the tracking stores of its runs for those of other machines, and for versions.
        price: For runs whose recipe has none.
    """

    def __init__(
        self,
        root: Path,
        store: Store,
        cache: StageCache,
        *,
        pages_at: str = "runs",
        series: Sequence[str] = (),
        mlflow: bool = False,
        price: DevicePrice | None = None,
    ) -> None:
        self._root, self._series, self._mlflow = root, series, mlflow
        self._reader = RunReader(root, pages_at, price)
        self._pairing = Pairing(store, cache, self.record)
        self._records: OrderedDict[ResultFile, RunRecord] = OrderedDict()
        self._fates: dict[str, dict[str, Fate]] = {}
        """Run -> model's name -> what became of it."""
        self._asked: object = None
        self._away = Elsewhere([], {}, [], [])
        """What tracking stores said when that was asked of them."""
        self._read_away: dict[tuple[Tracking, str], SharedRun | RunSummary] = {}

    def collect(
        self,
        *,
        most_bytes: int,
        shown: str | None = None,
        deciding: Deciding | None = None,
        tell: Callable[[int, int], object] = lambda done, total: None,
    ) -> PageData:
        """All that is there now.

        Args:
            most_bytes: Of JSON in all: the details of the newest runs fill what the rest leaves, and the run shown has
                its own in any case.
            shown: Id of the run to open with, or its beginning.
            deciding: What a reader may do.
            tell: Is told how many of how many runs were read.

        Raises:
            RequestError: No run is called so, or several are.
        """
        runs = self._reader.read(tell)
        away = self._elsewhere([one.summary for one in runs.found])
        found = [*runs.found, *(Found(summary, origin="mlflow") for summary in away.summaries)]
        found = [one for one in found if not self._series or any(word in _series(one) for word in self._series)]
        found.sort(key=lambda one: one.summary.written_ns, reverse=True)
        opened = None if shown is None else _named(shown, found, self._root)
        ledgers = LedgerRows([one.summary for one in found], self._root / "ledger.db")
        whole = joined(found, _versions(ledgers) | away.versions)
        compared = regressions(whole, ledgers.by_model, self._pairing.over(whole))
        traffic, unread = shadow_traffic(self._root, ledgers)
        prices = [one.summary.price for one in found]
        data = PageData(
            written_at=datetime.now(UTC),
            where=", ".join([str(self._root), *away.asked]),
            shown=opened,
            notices=[
                *runs.notices,
                *away.notices,
                *price_notices(prices),
                *ledgers.notices,
                *unread,
                *_cut(whole, compared),
            ],
            runs=whole.runs,
            models=whole.models,
            categories=whole.categories,
            regressions=compared[:MOST_REGRESSIONS],
            aliases=ledgers.rows,
            shadow=traffic,
            prices=prices,
            deciding=deciding,
        )
        self._fates = _fates_of(whole, traffic)
        left = most_bytes - len(short_json(data).encode())
        return data.model_copy(update={"details": dict(self._details(whole, opened, left))})

    def _elsewhere(self, summaries: Sequence[RunSummary]) -> Elsewhere:
        if not self._mlflow:
            return self._away
        own = sqlite_uri(self._root / "mlflow.db")
        stores = dict.fromkeys(Tracking(one.tracking or own, one.experiment) for one in summaries)
        models = dict.fromkeys(one.registered_model for one in summaries)
        known = {one.recorded_id for one in summaries}
        asked = (tuple(stores), tuple(models), frozenset(known), int(time.monotonic() / ASKED_EVERY_SECONDS))
        if self._asked != asked:
            self._away, self._asked = elsewhere(stores, models, known, self._read_away), asked
        return self._away

    def record(self, run_id: str) -> RunRecord:
        """All of one run.

        Raises:
            LookupError: No finished run is called so.
            DamagedFile: Its record is damaged.
        """
        file = next((one for one in result_files(self._root) if one.run_id == run_id), None)
        if file is None:
            raise LookupError(f"no finished run is called {run_id}")
        if file not in self._records:
            self._records[file] = read_sealed(file.path, RunRecord)
        self._records.move_to_end(file)
        if len(self._records) > _RECORDS_KEPT:
            self._records.popitem(last=False)
        return self._records[file]

    def detail(self, run_id: str) -> RunDetail:
        """What is asked of one run, with what became of its models as it was last collected; raises as `record`."""
        try:
            record = self.record(run_id)
        except LookupError:
            detail, model = self._away.detail(run_id)
        else:
            detail, model = run_detail(record), record.registered_model
        return with_fates(detail, model, self._fates.get(run_id, {}))

    def _details(self, whole: Joined, opened: str | None, most_bytes: int) -> Iterator[tuple[str, RunDetail]]:
        """Of the newest runs, as far as the bytes go, and of the one that the page opens with."""
        left = most_bytes
        numbers = range(len(whole.found))
        wanted = [number for number in numbers if whole.runs.id[number] == (opened or whole.runs.id[0])]
        for number in dict.fromkeys([*wanted, *numbers]):
            try:
                detail = self.detail(whole.runs.id[number])
            except (LookupError, DamagedFile):
                continue  # removed or damaged meanwhile, which the next look tells; or only its metrics are known
            left -= len(short_json(detail).encode())
            if left < 0 and number not in wanted:
                return
            yield whole.runs.id[number], detail


def _series(found: Found) -> str:
    return found.summary.runs.series[0]


def _named(wanted: str, found: Sequence[Found], root: Path) -> str:
    names = [one.summary.run_id for one in found]
    matching = [name for name in names if name == wanted] or [name for name in names if name.startswith(wanted)]
    if len(matching) != 1:
        what = f"{len(matching)} runs" if matching else "no finished run"
        raise RequestError(
            f"{what} of {root} {'are' if matching else 'is'} called {wanted}",
            remedy="give more of its id" if matching else "leave --run out to see all of them",
        )
    return matching[0]


def _versions(ledgers: LedgerRows) -> dict[VersionKey, str]:
    """As the ledger tells them; of what nobody decided about, the tracking server knows them alone."""
    return {
        (row.model, row.artifact): row.version_to
        for rows in ledgers.by_model.values()
        for row in rows
        if row.artifact and row.version_to
    }


def _fates_of(whole: Joined, traffic: Sequence[ShadowTraffic]) -> dict[str, dict[str, Fate]]:
    fates: dict[str, dict[str, Fate]] = {run: {} for run in whole.runs.id}
    models = whole.models
    for run, name, digest, version in zip(models.run, models.name, models.digest, models.version, strict=True):
        fates[whole.runs.id[run]][name] = Fate(version, [one.name for one in traffic if digest in one.digests])
    return fates


def _cut(whole: Joined, compared: Sequence[Regression]) -> Iterator[Notice]:
    if whole.categories_left:
        text = (
            f"{whole.categories_left} categories in which less was lost are left out, or the page would be too large:"
            " --series shows fewer runs, and each run's report has all of its own."
        )
        yield Notice(about="categories", text=text)
    if len(compared) > MOST_REGRESSIONS:
        text = f"{len(compared) - MOST_REGRESSIONS} older changes are left out; --series shows fewer runs."
        yield Notice(about="regressions", text=text)
