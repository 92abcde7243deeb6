"""Recording on a real MLflow server over HTTP: once, wholly, whatever comes between."""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from configs.errors import RequestError
from pipelines.execution.recording import Recorder
from pipelines.execution.workspace import Workspace
from pipelines.recipe.run_config import TrackingConfig
from pipelines.records.rows import Row
from pipelines.records.run_record import RunRecord
from pipelines.report.notes import notes_of
from pipelines.stage_programs.record import FinishedRun
from registry.files import write_text_atomically
from registry.hashing import Manifest, manifest_of
from registry.tracking.probe import experiment_stage, holds_run
from registry.tracking.rest import NoAnswerError
from serving_checks.processes.pulse import UNBOUNDED
from serving_checks.processes.supervisor import Supervised
from tests.mlflow_server import mlflow_server
from tests.unit.pipelines.report_records import report_record

pytestmark = [pytest.mark.service, pytest.mark.engine, pytest.mark.timeout(600)]

BEGAN = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
PASSWORD = "hidden-word/1"  # noqa: S105 - of nobody


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Supervised]]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as running:
        yield running


@pytest.fixture
def uri(server: tuple[str, Supervised]) -> str:
    return server[0]


def client_of(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


class Lab:
    """A workspace with the artifacts of a finished run, and recorders for it."""

    def __init__(self, folder: Path, uri: str, **tracking: Any) -> None:
        self.workspace = Workspace(folder / "workspace")
        self.workspace.create()
        self.tracking = TrackingConfig(uri=uri, experiment=folder.name, registered_model=folder.name, **tracking)
        self.client = client_of(uri.replace("someone:hidden-word%2F1@", ""))
        run_dir = self.workspace.root / "runs" / "one"
        run_dir.mkdir(parents=True)
        (run_dir / "report.html").write_text("<p>a page</p>")
        record = report_record(run_dir, page=run_dir / "report.html", started_at=BEGAN)
        rows = [self._stored(row) for row in record.rows]
        starts = [BEGAN + timedelta(minutes=number) for number in range(len(record.outcomes))]
        outcomes = [
            outcome.model_copy(update={"started_at": start})
            for outcome, start in zip(record.outcomes, starts, strict=True)
        ]
        config = record.config | {"tracking": self.tracking.model_dump(mode="json")}
        self.run = record.model_copy(update={"rows": rows, "outcomes": outcomes, "config": config})
        write_text_atomically(run_dir / "config.json", json.dumps(config))

    def _stored(self, row: Row) -> Row:
        """The row with a model that the store has."""
        with self.workspace.store.staging() as staging:
            (staging / "model.safetensors").write_text(row.name)
            digest = self.workspace.store.put(staging).digest
        if row.checkpoint:
            return row.model_copy(update={"checkpoint": row.checkpoint.model_copy(update={"digest": digest})})
        if row.artifact is None:
            return row
        made = {"digest": digest, "calibration_digest": "sha256:" + "c" * 64 if row.name == "gptq" else None}
        return row.model_copy(update={"artifact": row.artifact.model_copy(update=made)})

    def recorder(self, **patience: float) -> Recorder:
        return Recorder(self.tracking, self.workspace, self.run.run_dir, UNBOUNDED._replace(**patience))

    def record(self, **patience: float) -> str:
        with self.recorder(**patience) as recorder:
            return recorder.record(self.run, time.monotonic()).told

    def runs(self) -> list[Any]:
        experiment = self.client.get_experiment_by_name(self.tracking.experiment)
        return list(self.client.search_runs([experiment.experiment_id])) if experiment else []

    def versions(self) -> list[Any]:
        return list(self.client.search_model_versions(f"name = '{self.tracking.registered_model}'"))


def test_a_run_is_recorded_as_mlflow_means_it(tmp_path: Path, uri: str) -> None:
    lab = Lab(tmp_path, uri)
    assert "run " in lab.record()
    runs = {run.info.run_name: run for run in lab.runs()}
    assert runs.keys() == {lab.run.run_id, *(row.name for row in lab.run.rows)}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    parent = runs[lab.run.run_id]
    assert {run.data.tags.get("mlflow.parentRunId") for run in runs.values()} == {None, parent.info.run_id}
    # The run's own times and not the recording's.
    assert parent.info.start_time == int(BEGAN.timestamp() * 1000)
    assert parent.info.end_time - parent.info.start_time > 8 * 60_000
    int8 = runs["int8"]
    assert int8.info.start_time == int((BEGAN + timedelta(minutes=2)).timestamp() * 1000)
    assert int8.info.end_time == int((BEGAN + timedelta(minutes=4, seconds=230)).timestamp() * 1000)
    assert "| model | verdict |" in parent.data.tags["mlflow.note.content"]
    assert "| category | baseline | artifact |" in int8.data.tags["mlflow.note.content"]
    assert {one.dataset.name for one in parent.inputs.dataset_inputs} == {"calibration", "suite-demo"}
    files = {one.path for one in lab.client.list_artifacts(parent.info.run_id)}
    assert files == {"config.json", "report.html", "review.json"}
    assert int8.data.metrics["arithmetic.kept"]

    versions = {version.run_id: version for version in lab.versions()}
    assert versions.keys() == {runs[name].info.run_id for name in ("baseline", "int8", "nf4", "gptq")}
    version = versions[int8.info.run_id]
    assert version.source.startswith("mlflow-artifacts:")
    assert version.description == int8.data.tags["mlflow.note.content"]
    assert len(version.tags) == 5
    digest = next(row.artifact.digest for row in lab.run.rows if row.name == "int8" and row.artifact)
    assert version.tags["quantbench.digest"] == digest
    from mlflow.artifacts import download_artifacts

    downloaded = Path(download_artifacts(version.source, tracking_uri=uri, dst_path=str(tmp_path / "downloaded")))
    (manifest,) = downloaded.iterdir()
    assert Manifest.model_validate_json(manifest.read_text()).digest == digest
    # Aliases move by the ledger alone.
    assert not lab.client.get_registered_model(lab.tracking.registered_model).aliases
    assert "| model | verdict |" in lab.client.get_registered_model(lab.tracking.registered_model).description


def test_weights_are_uploaded_by_choice(tmp_path: Path, uri: str) -> None:
    from mlflow.artifacts import download_artifacts

    lab = Lab(tmp_path, uri, weights="upload")
    lab.record()
    for version in lab.versions():
        folder = tmp_path / f"version-{version.version}"
        path = Path(download_artifacts(version.source, tracking_uri=uri, dst_path=str(folder)))
        assert manifest_of(path).digest == version.tags["quantbench.digest"]


def state(lab: Lab) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    runs = sorted((run.info.run_name, run.info.run_id) for run in lab.runs())
    return runs, sorted((version.version, version.run_id) for version in lab.versions())


def test_equal_runs_are_recorded_once(tmp_path: Path, uri: str) -> None:
    lab = Lab(tmp_path, uri)
    lab.record()
    before = state(lab)
    assert lab.record().endswith("(recorded before)")
    # What the workspace knew of it is lost, as it is by another machine.
    shutil.rmtree(lab.workspace.root / "cache")
    assert "recorded before" not in lab.record()
    assert state(lab) == before
    ids = dict(before[0])
    for name, metric in ((lab.run.run_id, "wall_seconds"), ("int8", "bits_per_weight")):
        assert len(lab.client.get_metric_history(ids[name], metric)) == 1


def test_what_mlflow_has_lost_is_not_called_recorded(tmp_path: Path, uri: str) -> None:
    lab = Lab(tmp_path, uri)
    lab.record()
    parent = next(run for run in lab.runs() if run.info.run_name == lab.run.run_id)
    assert holds_run(uri, parent.info.run_id) is True
    lab.client.delete_run(parent.info.run_id)
    assert holds_run(uri, parent.info.run_id) is False
    assert "recorded before" not in lab.record()
    assert [run.info.status for run in lab.runs() if run.info.run_name == lab.run.run_id] == ["FINISHED"]
    assert holds_run(uri, "0" * 32) is False


def test_a_recorder_that_is_killed_is_gone_on_with(tmp_path: Path, uri: str) -> None:
    lab = Lab(tmp_path, uri)
    key = "sha256:" + "7" * 64
    handed = FinishedRun(run=lab.run, key=key, notes=notes_of(lab.run), start_seconds=time.monotonic())

    def hand(kill_after: int | None) -> None:
        with lab.recorder() as recorder:
            recorder.start()
            assert recorder._child is not None
            write_text_atomically(recorder._job.finished_run_file, handed.model_dump_json())
            while recorder._child.poll() is None:
                if kill_after is not None and len(lab.runs()) >= kill_after:
                    os.kill(recorder._child.pid, signal.SIGKILL)
                    return
                time.sleep(0.05)

    for runs in (1, 3):
        hand(kill_after=runs)
    left = {run.info.run_name: run.info.run_id for run in lab.runs()}
    assert "RUNNING" in {run.info.status for run in lab.runs()}
    hand(kill_after=None)
    runs = {run.info.run_name: run for run in lab.runs()}
    assert len(runs) == len(lab.runs()) == 1 + len(lab.run.rows)
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert {name: runs[name].info.run_id for name in left} == left
    assert len(lab.versions()) == 4


def test_a_deleted_experiment_is_known_before_work(tmp_path: Path, uri: str) -> None:
    lab = Lab(tmp_path, uri)
    assert lab.recorder().check() is None
    experiment = lab.client.create_experiment(lab.tracking.experiment)
    assert experiment_stage(uri, lab.tracking.experiment) == "active"
    lab.client.delete_experiment(experiment)
    with pytest.raises(RequestError, match="was deleted") as caught:
        lab.recorder().check()
    assert "mlflow experiments restore" in caught.value.remedy
    # Deleted after the look.
    assert "was deleted" in lab.record()


def test_a_server_that_is_suspended_holds_nobody_for_long(tmp_path: Path, server: tuple[str, Supervised]) -> None:
    uri, process = server
    lab = Lab(tmp_path, uri)
    stopped = [pid for pid in _all_below(process.pid) if pid != process.pid]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    start = time.monotonic()
    try:
        told = lab.record(deadline_seconds=6.0)
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    assert told.startswith("not recorded in MLflow: ")
    assert time.monotonic() - start < 60
    assert "registered model" in lab.record()


def _all_below(pid: int) -> list[int]:
    from serving_checks.processes.guard import descendants_of

    return list(descendants_of(pid))


def test_a_password_is_kept_nowhere(tmp_path: Path, uri: str) -> None:
    lab = Lab(tmp_path, uri.replace("http://", "http://someone:hidden-word%2F1@"))
    told = lab.record()
    assert "someone:***@" in told
    kept = [path for path in lab.workspace.root.rglob("*") if path.is_file()]
    assert kept
    assert not [path for path in kept if b"hidden-word" in path.read_bytes()]
    for run in lab.runs():
        assert "hidden-word" not in json.dumps(run.data.params | run.data.tags)
    assert [run.data.params["tracking.uri"] for run in lab.runs() if "tracking.uri" in run.data.params]


def test_a_server_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = "http://127.0.0.1:9"
    with pytest.raises(NoAnswerError):
        experiment_stage(nowhere, "any")
    assert holds_run(nowhere, "0" * 32) is None
    workspace = Workspace(tmp_path)
    doubt = Recorder(TrackingConfig(uri=nowhere), workspace, tmp_path).check()
    assert doubt is not None
    assert "recorded at its end" in doubt
    with pytest.raises(RequestError, match="does not answer"):
        Recorder(TrackingConfig(uri=nowhere, required=True), workspace, tmp_path).check()
    hidden = TrackingConfig(uri="http://someone:***@127.0.0.1:9")
    with pytest.raises(RequestError, match="kept nowhere"):
        Recorder(hidden, workspace, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    assert PASSWORD not in (Recorder(hidden, workspace, tmp_path).check() or "")


def test_who_requires_a_record_is_told_by_the_exit_code(tmp_path: Path) -> None:
    record = report_record(tmp_path, outcomes=[], recorded=False)
    assert record.exit_code == 0
    required = RunRecord.model_validate(record.model_dump() | {"config": {"tracking": {"required": True}}})
    assert required.exit_code == 3
    assert required.model_copy(update={"recorded": True}).exit_code == 0


def test_two_equal_runs_at_once_are_recorded_once(tmp_path: Path, uri: str) -> None:
    lab = Lab(tmp_path, uri)
    with ThreadPoolExecutor(3) as pool:
        told = [one.result() for one in [pool.submit(lab.record) for _ in range(3)]]
    assert sorted("recorded before" in one for one in told) == [False, True, True]
    assert len(lab.runs()) == 1 + len(lab.run.rows)
    assert len(lab.versions()) == 4


def test_a_server_that_dies_amid_a_record(tmp_path: Path) -> None:
    """And one whose artifacts cannot be written: both are told, and the same command goes on."""
    folder = tmp_path / "server"
    with mlflow_server(folder) as (uri, process):
        lab = Lab(tmp_path / "work", uri)
        with lab.recorder() as recorder, ThreadPoolExecutor(1) as pool:
            recording = pool.submit(recorder.record, lab.run, time.monotonic())
            while len(lab.runs()) < 3:
                time.sleep(0.05)
            for pid in _all_below(process.pid):
                os.kill(pid, signal.SIGKILL)
            ended = recording.result()
    assert ended.recorded is None
    assert "did not answer" in ended.told
    assert "goes on where this stopped" in ended.told
    (folder / "artifacts").rename(folder / "kept")
    (folder / "artifacts").write_text("in the way")
    port = int(uri.rsplit(":", 1)[1])
    with mlflow_server(folder, port=port):
        assert "not recorded in MLflow" in lab.record()
        (folder / "artifacts").unlink()
        (folder / "kept").rename(folder / "artifacts")
        assert "registered model" in lab.record()
        assert {run.info.status for run in lab.runs()} == {"FINISHED"}
        assert len(lab.runs()) == 1 + len(lab.run.rows)
        assert len(lab.versions()) == 4


def test_a_cost_is_recorded_with_its_currency(tmp_path: Path, uri: str) -> None:
    lab = Lab(tmp_path, uri)
    price = {"device": "a CPU", "currency": "EUR", "per_hour": 0.1, "source": "made up", "read_on": "2026-01-02"}
    config = lab.run.config | {"price": price | {"made_up": True}}
    lab.run = lab.run.model_copy(update={"config": config})
    lab.record()
    baseline = next(run for run in lab.runs() if run.info.run_name == "baseline")
    assert baseline.data.metrics["cost_blended_per_million"] > 0
    assert "cost_within_slo_per_million" not in baseline.data.metrics, "no SLO was asked"
    assert "joules_per_output_token" not in baseline.data.metrics, "nothing told it"
    tags = {name: value for name, value in baseline.data.tags.items() if name.startswith("cost.")}
    assert tags == {"cost.currency": "EUR", "cost.made_up": "true"}
