"""One call of `quantbench run`, from the recipe's file to what is told of it: by a person, or by a scheduler."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from configs.errors import QuantbenchError, RequestError
from pipelines.execution.finished_runs import last_run_of
from pipelines.execution.regressed import regressed
from pipelines.execution.run import RunObserver, execute_run
from pipelines.execution.run_notices import check_notices, send_notices
from pipelines.execution.unchanged import why_run
from pipelines.execution.workspace import Workspace
from pipelines.planning.open_run import OpenRun, opened, read_recipe
from pipelines.recipe.run_config import RunConfig
from pipelines.records.run_outcome import (
    RunOutcome,
    Status,
    ToldFailure,
    ToldRegression,
    failures_of,
    sentence_of,
    stage_counts,
    verdicts_of,
)
from pipelines.records.run_record import RunRecord
from quantizers.checkpoints.sources import HubSource
from registry.explain import explanation_of

Overlap = Literal["wait", "leave"]
INTERRUPTED = 130


class Ended(NamedTuple):
    """How a call ended that nothing broke off."""

    outcome: RunOutcome
    run: OpenRun
    record: RunRecord | None
    """Of the run, or of the one that it would repeat; None where another run goes on."""
    workspace: Workspace


class _AnotherRunsError(Exception):
    """Another process runs the recipe."""


class RecipeCall:
    """One call.

    Args:
        recipe: The file.
        overrides: What is changed in it.
        workspace: Its folder.
        warn: Is told what a reader has to know beside the run.
    """

    def __init__(self, recipe: Path, overrides: list[str], workspace: Path, warn: Callable[[str], None]) -> None:
        self._recipe, self._overrides, self._folder, self._warn = recipe, overrides, workspace, warn
        self._started_at, self._start_seconds = datetime.now(UTC), time.monotonic()
        self._config: RunConfig | None = None
        self._commit: str | None = None

    def run(
        self,
        observe: Callable[[OpenRun], AbstractContextManager[RunObserver]],
        *,
        if_changed: bool = False,
        overlap: Overlap = "wait",
        tell: bool = False,
    ) -> Ended:
        """Run the recipe, or find that there is nothing to do.

        Args:
            observe: Makes who watches the run.
            if_changed: Do nothing where a run would only repeat the last one.
            overlap: What to do while another process runs the recipe in this workspace.
            tell: Compare with earlier runs, even if the recipe names nobody who wants to know.

        Raises:
            QuantbenchError: The request is wrong, or the work could not go on.
        """
        workspace = Workspace(self._folder)
        config = self._config = read_recipe(self._recipe, self._overrides)
        check_notices(config.notify, self._warn)
        run = opened(config, self._started_at, self._start_seconds)
        source = run.context.config.source
        self._commit = source.revision if isinstance(source, HubSource) else None
        told = tell or bool(config.notify)
        workspace.create()
        try:
            with workspace.recipe_lock(config.name, lambda pid: self._on_wait(pid, overlap)):
                before = last_run_of(workspace, config.name) if if_changed or told else None
                why = why_run(run, workspace, before) if if_changed else "it was asked for"
                if why is None and before is not None:
                    return Ended(self._unchanged(before), run, before, workspace)
                if if_changed:
                    self._warn(f"there is something to do: {why}")
                with observe(run) as observer:
                    record = execute_run(run, workspace, observer)
        except _AnotherRunsError as other:
            outcome = self._outcome("left", 0, f"{other}; it is left to go on")
            return Ended(outcome, run, None, workspace)
        return Ended(self._finished(record, before, workspace, compare=told), run, record, workspace)

    def broken_off(self, error: BaseException) -> RunOutcome:
        """The outcome of a call that an exception ends."""
        if isinstance(error, KeyboardInterrupt):
            why = "a signal ended it; run the same command again, complete stages are not repeated"
            return self._outcome("interrupted", INTERRUPTED, why)
        told = explanation_of(error, "run", self._folder) if isinstance(error, Exception) else None
        if told is None:
            return self._outcome("failed", QuantbenchError.exit_code, type(error).__name__)
        status: Status = "refused" if told.exit_code == RequestError.exit_code else "failed"
        what = str(told).partition("\n  remedy:")[0]  # with the place in the recipe, where there is one
        failure = ToldFailure(stage=None, what=what, remedy=told.remedy, blame=told.blame)
        return self._outcome(status, told.exit_code, what.splitlines()[0], failures=[failure])

    def tell(self, outcome: RunOutcome) -> None:
        """Whoever the recipe names, as far as it could be read."""
        if self._config is not None:
            send_notices(self._config.notify, outcome, self._warn)

    def _on_wait(self, pid: str, overlap: Overlap) -> None:
        what = f"process {pid} runs this recipe in this workspace"
        if overlap == "leave":
            raise _AnotherRunsError(what)
        self._warn(f"{what}; waiting for its end")

    def _finished(
        self, record: RunRecord, before: RunRecord | None, workspace: Workspace, *, compare: bool
    ) -> RunOutcome:
        failures, stages = failures_of(record), stage_counts(record)
        status: Status = "finished"
        if record.exit_code:
            status = "refused" if record.exit_code == RequestError.exit_code else "failed"
        worse, unknown = _regressed(record, workspace) if compare else ([], [])
        outcome = self._outcome(status, record.exit_code, sentence_of(status, failures, stages), failures=failures)
        about = {
            "stages": stages,
            "verdicts_before": verdicts_of(before),
            "regressions": worse,
            "not_compared": unknown,
        }
        return _of_run(outcome, record).model_copy(update=about)

    def _unchanged(self, last: RunRecord) -> RunOutcome:
        why = f"nothing to do: {last.run_id} found all that this run would, and is recorded"
        outcome = _of_run(self._outcome("unchanged", 0, why), last)
        return outcome.model_copy(update={"verdicts_before": outcome.verdicts})

    def _outcome(
        self, status: Status, exit_code: int, why: str, failures: list[ToldFailure] | None = None
    ) -> RunOutcome:
        return RunOutcome(
            recipe=self._config.name if self._config else None,
            recipe_file=self._recipe,
            workspace=self._folder.resolve(),
            status=status,
            exit_code=exit_code,
            why=why,
            started_at=self._started_at,
            seconds=round(time.monotonic() - self._start_seconds, 3),
            source_commit=self._commit,
            failures=failures or [],
        )


def _of_run(outcome: RunOutcome, record: RunRecord) -> RunOutcome:
    """With what is known of a run that ended."""
    known = {
        "run_id": record.run_id,
        "verdicts": verdicts_of(record),
        "recommendation": record.recommendation.choice if record.recommendation else None,
        "report": record.page,
        "tracking": record.tracking,
    }
    return outcome.model_copy(update=known)


def _regressed(record: RunRecord, workspace: Workspace) -> tuple[list[ToldRegression], list[str]]:
    """A run is what it was, whether it could be compared with others or not."""
    try:
        return regressed(record, workspace)
    except Exception as error:
        return [], [explanation_of(error, "comparing with earlier runs", workspace.root).what]
