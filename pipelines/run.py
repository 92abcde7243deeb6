"""A run from recipe to report: open it, run its stages in order, compare, record, report."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from configs.errors import QuantbenchError, RequestError
from configs.loading import load_yaml_model
from evals.suite import Suite, load_suite
from pipelines.comparison import Comparison, compare_measured, import_ahead
from pipelines.device import MachineRecord, detect_machine
from pipelines.events import StageOutcome, time_breakdown
from pipelines.fingerprints import calibration_fingerprint, source_fingerprint
from pipelines.fork_servers import ForkServers
from pipelines.jobs import JobContext
from pipelines.preflight import check_environments, check_rules
from pipelines.record import RECORDING
from pipelines.recording import Recorder
from pipelines.report.page import write_page
from pipelines.report.rows import Row, artifact_row, baseline_row
from pipelines.run_config import RunConfig
from pipelines.run_record import RunRecord
from pipelines.runner import Runner
from pipelines.stages import Fingerprints, Stage, stages_of
from pipelines.workspace import Workspace
from quantizers.sources import check_source
from registry.contracts import CheckpointRecord, StageResult
from registry.files import write_text_atomically


@dataclass(frozen=True)
class OpenRun:
    """A recipe that was read and found sound, on this machine."""

    context: JobContext
    stages: list[Stage]
    started_at: datetime
    start_seconds: float
    """`time.monotonic()` when the recipe began to be read: reading it and looking at its source is a run's time too."""

    @property
    def subjects(self) -> list[str]:
        """Row names in the order in which they are measured."""
        return [stage.subject for stage in self.stages if stage.kind == "measure"]


class RunObserver(Protocol):
    """Who is told while a run goes on."""

    def on_progress(self, stage: Stage, text: str) -> None:
        """A few times a second while a stage works."""

    def on_outcome(self, outcome: StageOutcome, rows: list[Row]) -> None:
        """After each stage, with all rows as far as they are known."""


def open_run(recipe: Path, overrides: list[str]) -> OpenRun:
    """Read the recipe and check all that can be known before work begins.

    Raises:
        RequestError: The recipe, its suite or its source is wrong; nothing was started.
    """
    started_at, start_seconds = datetime.now(UTC), time.monotonic()
    config = load_yaml_model(recipe, RunConfig, overrides)
    check_source(config.source)
    suite = load_suite(config.evaluation.suite)
    machine = detect_machine(config.device)
    resolved = suite.resolve(config.evaluation.data)
    context = JobContext(config, machine, suite, resolved.item_texts())
    fingerprints = Fingerprints(
        source=source_fingerprint(config.source),
        calibration=calibration_fingerprint(config.calibration),
        suite=resolved.digest,
    )
    stages = stages_of(config, machine, fingerprints)
    check_environments(config.environments, stages)
    return OpenRun(context, stages, started_at, start_seconds)


def known_checkpoint(results: Mapping[str, StageResult]) -> CheckpointRecord | None:
    """The checkpoint's record, when it was prepared before."""
    prepared = results.get("prepare")
    return CheckpointRecord.model_validate(prepared.record) if prepared and prepared.record else None


def check_device(machine: MachineRecord) -> None:
    """Raise RequestError where the recipe names a device that is not there."""
    if machine.device == "cuda" and machine.gpu_memory_bytes is None:
        raise RequestError(
            "the recipe asks for device cuda, and no NVIDIA GPU answers here",
            remedy="run it on a GPU machine, see `quantbench doctor`; --set device=cpu tries it without",
        )


def execute_run(run: OpenRun, workspace: Workspace, observer: RunObserver) -> RunRecord:
    """Run every stage whose result is not there yet; a failed stage stops only what needs it."""
    config, machine = run.context.config, run.context.machine
    check_device(machine)
    run_dir = workspace.new_run_dir(config.name)
    write_text_atomically(run_dir / "config.json", config.model_dump_json(indent=2))
    with Recorder(config.tracking, workspace, run_dir) as recorder:

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
    write_text_atomically(record.run_dir / "result.json", record.model_dump_json(indent=2))
    return record


def rows_of(run: OpenRun, results: Mapping[str, StageResult], comparisons: Mapping[str, Comparison]) -> list[Row]:
    """Baseline first, then the artifacts in the order in which they are measured."""
    methods = run.context.config.methods
    return [baseline_row(results)] + [
        artifact_row(name, methods[name].method, results, comparisons.get(name))
        for name in run.subjects
        if name != "baseline"
    ]
