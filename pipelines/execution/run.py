"""A run from recipe to report: open it, run its stages, compare, record, report."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from configs.errors import QuantbenchError
from configs.names import BASELINE, baseline_in
from evals.suites.suite import Suite
from pipelines.decision.recommend import recommend
from pipelines.execution.baseline import check_measured, refuse_unsound
from pipelines.execution.comparison import compare_measured, import_ahead
from pipelines.execution.fork_servers import ForkServers
from pipelines.execution.ray_work import CheckedCluster, WorkOnRay, cluster_of
from pipelines.execution.recording import Recorder
from pipelines.execution.runner import Runner
from pipelines.execution.scheduling import run_scheduled
from pipelines.execution.shared_machine import SharedMachine
from pipelines.execution.stage_work import StageWork, WorkHere
from pipelines.execution.workspace import Workspace
from pipelines.planning.concurrency import Sharing, sharing_of, sharing_of_nodes
from pipelines.planning.open_run import OpenRun, check_device, check_machines, known_checkpoint
from pipelines.planning.preflight import check_rules
from pipelines.planning.stages import Stage
from pipelines.records.comparison import Comparison
from pipelines.records.events import StageOutcome, time_breakdown
from pipelines.records.model_cost import pricing_of
from pipelines.records.rows import UNQUANTIZED, Row, artifact_row, baseline_row, with_shared_proofs
from pipelines.records.run_record import RESULT_FILE, RunRecord
from pipelines.review.report_page import write_page
from pipelines.review.summaries import keep_summary
from pipelines.stage_programs.record import RECORDING
from registry.contracts import SoundnessCheck, StageResult
from registry.files import write_text_atomically
from registry.sealed import write_sealed
from serving_checks.processes.scratch import scratch_folder


@dataclass
class Findings:
    """What was judged of the models that were measured, as far as the run has come."""

    comparisons: dict[str, Comparison] = field(default_factory=dict)
    """Artifact's name -> what it kept of the baseline."""
    same_dtype: dict[str, Comparison] = field(default_factory=dict)
    """The same of the baseline in its own dtype, for those that are served in another than the baseline's."""
    soundness: list[SoundnessCheck] = field(default_factory=list)
    """Of the baseline, once it was measured."""


class RunObserver(Protocol):
    """Who is told while a run goes on."""

    def on_progress(self, name: str, text: str) -> None:
        """A few times a second while a stage works, or the recording."""

    def on_doubt(self, text: str) -> None:
        """Before work, for what may go wrong at its end."""

    def on_outcome(self, outcome: StageOutcome, rows: list[Row]) -> None:
        """After each stage, with all rows as far as they are known."""


def execute_run(run: OpenRun, workspace: Workspace, observer: RunObserver) -> RunRecord:
    """Run every stage whose result is not there yet; a failed stage stops only what needs it."""
    config = run.context.config
    check_device(run.context.machine)
    check_machines(config.serving, workspace.root)
    run_dir = workspace.new_run_dir(config.name)
    write_text_atomically(run_dir / "config.json", config.model_dump_json(indent=2))
    recording = Recorder(config.tracking, workspace, run_dir, config.deadlines.of_stage("record"))
    doubt = recording.check()
    if doubt:
        observer.on_doubt(doubt)
    with cluster_of(run, run_dir) as cluster, scratch_folder() as scratch, recording as recorder:

        def before_work() -> None:
            recorder.start()
            import_ahead()

        shared = SharedMachine(workspace, scratch)
        with _workers(run, cluster, workspace, run_dir, shared) as work:
            runner = Runner(run.context, workspace, run_dir, observer.on_progress, before_work, shared, work)
            outcomes, found = _run_stages(run, runner, shared, cluster, workspace, observer)
        rows = rows_of(run, runner.results, found)
        measured = RunRecord(
            run_id=run_dir.name,
            run_dir=run_dir,
            started_at=run.started_at,
            config=config.as_json(),
            machine=run.context.machine,
            rows=rows,
            recommendation=recommend(
                rows, config.policy, config.recommend, config.registry.approval, pricing_of(config.as_json())
            ),
            asked_revision=run.asked_revision,
            left_out=run.left_out,
            outcomes=outcomes,
            breakdown=time_breakdown(outcomes, time.monotonic() - run.start_seconds),
        )
        return _recorded(measured, run.context.suite, recorder, observer)


@contextmanager
def _workers(
    run: OpenRun, cluster: CheckedCluster | None, workspace: Workspace, run_dir: Path, shared: SharedMachine
) -> Iterator[StageWork]:
    """Who does the work of the run's stages: this machine, forked from what has imported the engines, or a cluster."""
    if cluster:
        here = WorkHere(run.context, workspace, run_dir, shared)
        yield WorkOnRay(run, cluster, workspace, run_dir, here, shared.given_up)
        return
    with ForkServers(run.context.config, run.context.machine, run_dir / "logs") as fork_servers:
        yield WorkHere(run.context, workspace, run_dir, shared, fork_servers)


def _run_stages(
    run: OpenRun,
    runner: Runner,
    shared: SharedMachine,
    cluster: CheckedCluster | None,
    workspace: Workspace,
    observer: RunObserver,
) -> tuple[list[StageOutcome], Findings]:
    found = Findings()

    def sharing() -> Sharing:
        if cluster:
            shared.sharing = sharing_of_nodes(run.context.config, len(cluster.nodes))
            return shared.sharing
        prepared = runner.results.get("prepare")
        size = prepared.object.size_bytes if prepared and prepared.object else None
        shared.sharing = sharing_of(run.context.config, run.context.machine, size)
        return shared.sharing

    def on_end(stage: Stage, outcome: StageOutcome) -> StageOutcome:
        checkpoint = known_checkpoint(runner.results) if stage.kind == "prepare" else None
        if checkpoint:
            check_rules(run.context, checkpoint)
        if stage.kind == "measure" and outcome.result.failure is None:
            if stage.subject == BASELINE:
                outcome = _judge_baseline(run, runner, workspace, outcome, found)
            else:
                outcome = _judge_artifact(run, runner, workspace, stage, outcome, found)
        observer.on_outcome(outcome, rows_of(run, dict(runner.results), found))
        return outcome

    return run_scheduled(run.stages, runner, sharing, on_end), found


def _judge_baseline(
    run: OpenRun, runner: Runner, workspace: Workspace, outcome: StageOutcome, found: Findings
) -> StageOutcome:
    """What is found goes into `found`; a baseline that is not sound ends the run here."""
    try:
        found.soundness += check_measured(runner.results["soundness"], outcome.result, run.context, workspace)
        refuse_unsound(found.soundness)
    except QuantbenchError as error:
        return runner.reject(outcome, error, stops_run=True)
    return outcome


def _judge_artifact(
    run: OpenRun, runner: Runner, workspace: Workspace, stage: Stage, outcome: StageOutcome, found: Findings
) -> StageOutcome:
    """The same of an artifact, or of the baseline in another dtype, that was measured: an error costs its row only."""
    own, suite = runner.results.get(f"measure:{baseline_in(stage.dtype)}"), run.context.suite
    try:
        comparison = compare_measured(runner.results[f"measure:{BASELINE}"], outcome.result, suite, workspace)
        same_dtype = compare_measured(own, outcome.result, suite, workspace) if own and stage.method else None
    except QuantbenchError as error:
        return runner.reject(outcome, error)
    if comparison:
        found.comparisons[stage.subject] = comparison
    if same_dtype:
        found.same_dtype[stage.subject] = same_dtype
    return outcome


def _recorded(measured: RunRecord, suite: Suite, recorder: Recorder, observer: RunObserver) -> RunRecord:
    """Page, result and MLflow record. The first two wait for no tracking store: they are written before it is asked,
    and again with its answer. MLflow keeps the page as it was when the recording began."""
    start = time.monotonic()
    record = measured.model_copy(update={"page": write_page(measured, suite)})
    write_sealed(record.run_dir / RESULT_FILE, record)
    ended = recorder.record(record, start, lambda text: observer.on_progress("record", text))
    breakdown = record.breakdown.with_own(RECORDING, time.monotonic() - start)
    told = {"tracking": ended.told, "recorded": ended.recorded is not None, "breakdown": breakdown}
    record = record.model_copy(update=told)
    write_page(record, suite)
    write_sealed(record.run_dir / RESULT_FILE, record)
    keep_summary(record)
    return record


def rows_of(run: OpenRun, results: Mapping[str, StageResult], found: Findings) -> list[Row]:
    """Baseline first, then the artifacts in the order in which they are measured."""
    artifacts = [
        artifact_row(
            stage.subject,
            stage.method.method if stage.method else UNQUANTIZED,
            results,
            found.comparisons.get(stage.subject),
            found.same_dtype.get(stage.subject),
        )
        for stage in run.stages
        if stage.kind == "measure" and stage.subject != BASELINE
    ]
    return with_shared_proofs([baseline_row(results, found.soundness), *artifacts])
