"""MLflow itself, on paths that URLs have trouble with, and in a workspace that was moved."""

import shutil
import sqlite3
from contextlib import AbstractContextManager, closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from mlflow import MlflowClient

from configs.errors import StageError
from registry.tracking.address import sqlite_uri
from registry.tracking.mlflow_backend import MlflowBackend, RunWriter, shortened
from registry.tracking.probe import holds_run

pytestmark = pytest.mark.engine

BEGAN = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


def backend_in(workspace: Path, owner: str) -> MlflowBackend:
    uri = sqlite_uri(workspace / "mlflow.db")
    return MlflowBackend(uri, "test", workspace / "mlartifacts", workspace / owner)


def recorded(workspace: Path) -> str:
    """The id of a run with a file and a registered version."""
    with run_of(backend_in(workspace, "recorder.lock"), "a run") as writer:
        writer.metrics({"seconds": 1.0})
        (workspace / "page.html").write_text("a page")
        writer.file(workspace / "page.html")
    source = (workspace / "store").as_uri()
    backend_in(workspace, "other.lock").register_version("model", source, writer.run_id, "sha256:0", {}, "a version")
    return writer.run_id


def run_of(backend: MlflowBackend, name: str) -> AbstractContextManager[RunWriter]:
    return backend.run(name, f"sha256:{name}", {}, began=BEGAN, ended=BEGAN)


@pytest.mark.parametrize("name", ["a b?x=1&y%41#c", "ü;[x]"])
def test_wherever_a_workspace_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    workspace, elsewhere = tmp_path / name, tmp_path / "elsewhere"
    workspace.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    run_id = recorded(workspace)
    assert len(list(workspace.glob("mlartifacts/*/artifacts/page.html"))) == 1
    assert holds_run(sqlite_uri(workspace / "mlflow.db"), run_id)
    assert not holds_run(sqlite_uri(workspace / "mlflow.db"), "another")
    assert sorted(tmp_path.iterdir()) == sorted({workspace, elsewhere})
    assert list(elsewhere.iterdir()) == []
    (workspace / "mlflow.db").write_bytes(b"no database")
    assert not holds_run(sqlite_uri(workspace / "mlflow.db"), run_id)
    (workspace / "mlflow.db").unlink()
    assert not holds_run(sqlite_uri(workspace / "mlflow.db"), run_id)


@pytest.mark.parametrize("how", ["moved", "copied"])
def test_a_workspace_that_was_moved_or_copied_goes_on(tmp_path: Path, how: str) -> None:
    first, second = tmp_path / "the first's", tmp_path / "second"
    first.mkdir()
    run_id = recorded(first)
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    if how == "moved":
        first.rename(second)
    else:
        shutil.copytree(first, second)
    with run_of(backend_in(second, "later.lock"), "later") as writer:
        writer.file(second / "page.html")
    client = MlflowClient(tracking_uri=sqlite_uri(second / "mlflow.db"), registry_uri=sqlite_uri(second / "mlflow.db"))
    for one in (run_id, writer.run_id):
        assert client.get_run(one).info.artifact_uri.startswith((second / "mlartifacts").as_uri())
        (page,) = client.list_artifacts(one)
        assert Path(client.download_artifacts(one, page.path)).read_text() == "a page"
    (version,) = client.search_model_versions("name = 'model'")
    assert version.source == (second / "store").as_uri()
    assert client.get_model_version_download_uri("model", version.version) == version.source
    assert holds_run(sqlite_uri(second / "mlflow.db"), run_id)
    left = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} if first.exists() else None
    assert left == (None if how == "moved" else before)


def test_places_outside_a_workspace_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    recorded(tmp_path / "first")
    uri = sqlite_uri(tmp_path / "first" / "mlflow.db")
    MlflowClient(tracking_uri=uri).create_experiment("theirs", artifact_location=(tmp_path / "elsewhere").as_uri())
    (tmp_path / "first").rename(tmp_path / "second")
    recorded(tmp_path / "second")
    moved = MlflowClient(tracking_uri=sqlite_uri(tmp_path / "second" / "mlflow.db"))
    theirs = moved.get_experiment_by_name("theirs")
    assert theirs is not None
    assert theirs.artifact_location == (tmp_path / "elsewhere").as_uri()


def test_descriptions_are_as_long_as_every_database_takes_them() -> None:
    rows = "\n".join(f"| row {number} | {'x' * 90} |" for number in range(60))
    cut = shortened(rows)
    assert len(cut) <= 5000 < len(rows)
    *lines, empty, last = cut.split("\n")
    assert set(lines) <= set(rows.split("\n")), "whole lines"
    assert (empty, last) == ("", "(The rest is on the run's page.)")
    assert shortened("short") == "short"
    assert len(shortened("y" * 6000)) <= 5000


def test_an_experiment_that_was_deleted_is_told(tmp_path: Path) -> None:
    backend_in(tmp_path, "first.lock")
    client = MlflowClient(tracking_uri=sqlite_uri(tmp_path / "mlflow.db"))
    found = client.get_experiment_by_name("test")
    assert found is not None
    client.delete_experiment(found.experiment_id)
    with pytest.raises(StageError, match="was deleted"):
        backend_in(tmp_path, "second.lock")


def test_runs_of_a_recorder_that_is_gone_are_ended(tmp_path: Path) -> None:
    first = backend_in(tmp_path, "first.lock")
    half = run_of(first, "half")
    with run_of(recorder_of(tmp_path), "whole"), half as writer:
        assert states(tmp_path) == {"half": "RUNNING", "whole": "RUNNING"}
        recorder_of(tmp_path)
        assert states(tmp_path) == {"half": "RUNNING", "whole": "RUNNING"}
        # The kernel does so at a process's end, however that comes about.
        first._owner.close()
        recorder_of(tmp_path)
        assert states(tmp_path) == {"half": "KILLED", "whole": "RUNNING"}
        assert writer.run_id
    # A tracking server may hold runs of another machine, whose files are not here.
    elsewhere = backend_in(tmp_path, "elsewhere.lock")
    with run_of(elsewhere, "far away"):
        (tmp_path / "elsewhere.lock").unlink()
        elsewhere._owner.close()
        recorder_of(tmp_path)
        assert states(tmp_path)["far away"] == "RUNNING"


def recorder_of(workspace: Path) -> MlflowBackend:
    return backend_in(workspace, f"{len(list(workspace.glob('*.lock')))}.lock")


def states(workspace: Path) -> dict[str, str]:
    with closing(sqlite3.connect(workspace / "mlflow.db")) as database:
        return dict(database.execute("SELECT name, status FROM runs"))
