"""A run from recipe to report: open it, run its stages in order, compare, record, report."""

import time
from collections.abc import Mapping
from typing import Protocol

from configs.errors import QuantbenchError
from evals.suites.suite import Suite
from pipelines.execution.comparison import compare_measured, import_ahead
from pipelines.execution.fork_servers import ForkServers
from pipelines.execution.recording import Recorder
from pipelines.execution.runner import Runner
from pipelines.execution.workspace import Workspace
from pipelines.planning.open_run import OpenRun, check_device, known_checkpoint
from pipelines.planning.preflight import check_rules
from pipelines.planning.stages import Stage
from pipelines.records.comparison import Comparison
from pipelines.records.events import StageOutcome, time_breakdown
from pipelines.records.rows import Row, artifact_row, baseline_row
from pipelines.records.run_record import RunRecord
from pipelines.report.page import write_page
from pipelines.stage_programs.record import RECORDING
from registry.contracts import StageResult
from registry.files import write_text_atomically
from registry.sealed import write_sealed
from serving_checks.processes.scratch import scratch_folder


class RunObserver(Protocol):
    """Who is told while a run goes on."""

    def on_progress(self, stage: Stage, text: str) -> None:
        """A few times a second while a stage works."""

    def on_outcome(self, outcome: StageOutcome, rows: list[Row]) -> None:
        """After each stage, with all rows as far as they are known."""


def execute_run(run: OpenRun, workspace: Workspace, observer: RunObserver) -> RunRecord:
    """Run every stage whose result is not there yet; a failed stage stops only what needs it."""
    config, machine = run.context.config, run.context.machine
    check_device(machine)
    run_dir = workspace.new_run_dir(config.name)
    write_text_atomically(run_dir / "config.json", config.model_dump_json(indent=2))
    recording = Recorder(config.tracking, workspace, run_dir, config.deadlines.of_stage("record"))
    with scratch_folder(), recording as recorder:

        def before_work() -> None:
            recorder.start()
            import_ahead()

        with ForkServers(config, machine, run_dir / "logs") as fork_servers:
            runner = Runner(run.context, workspace, run_dir, observer.on_progress, fork_servers, before_work)
            outcomes, comparisons = _run_stages(run, runner, workspace, observer)
        measured = RunRecord(
            run_id=run_dir.name,
            run_dir=run_dir,
            started_at=run.started_at,
            config=config.as_json(),
            machine=run.context.machine,
            rows=rows_of(run, runner.results, comparisons),
            outcomes=outcomes,
            breakdown=time_breakdown(outcomes, time.monotonic() - run.start_seconds),
        )
        return _recorded(measured, run.context.suite, recorder)


def _run_stages(
    run: OpenRun, runner: Runner, workspace: Workspace, observer: RunObserver
) -> tuple[list[StageOutcome], dict[str, Comparison]]:
    comparisons: dict[str, Comparison] = {}
    outcomes = []
    for stage in run.stages:
        outcome = runner.run(stage)
        checkpoint = known_checkpoint(runner.results) if stage.kind == "prepare" else None
        if checkpoint:
            check_rules(run.context, checkpoint)
        if stage.kind == "measure" and stage.subject != "baseline" and outcome.result.failure is None:
            try:
                comparison = compare_measured(
                    runner.results["measure:baseline"], outcome.result, run.context.suite, workspace
                )
            except QuantbenchError as error:
                outcome = runner.reject(outcome, error)
            else:
                comparisons |= {stage.subject: comparison} if comparison else {}
        outcomes.append(outcome)
        observer.on_outcome(outcome, rows_of(run, runner.results, comparisons))
    return outcomes, comparisons


def _recorded(measured: RunRecord, suite: Suite, recorder: Recorder) -> RunRecord:
    """Page and MLflow record. MLflow keeps the page as it was when the recording began; the run's folder, the last."""
    start = time.monotonic()
    record = measured.model_copy(update={"page": write_page(measured, suite)})
    tracking = recorder.record(record, start)
    breakdown = record.breakdown.with_own(RECORDING, time.monotonic() - start)
    record = record.model_copy(update={"tracking": tracking, "breakdown": breakdown})
    write_page(record, suite)
    write_sealed(record.run_dir / "result.json", record)
    return record


def rows_of(run: OpenRun, results: Mapping[str, StageResult], comparisons: Mapping[str, Comparison]) -> list[Row]:
    """Baseline first, then the artifacts in the order in which they are measured."""
    methods = run.context.config.methods
    return [baseline_row(results)] + [
        artifact_row(name, methods[name].method, results, comparisons.get(name))
        for name in run.subjects
        if name != "baseline"
    ]
