"""The recorder's process: one parent run, one child run a model, one registered version an artifact."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configs.base import StrictModel
from configs.names import entry_of
from pipelines.recipe.run_config import TrackingConfig
from pipelines.records.rows import Row
from pipelines.records.run_record import RunRecord
from pipelines.stage_programs.serving_metrics import check_tags, doubt_tags, serving_metrics
from registry.contracts import MeasurementRecord, StageJob, StageResult
from registry.mlflow_backend import MlflowBackend, RunWriter
from registry.stage_process import StageClock, main
from registry.store import Store

RECORDING = "report and record"
"""What a breakdown calls the time for page and MLflow record."""

_POLL_SECONDS = 0.1

CANDIDATE_ALIAS = "candidate"
"""Points at the last artifact of the last run that no gate failed; promotion moves other aliases."""


class FinishedRun(StrictModel):
    """What a recorder waits for."""

    run: RunRecord
    start_seconds: float
    """`time.monotonic()`, the machine's clock that all processes share, at the end of the run's breakdown."""


class EndOnRequest:
    """SIGTERM ends this process: at once, or between two steps of what is held.

    Whoever stops a run stops its recorder too, in the middle of writing perhaps, and a run of MLflow that nobody
    closes is shown as RUNNING until the next one is recorded, which may be never.
    """

    def __init__(self) -> None:
        self._held = self._asked = False

    def listen(self) -> None:
        """From now on."""
        signal.signal(signal.SIGTERM, self.request)

    @contextmanager
    def held(self) -> Iterator[None]:
        """A block that is broken off at `between_steps` only."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def between_steps(self) -> None:
        """Raise SystemExit where the end was asked for."""
        if self._asked:
            raise SystemExit(128 + signal.SIGTERM)

    def request(self, *_: object) -> None:
        """What SIGTERM does."""
        self._asked = True
        if not self._held:
            self.between_steps()


_ENDING = EndOnRequest()


class RecordJob(StageJob):
    finished_run_file: Path
    """Is written when the run is over, a `FinishedRun`."""
    artifact_root: Path
    """Where MLflow keeps small files when its store is a local file."""
    store_root: Path
    tracking_uri: str
    tracking: TrackingConfig


def record(job: StageJob, clock: StageClock) -> StageResult:
    """Open MLflow, wait for the end of the run and write it."""
    assert isinstance(job, RecordJob)  # noqa: S101 - the table below says so
    store = Store(job.store_root)
    with clock.part("import"):
        owner_file = job.result_file.with_name("record.lock").resolve()
        backend = MlflowBackend(job.tracking_uri, job.tracking.experiment, job.artifact_root, owner_file)
    while not job.finished_run_file.exists():
        time.sleep(_POLL_SECONDS)
    finished = FinishedRun.model_validate_json(job.finished_run_file.read_text(encoding="utf-8"))
    run = finished.run
    model = job.tracking.registered_model or str(run.config["name"])
    with clock.part("record"), _ENDING.held():
        tags = {"quantbench.run_id": run.run_id, "quantbench.device": run.machine.device_name}
        with backend.run(run.run_id, tags) as parent:
            parent.params(_flat(run.config))
            parent.file(run.run_dir / "config.json")
            if run.page:
                parent.file(run.page)
            for row in run.rows:
                _ENDING.between_steps()
                _record_row(backend, parent, row, model, store)
            # Last, so that they hold the recording's own time too.
            breakdown = run.breakdown.with_own(RECORDING, time.monotonic() - finished.start_seconds)
            parent.metrics({"wall_seconds": breakdown.wall_seconds, "own_seconds": breakdown.own_seconds})
    where = f"{job.tracking_uri}, experiment {job.tracking.experiment}, run {parent.run_id}, registered model {model}"
    return StageResult(stage="record", record={"where": where, "run_id": parent.run_id})


def _record_row(backend: MlflowBackend, parent: RunWriter, row: Row, model: str, store: Store) -> None:
    sound = {True: "true", False: "false", None: "unknown"}[row.sound]
    tags = {"quantbench.method": row.method, "quantbench.sound": sound}
    # Of several expectations the worst is told.
    for check in sorted(row.soundness, key=lambda check: ("pass", "warn", "fail").index(check.outcome)):
        tags[f"soundness.{check.name}"] = check.outcome
    if row.artifact:
        tags |= {
            "quantbench.artifact_digest": row.artifact.digest,
            "quantbench.checkpoint_digest": row.artifact.checkpoint_digest,
            "quantbench.calibration_digest": row.artifact.calibration_digest or "none",
        }
    if row.verdict:
        tags["quantbench.verdict"] = row.verdict
    for kept in row.retention.categories if row.retention else []:
        tags[f"gate.{kept.category}"] = kept.verdict
    if row.serving:
        tags |= check_tags(row.serving)
    if row.failure:
        tags["quantbench.failure"] = row.failure[:5000]
    # Of one measurement, so they stay off the registered version, which a later one may belong to as well.
    doubts = doubt_tags(row.serving) if row.serving else {}
    with backend.run(row.name, tags | doubts, parent_run_id=parent.run_id) as child:
        if row.measurement:
            _record_measurement(child, row.measurement, row)
        if row.artifact:
            child.params(_flat({"method": row.artifact.parameters, "versions": row.artifact.engine_versions}))
            child.metrics(
                {
                    "bits_per_weight": row.artifact.bits_per_weight,
                    "quantize_seconds": row.artifact.duration_seconds,
                    "fallback_modules": row.artifact.fallback_count,
                }
            )
            if row.artifact.calibration_digest:
                child.dataset("calibration", row.artifact.calibration_digest, "calibration", "quantbench-store")
    # What answered the suite and no more tells of the method; it was not loaded, and nobody deploys it.
    if row.artifact and row.measurement and row.name == entry_of(row.name):
        version = backend.register_version(
            model, store.path(row.artifact.digest), child.run_id, row.artifact.digest, tags
        )
        if row.verdict != "fail":
            backend.set_alias(model, CANDIDATE_ALIAS, version)


def _record_measurement(child: RunWriter, measurement: MeasurementRecord, row: Row) -> None:
    serving, evaluation = measurement.serving, measurement.evaluation
    child.dataset(f"suite-{evaluation.suite}", evaluation.suite_digest, "evaluation", "quantbench-suite")
    child.params(
        {
            "serving.dtype": serving.dtype,
            "serving.device": serving.device_name,
            "serving.engine": f"{serving.engine} {serving.engine_version}",
            "serving.kernel": serving.quantization_kernel,
            "serving.tensor_parallel_size": serving.tensor_parallel_size,
            "serving.eager": serving.eager,
            "serving.prefix_caching": serving.prefix_caching,
            "serving.max_num_seqs": serving.max_num_seqs,
            "serving.threads": serving.threads,
        }
    )
    metrics = serving_metrics(serving)
    for score in evaluation.categories:
        metrics[f"{score.category}.{score.metric}"] = score.value
        metrics[f"{score.category}.{score.metric}_stderr"] = score.stderr
    for kept in row.retention.categories if row.retention else []:
        # `kept` comes first in MLflow's order too.
        names = ("kept", "kept_low", "kept_high", "retention", "retention_stderr")
        known = {name: getattr(kept, name) for name in names if getattr(kept, name) is not None}
        metrics |= {f"{kept.category}.{name}": value for name, value in known.items()}
    child.metrics(metrics)


def _flat(value: object, prefix: str = "") -> dict[str, object]:
    if isinstance(value, dict):
        return {
            name: leaf
            for key, inner in value.items()
            for name, leaf in _flat(inner, f"{prefix}.{key}" if prefix else key).items()
        }
    return {prefix: value}


if __name__ == "__main__":
    # Its long imports fall into the run's first stages, which come first.
    os.nice(19)
    _ENDING.listen()
    sys.exit(main({"record": (RecordJob, record)}))
