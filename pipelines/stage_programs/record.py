"""The recorder's process: one parent run, one child run a model, one registered version an artifact."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from configs.base import StrictModel
from configs.names import entry_of
from pipelines.recipe.run_config import TrackingConfig
from pipelines.records.model_cost import pricing_of
from pipelines.records.rows import Row, concurrencies
from pipelines.records.run_record import Notes, Recorded, RunRecord
from pipelines.stage_programs.serving_metrics import check_tags, cost_metrics, doubt_tags, price_tags, serving_metrics
from registry.contracts import ArtifactRecord, MeasurementRecord, StageJob, StageResult
from registry.stage_process import StageClock, main
from registry.store import Store
from registry.tracking.mlflow_backend import MlflowBackend, RunWriter, persistently

RECORDING = "report and record"
"""What a breakdown calls the time for page and MLflow record."""

_POLL_SECONDS = 0.1

_ARTIFACT = "artifact"
"""Folder of a run's files on a server in which the artifact is, or its manifest."""


class FinishedRun(StrictModel):
    """What a recorder waits for."""

    run: RunRecord
    key: str
    """Digest of all that is recorded: equal runs are recorded once."""
    notes: Notes
    files: list[Path] = []
    """Small ones that MLflow keeps beside config and page."""
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
    with clock.part("import"):
        owner_file = job.result_file.with_name("record.lock").resolve()
        backend = MlflowBackend(job.tracking_uri, job.tracking.experiment, job.artifact_root, owner_file)
    while not job.finished_run_file.exists():
        time.sleep(_POLL_SECONDS)
    finished = FinishedRun.model_validate_json(job.finished_run_file.read_text(encoding="utf-8"))
    with clock.part("record"), _ENDING.held():
        recorded = persistently(lambda: _record_run(job, backend, finished, clock), backend.tracking_uri)
    return StageResult(stage="record", record=recorded.model_dump(mode="json"))


def _record_run(job: RecordJob, backend: MlflowBackend, finished: FinishedRun, clock: StageClock) -> Recorded:
    """Write what of the run is not written yet."""
    run, notes = finished.run, finished.notes
    model = run.registered_model
    tags = {"quantbench.run_id": run.run_id, "quantbench.device": run.machine.device_name}
    times = _times(run, [outcome.name for outcome in run.outcomes])
    versions: dict[str, str] = {}
    with backend.run(run.run_id, finished.key, tags, began=run.started_at, ended=times[1]) as parent:
        if not parent.finished:
            parent.note(notes.run)
            parent.params(_flat(run.config))
            parent.file(run.run_dir / "config.json")
            if run.page:
                parent.file(run.page)
            for file in finished.files:
                parent.file(file)
            for name, digest, context in _data_of(run):
                parent.dataset(name, digest, context, f"quantbench-{context}")
        for number, row in enumerate(run.rows):
            _ENDING.between_steps()
            clock.progress("record", number, len(run.rows))
            version = _record_row(job, backend, parent, row, model, finished)
            versions |= {row.name: version} if version else {}
        if versions:
            backend.describe_model(model, notes.run)
        if not parent.finished:
            # Last, so that they hold the recording's own time too.
            breakdown = run.breakdown.with_own(RECORDING, time.monotonic() - finished.start_seconds)
            parent.metrics({"wall_seconds": breakdown.wall_seconds, "own_seconds": breakdown.own_seconds})
    where = (
        f"{backend.tracking_uri}, experiment {job.tracking.experiment}, run {parent.run_id}, registered model {model}"
    )
    return Recorded(where=where, run_id=parent.run_id, versions=versions)


def _record_row(
    job: RecordJob, backend: MlflowBackend, parent: RunWriter, row: Row, model: str, finished: FinishedRun
) -> str | None:
    """The version that it got; None where it is none to deploy."""
    sound = {True: "true", False: "false", None: "unknown"}[row.sound]
    tags = {"quantbench.method": row.method, "quantbench.sound": sound}
    if row.verdict:
        tags["quantbench.verdict"] = row.verdict
    of_run = tags | {
        f"gate.{kept.category}": kept.verdict for kept in (row.retention.categories if row.retention else [])
    }
    pricing = pricing_of(finished.run.config)
    if row.serving:
        of_run |= check_tags(row.serving) | doubt_tags(row.serving) | price_tags(pricing)
    # Of several expectations the worst is told.
    for check in sorted(row.soundness, key=lambda check: ("pass", "warn", "fail").index(check.outcome)):
        of_run[f"soundness.{check.name}"] = check.outcome
    if row.failure:
        of_run["quantbench.failure"] = row.failure[:5000]
    began, ended = _times(finished.run, [f"{kind}:{row.name}" for kind in ("quantize", "inspect", "measure")])
    note, key = finished.notes.rows[row.name], f"{finished.key}/{row.name}"
    with backend.run(row.name, key, of_run, began=began, ended=ended, parent_run_id=parent.run_id) as child:
        if not child.finished:
            child.note(note)
            if row.measurement:
                _record_measurement(child, row.measurement, row)
                child.metrics(cost_metrics(row, pricing, max(concurrencies(finished.run.rows), default=None)))
            if row.artifact:
                _record_artifact(child, row.artifact)
        # What answered the suite and no more tells of the method; it was not loaded, and nobody deploys it.
        digest = row.digest
        if digest is None or row.measurement is None or row.name != entry_of(row.name):
            return None
        source = _source(job, backend, child, digest)
    of_version = tags | {"quantbench.run_id": finished.run.run_id}
    policy = finished.run.policy_outcome(row.name)
    of_version |= {"quantbench.policy": policy} if policy else {}
    return backend.register_version(model, source, child.run_id, digest, of_version, note)


def _source(job: RecordJob, backend: MlflowBackend, child: RunWriter, digest: str) -> str:
    """Where a version's files are. A server takes no local path: it gets the manifest, or the files."""
    store = Store(job.store_root)
    upload = job.tracking.weights == "upload"
    if backend.takes_local_paths and not upload:
        return store.path(digest).as_uri()
    # A run that is finished has them: the weights of a large model are not sent again.
    if not child.finished and upload:
        child.folder(store.path(digest), _ARTIFACT)
    elif not child.finished:
        child.file(store.manifest_file(digest), _ARTIFACT)
    return f"{child.artifact_uri.rstrip('/')}/{_ARTIFACT}"


def _times(run: RunRecord, names: list[str]) -> tuple[datetime, datetime]:
    """When the first of some stages began and the last ended; the run's own time where none of them is known."""
    known = [(one.started_at, one.wall_seconds) for one in run.outcomes if one.name in names and one.started_at]
    if not known:
        return run.started_at, run.started_at + timedelta(seconds=run.breakdown.wall_seconds)
    return min(began for began, _ in known), max(began + timedelta(seconds=seconds) for began, seconds in known)


def _data_of(run: RunRecord) -> list[tuple[str, str, str]]:
    """(name, digest, context) of what the run's models were calibrated and asked with."""
    found = {}
    for row in run.rows:
        if row.measurement:
            evaluation = row.measurement.evaluation
            found[evaluation.suite_digest] = (f"suite-{evaluation.suite}", evaluation.suite_digest, "evaluation")
        if row.artifact and row.artifact.calibration_digest:
            found[row.artifact.calibration_digest] = ("calibration", row.artifact.calibration_digest, "calibration")
    return list(found.values())


def _record_artifact(child: RunWriter, artifact: ArtifactRecord) -> None:
    child.params(_flat({"method": artifact.parameters, "versions": artifact.engine_versions}))
    child.params(
        {
            "artifact.digest": artifact.digest,
            "artifact.checkpoint_digest": artifact.checkpoint_digest,
            "artifact.calibration_digest": artifact.calibration_digest,
        }
    )
    child.metrics(
        {
            "bits_per_weight": artifact.bits_per_weight,
            "quantize_seconds": artifact.duration_seconds,
            "fallback_modules": artifact.fallback_count,
        }
    )
    if artifact.calibration_digest:
        child.dataset("calibration", artifact.calibration_digest, "calibration", "quantbench-calibration")


def _record_measurement(child: RunWriter, measurement: MeasurementRecord, row: Row) -> None:
    serving, evaluation = measurement.serving, measurement.evaluation
    child.dataset(f"suite-{evaluation.suite}", evaluation.suite_digest, "evaluation", "quantbench-evaluation")
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
            # MLflow keeps no order: this tells the mix whose speeds are told first.
            "serving.prompts": next((one.prompts for one in serving.load_points if one.concurrency is not None), None),
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
