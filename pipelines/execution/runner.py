"""Runs the stages of a plan and keeps what they give.

Several threads may run a stage each at the same time.
"""

import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock, RLock

from configs.errors import QuantbenchError, StageError
from pipelines.execution.baseline import refuse_unsound
from pipelines.execution.shared_machine import SharedMachine
from pipelines.execution.stage_work import StageWork, WorkHere
from pipelines.execution.workspace import Workspace
from pipelines.planning.context import JobContext
from pipelines.planning.preflight import check_free_space
from pipelines.planning.stages import Stage
from pipelines.records.events import WAIT_PART, EventLog, How, StageOutcome
from registry.contracts import Failure, InspectionRecord, SoundnessRecord, StageResult
from registry.explain import explanation_of
from registry.store import DamagedObject

OnProgress = Callable[[str, str], None]

_ASKING_SECONDS = 0.05
"""To ask for a turn on the machine; what takes longer was a wait."""


class Runner:
    """One run of one recipe in one workspace.

    Args:
        context: Config, machine, suite: what jobs are made of.
        workspace: Where results are kept and looked for.
        run_dir: `runs/<id>/` for logs, jobs and events.
        on_progress: Called a few times a second with the stage and what it is doing.
        before_work: Called before each stage that cannot be reused; one call at a time.
        machine: As the run's stages share it; one stage at a time when None.
        work: Who does the stages' work; processes of this machine, each a program of its own, when None.
    """

    def __init__(
        self,
        context: JobContext,
        workspace: Workspace,
        run_dir: Path,
        on_progress: OnProgress,
        before_work: Callable[[], None] | None = None,
        machine: SharedMachine | None = None,
        work: StageWork | None = None,
    ) -> None:
        self._context = context
        self._workspace = workspace
        self._on_progress = on_progress
        self._before_work = before_work
        self._machine = machine or SharedMachine(workspace)
        self._work = work or WorkHere(context, workspace, run_dir, self._machine)
        self._one_at_a_time, self._making_anew = Lock(), RLock()
        self._events = EventLog(run_dir / "events.jsonl")
        self._stages: dict[str, Stage] = {}
        self._stopped_by: str | None = None
        """The stage that showed that the baseline is not sound."""
        self.results: dict[str, StageResult] = {}

    def run(self, stage: Stage) -> StageOutcome:
        """Reuse or make one stage's result. A failure is an outcome, so that stages that do not need it go on."""
        # In this order: a thread that is held up in between would seem to end after the next one began.
        started_at, start = datetime.now(UTC), time.monotonic()
        self._stages[stage.name] = stage
        how: How
        broken = [name for name in stage.inputs.values() if not _succeeded(self.results.get(name))]
        if self._stopped_by or broken:
            result, how = StageResult(stage=stage.kind, failure=self._following_from(broken)), "skipped"
        else:
            try:
                result, how = self._on_whole_inputs(stage)
            except (QuantbenchError, OSError) as error:
                if self._machine.given_up.is_set():
                    raise CancelledError from error
                failure = Failure.of(explanation_of(error, stage.name, self._workspace.root))
                result, how = StageResult(stage=stage.kind, failure=failure), "failed"
        if stage.kind in _JUDGED and result.failure is None:
            result, how = _JUDGED[stage.kind](result, how)
        self.results[stage.name] = result
        if stage.kind == "soundness" and how == "failed":
            self._stopped_by = stage.name
        seconds = time.monotonic() - start
        outcome = StageOutcome(
            name=stage.name,
            how=how,
            started_at=started_at,
            wall_seconds=seconds,
            result=result,
            node=self._work.node_of(stage),
        )
        self._append(outcome)
        return outcome

    def give_up(self) -> None:
        """End the stages that work, and begin none: nobody waits for them any more."""
        self._machine.given_up.set()

    def reject(self, outcome: StageOutcome, error: QuantbenchError, *, stops_run: bool = False) -> StageOutcome:
        """Turn a finished stage into a failed one: its result was found not to be usable.

        Args:
            outcome: The stage's.
            error: What was found.
            stops_run: Nothing that follows in the run is worth making: every stage is skipped.
        """
        if stops_run:
            self._stopped_by = outcome.name
        failure = Failure.of(error)
        result = outcome.result.model_copy(update={"failure": failure})
        self.results[outcome.name] = result
        rejected = outcome.model_copy(update={"how": "failed", "result": result})
        self._append(rejected)
        return rejected

    def _append(self, outcome: StageOutcome) -> None:
        with self._one_at_a_time:
            self._events.append(outcome)

    def _on_whole_inputs(self, stage: Stage) -> tuple[StageResult, How]:
        """Reuse or execute a stage; an input that is found damaged before or after is made anew, once, and it again."""
        made_anew: set[str] = set()
        while True:
            try:
                return self._reuse_or_execute(stage)
            except DamagedObject as damage:
                inputs = [name for name in stage.inputs.values() if _digest(self.results[name]) == damage.digest]
                if made_anew.issuperset(inputs):
                    raise
                made_anew.update(inputs)
                with self._making_anew:  # of two stages that read it, the second finds it mended
                    for name in inputs:
                        self._make_anew(name, damage)

    def _make_anew(self, name: str, damage: DamagedObject) -> None:
        """Run the stage called `name` again, whose object is damaged.

        Raises:
            StageError: It failed, or gave other bytes: what other stages made of the first ones in this run is not of
                them.
        """
        outcome = self.run(self._stages[name])
        if outcome.result.failure or _digest(outcome.result) != damage.digest:
            raise StageError(
                f"{damage.what}; {name} was run again and did not give the same bytes",
                remedy="run the same command again: what depends on it is made anew",
            )

    def _following_from(self, broken: list[str]) -> Failure:
        """Of a stage that is skipped: what it follows from, traced back to the baseline where that is the cause."""
        if self._stopped_by:
            broken = [self._stopped_by]
        earlier = [self.results[name].failure for name in broken if name in self.results]
        because_of = [*broken, *(name for failure in earlier if failure for name in failure.because_of)]
        return Failure(
            what=f"{', '.join(broken)} failed",
            remedy="mend that first; this stage was skipped",
            because_of=list(dict.fromkeys(because_of)),
        )

    def _reuse_or_execute(self, stage: Stage) -> tuple[StageResult, How]:
        results = dict(self.results)  # as it was when this stage began: others may end meanwhile
        key = stage.key(results)
        if key is None:
            raise StageError(f"{stage.name} has no inputs", remedy="report it", blame="quantbench")
        cached = self._workspace.cache.get(key)
        if stage.is_answered_by(cached, results):
            return cached, "reused"
        with self._machine.held_for(stage, lambda whom: self._on_progress(stage.name, f"waiting for {whom}")) as place:
            # Another run may have made it while this one waited.
            cached = self._workspace.cache.get(key)
            if stage.is_answered_by(cached, results):
                return cached, "reused"
            if self._before_work:
                with self._one_at_a_time:
                    self._before_work()
            if cached is None:
                self._workspace.cache.forget(key)
            check_free_space(self._workspace.root, stage, self._context.config.source, results, place.beside)
            result = self._work.result_of(stage, results, lambda text: self._on_progress(stage.name, text))
            if result.failure is None:
                self._workspace.cache.put(key, stage.name, result)
                self._workspace.forget_unfinished(key)
        waited = {WAIT_PART: place.waited_seconds} if place.waited_seconds > _ASKING_SECONDS else {}
        timed = result.model_copy(update={"timings_seconds": result.timings_seconds | waited})
        return timed, "failed" if result.failure else "done"


def _judged_inspection(result: StageResult, how: How) -> tuple[StageResult, How]:
    """An inspection that found something wrong is a finished stage (kept in the cache) and a failed artifact."""
    failed = [check for check in InspectionRecord.model_validate(result.record).checks if not check.passed]
    if not failed:
        return result, how
    failure = Failure(
        what="the artifact did not pass its inspection: "
        + "; ".join(f"{check.name}: {check.detail}" for check in failed),
        remedy="the artifact is not served; change the method's parameters or its dtype and run again",
        blame="engine",
    )
    return result.model_copy(update={"failure": failure}), "failed"


def _digest(result: StageResult) -> str | None:
    return result.object.digest if result.object else None


def _judged_soundness(result: StageResult, how: How) -> tuple[StageResult, How]:
    """The same of the baseline."""
    try:
        refuse_unsound(SoundnessRecord.model_validate(result.record).checks)
    except StageError as error:
        return result.model_copy(update={"failure": Failure.of(error)}), "failed"
    return result, how


_JUDGED = {"inspect": _judged_inspection, "soundness": _judged_soundness}
"""Kinds of stages whose record says whether they passed."""


def _succeeded(result: StageResult | None) -> bool:
    return result is not None and result.failure is None
