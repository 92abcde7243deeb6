"""MLflow itself, on paths that URLs have trouble with, and in a workspace that was moved."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from configs.errors import StageError
from registry.mlflow_backend import MlflowBackend, holds_run, sqlite_uri

pytestmark = pytest.mark.engine


def backend_in(workspace: Path, owner: str) -> MlflowBackend:
    uri = sqlite_uri(workspace / "mlflow.db")
    return MlflowBackend(uri, "test", workspace / "mlartifacts", workspace / owner)


def recorded(workspace: Path) -> str:
    """The id of a run with a file and a registered version."""
    with backend_in(workspace, "recorder.lock").run("a run", {}) as writer:
        writer.metrics({"seconds": 1.0})
        (workspace / "page.html").write_text("a page")
        writer.file(workspace / "page.html")
    backend_in(workspace, "other.lock").register_version("model", workspace, writer.run_id, "sha256:0", {})
    return writer.run_id


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


def test_a_copied_workspace_writes_nothing_into_the_first(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    run_id = recorded(tmp_path / "first")
    (tmp_path / "first").rename(tmp_path / "second")
    with pytest.raises(StageError, match="was moved or copied"):
        recorded(tmp_path / "second")
    assert not (tmp_path / "first").exists()
    assert holds_run(sqlite_uri(tmp_path / "second" / "mlflow.db"), run_id)


def test_runs_of_a_recorder_that_is_gone_are_ended(tmp_path: Path) -> None:
    first = backend_in(tmp_path, "first.lock")
    half = first.run("half", {})
    with recorder_of(tmp_path).run("whole", {}), half as writer:
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
    with elsewhere.run("far away", {}):
        (tmp_path / "elsewhere.lock").unlink()
        elsewhere._owner.close()
        recorder_of(tmp_path)
        assert states(tmp_path)["far away"] == "RUNNING"


def recorder_of(workspace: Path) -> MlflowBackend:
    return backend_in(workspace, f"{len(list(workspace.glob('*.lock')))}.lock")


def states(workspace: Path) -> dict[str, str]:
    with closing(sqlite3.connect(workspace / "mlflow.db")) as database:
        return dict(database.execute("SELECT name, status FROM runs"))
