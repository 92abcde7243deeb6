"""Dagster is told of each stage where it started this process, through Pipes; elsewhere nobody is told.

The rendered definitions pass which asset a stage is, so that names are made in one place.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal

from configs.errors import RequestError
from pipelines.execution.run import RunObserver
from pipelines.planning.open_run import OpenRun
from pipelines.records.events import StageOutcome
from pipelines.records.rows import UNQUANTIZED, Row
from pipelines.records.run_record import RunRecord
from pipelines.rendering.schedules.dagster import ASSETS_EXTRA, VERDICT_CHECK
from pipelines.report.asset_metadata import asset_metadata, digest_shown, verdict_shown

if TYPE_CHECKING:
    from dagster_pipes import PipesContext

Observe = Callable[[OpenRun], AbstractContextManager[RunObserver]]
Warn = Callable[[str], None]

STARTED_BY = "DAGSTER_PIPES_CONTEXT"
"""The variable in which Dagster says where it left what a process is told."""
_RENDER = "render the definitions anew: quantbench schedule render RECIPE --target dagster"


class DagsterAssets:
    """The assets that one Dagster step materializes.

    Args:
        pipes: What speaks to Dagster; None where it did not start this process, and nothing here does anything.
        warn: Is told when Dagster cannot be told any more.
    """

    def __init__(self, pipes: "PipesContext | None", warn: Warn) -> None:
        self._pipes, self._warn = pipes, warn
        self._assets: Mapping[str, str] = pipes.extras[ASSETS_EXTRA] if pipes else {}

    def beside(self, observe: Observe) -> Observe:
        """Whoever watches a run, and Dagster beside."""
        return observe if self._pipes is None else lambda run: self._watched(run, observe)

    def tell_reused(self, record: RunRecord) -> None:
        """All stages of a run that is not repeated."""
        if self._pipes is None:
            return
        self._check([outcome.name for outcome in record.outcomes])
        for outcome in record.outcomes:
            self.tell(outcome.model_copy(update={"how": "reused"}), record.rows)

    def tell(self, outcome: StageOutcome, rows: list[Row]) -> None:
        """How a stage ended. A run is what it was, whether Dagster hears of it or not."""
        if self._pipes is None:
            return
        try:
            _report(self._pipes, self._assets[outcome.name], outcome, rows)
        except OSError as error:
            self._pipes = None
            self._warn(f"Dagster is not told any more, its own files cannot be written: {error}; the run goes on")

    @contextlib.contextmanager
    def _watched(self, run: OpenRun, observe: Observe) -> Iterator[RunObserver]:
        self._check([stage.name for stage in run.stages])
        with observe(run) as observer:
            yield _Both(observer, self)

    def _check(self, stages: list[str]) -> None:
        """Refuse a run of other stages than Dagster has assets for, before its first: some would never be seen there.

        Raises:
            RequestError: The recipe, or the machine, is not what the definitions were rendered for.
        """
        lacking, surplus = sorted(set(stages) - set(self._assets)), sorted(set(self._assets) - set(stages))
        if lacking or surplus:
            told = [f"no asset for {', '.join(lacking)}"] if lacking else []
            told += [f"assets for {', '.join(surplus)}, which this run does not have"] if surplus else []
            raise RequestError(
                f"Dagster's definitions are of another recipe or another machine: they have {' and '.join(told)}",
                remedy=f"{_RENDER}, on the machine that runs it",
            )


class _Both:
    """The observer that watches anyway, and Dagster."""

    def __init__(self, observer: RunObserver, assets: DagsterAssets) -> None:
        self._observer, self._assets = observer, assets
        self.on_progress = observer.on_progress
        self.on_doubt = observer.on_doubt

    def on_outcome(self, outcome: StageOutcome, rows: list[Row]) -> None:
        """Tell both."""
        self._observer.on_outcome(outcome, rows)
        self._assets.tell(outcome, rows)


@contextlib.contextmanager
def dagster_assets(warn: Warn) -> Iterator[DagsterAssets]:
    """What this process is to Dagster, until the block's end, which Dagster is told too.

    Raises:
        RequestError: Dagster started it, and is gone, or did not say which asset a stage is.
    """
    if STARTED_BY not in os.environ:
        yield DagsterAssets(None, warn)
        return
    pipes = _opened()
    try:
        if ASSETS_EXTRA not in pipes.extras:
            raise RequestError(
                f"Dagster started this, and did not say which asset each stage is (extras[{ASSETS_EXTRA!r}])",
                remedy=f"{_RENDER}; or take {STARTED_BY} out of the environment",
            )
        yield DagsterAssets(pipes, warn)
    finally:
        with contextlib.suppress(OSError):  # where Dagster is gone, nobody is left to be told
            pipes.__exit__(*sys.exc_info())


def _opened() -> "PipesContext":
    from dagster_pipes import open_dagster_pipes

    try:
        return open_dagster_pipes()
    except Exception as error:  # a text that is not its own, or a file of its own that is gone or broken
        raise RequestError(
            f"{STARTED_BY} is set, and what Dagster left for this process cannot be read: {error}",
            remedy=f"start the run from Dagster again; without it, take {STARTED_BY} out of the environment",
        ) from error


def _report(pipes: "PipesContext", asset: str, outcome: StageOutcome, rows: list[Row]) -> None:
    failure = outcome.result.failure
    if failure:
        pipes.log.error("%s %s: %s; remedy: %s", outcome.name, outcome.how, failure.what, failure.remedy)
        return
    kind, _, subject = outcome.name.partition(":")
    row = next((row for row in rows if row.name == subject), None)
    metadata = asset_metadata(outcome, row)
    pipes.report_asset_materialization(metadata=metadata, data_version=digest_shown(outcome), asset_key=asset)
    if kind == "measure" and row and row.method != UNQUANTIZED:
        severity: Literal["ERROR", "WARN"] = "ERROR" if row.verdict == "fail" else "WARN"
        shown = verdict_shown(row)
        pipes.report_asset_check(VERDICT_CHECK, row.verdict == "pass", severity, shown, asset)
