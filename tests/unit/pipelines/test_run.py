"""What a run keeps of itself at its end: the page, the record, and all of the time that it took."""

import json
import sqlite3
import time
from contextlib import closing, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs.errors import StageError
from pipelines.execution import run as runs
from pipelines.execution.recording import Ended, Recorder
from pipelines.execution.run import execute_run
from pipelines.execution.workspace import Workspace
from pipelines.planning.context import JobContext
from pipelines.planning.open_run import OpenRun
from pipelines.recipe.run_config import TrackingConfig
from pipelines.records.run_record import RunRecord
from pipelines.report.notes import notes_of
from pipelines.stage_programs import record as recorder
from pipelines.stage_programs.record import EndOnRequest, FinishedRun, RecordJob
from registry.files import write_text_atomically
from registry.sealed import read_sealed
from registry.stage_process import StageClock
from tests.unit.pipelines.report_records import SUITE, report_record
from tests.unit.pipelines.test_runner import MACHINE, run_config

STARTED = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


class Silent:
    def on_progress(self, *told: object) -> None: ...

    def on_doubt(self, *told: object) -> None: ...
    def on_outcome(self, *told: object) -> None: ...


def test_the_total_holds_page_and_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    recorded: list[RunRecord] = []

    def record_run(recorder: Recorder, record: RunRecord, start_seconds: float, on_progress: object) -> Ended:
        recorded.append(record)
        now[0] += 13.0
        # No store is waited for: what was measured is there before it is asked.
        before = read_sealed(record.run_dir / "result.json", RunRecord)
        assert (before.recorded, before.tracking) == (None, None)
        return Ended("an MLflow somewhere")

    monkeypatch.setattr(runs, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(Recorder, "record", record_run)
    workspace = Workspace(tmp_path / "workspace")
    workspace.create()
    # No stage: all of the time is ours. It began 20 s ago.
    run = OpenRun(JobContext(run_config(), MACHINE, SUITE, []), [], STARTED, 80.0)
    record = execute_run(run, workspace, Silent())
    assert (record.recorded, record.tracking) == (False, "an MLflow somewhere")
    assert recorded[0].breakdown.wall_seconds == 20.0
    assert record.breakdown.wall_seconds == record.breakdown.own_seconds == 33.0
    assert record.breakdown.stages == {"report and record": {"own": 13.0}}
    assert read_sealed(record.run_dir / "result.json", RunRecord) == record
    assert json.loads((record.run_dir / "result.json").read_text())["started_at"] == "2026-05-01T12:00:00Z"
    assert record.page is not None
    assert "33.0 s in all" in record.page.read_text()


class FakeMlflow:
    """Keeps what it is told, by run name."""

    def __init__(self, *arguments: object) -> None:
        self.runs: dict[str, SimpleNamespace] = {}
        self.versions: list[dict[str, str]] = []
        self.descriptions: list[str] = []

    tracking_uri = "sqlite:///nowhere"
    takes_local_paths = True

    def run(self, name: str, key: str, tags: dict[str, str], **times: Any) -> Any:
        told: dict[str, Any] = {}
        writer = SimpleNamespace(
            run_id=name, finished=False, key=key, tags=tags, told=told, metrics=told.update, **times
        )
        writer.params = writer.file = writer.dataset = writer.note = lambda *ignored: None
        self.runs[name] = writer
        return nullcontext(writer)

    def register_version(
        self, model: str, source: str, run_id: str, digest: str, tags: dict[str, str], description: str
    ) -> str:
        self.versions.append(tags)
        self.descriptions.append(description)
        return run_id

    def describe_model(self, model: str, description: str) -> None:
        self.descriptions.append(description)


def test_mlflow_gets_final_times_and_truthful_tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = FakeMlflow()
    monkeypatch.setattr(recorder, "MlflowBackend", lambda *arguments: mlflow)
    monkeypatch.setattr(recorder, "time", SimpleNamespace(monotonic=lambda: 1009.0))
    run = report_record(tmp_path)
    job = RecordJob(
        stage="record",
        result_file=tmp_path / "record.result.json",
        finished_run_file=tmp_path / "record.run.json",
        artifact_root=tmp_path,
        store_root=tmp_path / "store",
        tracking_uri="sqlite:///nowhere",
        tracking=TrackingConfig(),
    )
    job.finished_run_file.write_text(finished(run, 1000.0).model_dump_json())
    result = recorder.record(job, StageClock(tmp_path / "record.progress"))
    assert mlflow.runs[run.run_id].told == {"wall_seconds": 859.0, "own_seconds": run.breakdown.own_seconds + 9.0}
    sound = {row.name: mlflow.runs[row.name].tags["quantbench.sound"] for row in run.rows}
    assert sound == {"baseline": "true", "int8": "true", "nf4": "true", "gptq": "true", "awq": "false"}
    verdicts = {row.name: mlflow.runs[row.name].tags.get("quantbench.verdict") for row in run.rows}
    assert verdicts == {"baseline": None, "int8": "pass", "nf4": "fail", "gptq": "fail", "awq": "fail"}
    assert {tag for tag in mlflow.runs["nf4"].tags if tag.startswith("gate.")}
    # A version's page shows its tags one below the other: few, and the rest in words.
    names = {"quantbench.method", "quantbench.sound", "quantbench.verdict", "quantbench.run_id"}
    assert [tags.keys() - names for tags in mlflow.versions] == [set()] * len(mlflow.versions)
    assert [names - tags.keys() for tags in mlflow.versions] == [{"quantbench.verdict"}, set(), set(), set()]
    assert len(mlflow.versions) == len(mlflow.descriptions) - 1
    assert all("| category | baseline | artifact | kept [95 %] | verdict |" in one for one in mlflow.descriptions[1:-1])
    assert "| model | verdict |" in mlflow.descriptions[-1]
    assert result.record is not None
    assert result.record["versions"].keys() == {"baseline", "int8", "nf4", "gptq"}
    assert {mlflow.runs[row.name].key for row in run.rows} == {f"sha256:run/{row.name}" for row in run.rows}


def finished(run: RunRecord, start_seconds: float) -> FinishedRun:
    return FinishedRun(run=run, key="sha256:run", notes=notes_of(run), start_seconds=start_seconds)


@pytest.mark.slow
def test_a_recorder_that_waits_writes_what_comes(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "workspace")
    workspace.create()
    (tmp_path / "run").mkdir()
    run = report_record(tmp_path / "run", page=None)
    write_text_atomically(run.run_dir / "config.json", "{}")
    with Recorder(TrackingConfig(), workspace, run.run_dir) as recorder:
        recorder.start()
        assert "registered model" in recorder.record(run, time.monotonic()).told
    with Recorder(TrackingConfig(), workspace, run.run_dir) as recorder:
        again = recorder.record(run, time.monotonic())
        assert again.told.endswith("(recorded before)")
        assert again.recorded
        assert recorder._child is None


@pytest.mark.slow
def test_a_recorder_that_is_stopped_amid_its_writing_leaves_nothing_running(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "workspace")
    workspace.create()
    (tmp_path / "run").mkdir()
    run = report_record(tmp_path / "run", page=None)
    many = [row.model_copy(update={"name": f"{row.name}-{number}"}) for number in range(100) for row in run.rows]
    write_text_atomically(run.run_dir / "config.json", "{}")

    def states() -> list[str]:
        with suppress(sqlite3.Error), closing(sqlite3.connect(workspace.root / "mlflow.db")) as database:
            return [state for (state,) in database.execute("SELECT status FROM runs")]
        return []

    with Recorder(TrackingConfig(), workspace, run.run_dir) as recorder:
        recorder.start()
        handed = finished(run.model_copy(update={"rows": many}), time.monotonic())
        write_text_atomically(recorder._job.finished_run_file, handed.model_dump_json())
        while "FINISHED" not in states():
            time.sleep(0.01)
    found = states()
    assert len(found) < len(many)
    assert set(found) == {"FINISHED", "KILLED"}


def test_who_is_asked_to_end_does_so_between_two_steps() -> None:
    ending = EndOnRequest()
    steps = []
    with pytest.raises(SystemExit), ending.held():
        ending.between_steps()
        ending.request()
        steps.append("not broken off")
        ending.between_steps()
    assert steps
    with pytest.raises(SystemExit):
        EndOnRequest().request()


@pytest.mark.slow
def test_a_store_that_was_out_of_reach_gets_another_try(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "workspace")
    workspace.create()
    (tmp_path / "run").mkdir()
    run = report_record(tmp_path / "run", page=None)
    write_text_atomically(run.run_dir / "config.json", "{}")
    database = tmp_path / "later" / "mlflow.db"
    database.parent.touch()
    with Recorder(TrackingConfig(uri=f"sqlite:///{database}"), workspace, run.run_dir) as recorder:
        recorder.start()
        assert recorder._child is not None
        assert recorder._child.wait(120) == StageError.exit_code
        failed = recorder.record(run, time.monotonic())
        assert "not recorded in MLflow" in failed.told
        assert failed.recorded is None
        database.parent.unlink()
        database.parent.mkdir()
        assert "registered model" in recorder.record(run, time.monotonic()).told


@pytest.mark.slow
def test_a_damaged_database_is_told_with_what_to_do(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "workspace")
    workspace.create()
    (workspace.root / "mlflow.db").write_text("this is no database" * 100)
    (tmp_path / "run").mkdir()
    with Recorder(TrackingConfig(), workspace, tmp_path / "run") as recorder:
        told = recorder.record(report_record(tmp_path / "run", page=None), time.monotonic()).told
    assert told.startswith("not recorded in MLflow")
    assert "file is not a database" in told
    assert "tracking.uri" in told
