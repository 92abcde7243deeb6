"""From a recorded run to an alias and back: on a local database and on a real MLflow server."""

import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pipelines.cli import main
from registry.sealed import write_sealed
from registry.tracking import aliases
from registry.tracking.address import sqlite_uri
from registry.tracking.rest import NoAnswerError
from tests.integration.test_mlflow_server import Lab
from tests.mlflow_server import mlflow_server

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


@pytest.fixture(scope="module", params=["database", "server"])
def recorded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A workspace whose run is recorded; int8 passes, nf4 and gptq fail."""
    folder = tmp_path_factory.mktemp(f"promotion-{request.param}")
    if request.param == "database":
        yield _lab(folder, sqlite_uri(folder / "mlflow.db"))
    else:
        with mlflow_server(folder / "server") as (uri, _):
            yield _lab(folder, uri)


def _lab(folder: Path, uri: str) -> Lab:
    lab = Lab(folder, uri)
    assert "registered model" in lab.record()
    write_sealed(lab.run.run_dir / "result.json", lab.run)
    return lab


class Registry:
    """The command, on a ledger of the test's own."""

    def __init__(self, lab: Lab, capsys: pytest.CaptureFixture[str], alias: str) -> None:
        self.lab, self.alias = lab, alias
        self._capsys = capsys
        self.ledger_file = lab.workspace.root / "ledger.db"

    def __call__(self, *arguments: str) -> tuple[int, str]:
        place = ["--workspace", str(self.lab.workspace.root), "--who", "a tester"]
        code = main(["registry", *arguments, *place])
        said = self._capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out + said.err

    def pointed(self) -> str | None:
        """Where MLflow says."""
        from mlflow.exceptions import MlflowException

        try:
            found = self.lab.client.get_model_version_by_alias(self.lab.tracking.registered_model, self.alias)
        except MlflowException:
            return None
        return str(found.version)

    def version(self, name: str) -> str:
        row = next(row for row in self.lab.run.rows if row.name == name)
        assert row.artifact is not None
        assert self.lab.tracking.uri
        found = aliases.version_of(self.lab.tracking.uri, str(self.lab.tracking.registered_model), row.artifact.digest)
        assert found is not None
        return found


@pytest.fixture
def registry(recorded: Lab, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Registry:
    for file in recorded.workspace.root.glob("ledger.db*"):
        file.unlink()
    return Registry(recorded, capsys, request.node.originalname)


def test_request_approve_promote_roll_back(registry: Registry) -> None:
    alias = registry.alias
    code, said = registry("promote", "int8", "--to", alias)
    assert (code, registry.pointed()) == (2, None)
    assert "int8 is not approved" in said
    assert registry("request", "int8", "--why", "for the shadow")[0] == 0
    assert registry("promote", "int8", "--to", alias)[0] == 2, "asked for is not given"
    assert registry("approve", "int8")[0] == 0
    code, said = registry("promote", "int8", "--to", alias, "--why", "the demo's")
    assert code == 0, said
    assert registry.pointed() == registry.version("int8")
    code, said = registry("promote", "int8", "--to", alias)
    assert code == 2
    assert "already" in said

    code, said = registry("promote", "gptq", "--to", alias)
    assert code == 2
    assert "does not keep the policy" in said
    assert "quality: " in said
    code, said = registry("promote", "gptq", "--to", alias, "--override", "we look at it ourselves")
    assert code == 0, said
    assert "OVERRIDE: we look at it ourselves" in said
    assert registry.pointed() == registry.version("gptq")

    assert registry("rollback", alias, "--why", "answers are worse")[0] == 0
    assert registry.pointed() == registry.version("int8")
    assert registry("rollback", alias)[0] == 0
    assert registry.pointed() == registry.version("gptq"), "back from going back"

    assert registry("reject", "int8")[0] == 0
    assert registry("promote", "int8", "--to", alias)[0] == 2
    code, said = registry("history", "--verify")
    assert code == 0
    assert "whole: no entry was changed or lost" in said
    assert "7 entries" in said
    entries = json.loads(registry("history", alias, "--json")[1])["entries"]
    assert [one["kind"] for one in entries] == ["promote", "promote", "rollback", "rollback"]
    assert entries[1]["override"] == "we look at it ourselves"
    assert all(one["who"] == "a tester" and one["verdict"] for one in entries)


def test_a_move_that_was_made_in_mlflow_is_told_and_not_overwritten(registry: Registry) -> None:
    alias, model = registry.alias, registry.lab.tracking.registered_model
    registry("approve", "int8")
    assert registry("promote", "int8", "--to", alias)[0] == 0
    theirs = registry.version("nf4")
    registry.lab.client.set_registered_model_alias(model, alias, theirs)
    for command in (("rollback", alias), ("promote", "gptq", "--to", alias, "--override", "now")):
        code, said = registry(*command)
        assert code == 2
        assert "somebody moved it there" in said
        assert f"registry adopt {alias}" in said
        assert registry.pointed() == theirs
    assert registry("adopt", alias)[0] == 0
    assert registry("adopt", alias)[0] == 2, "nothing is left to take"
    assert registry("rollback", alias)[0] == 0
    assert registry.pointed() == registry.version("int8")


def test_what_a_crash_left_between_ledger_and_mlflow_is_put_right(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise NoAnswerError("it was stopped")

    alias = registry.alias
    registry("approve", "int8")
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.execution.promotion.move_alias", gone)
        code, said = registry("promote", "int8", "--to", alias)
    assert code == 3
    assert "the next one shows in MLflow what the ledger holds" in said
    assert registry.pointed() is None
    code, said = registry("promote", "gptq", "--to", alias, "--override", "it is next")
    assert code == 0, said
    assert registry.pointed() == registry.version("gptq")
    assert registry("rollback", alias)[0] == 0
    assert registry.pointed() == registry.version("int8")


def test_bytes_that_changed_are_not_promoted(registry: Registry) -> None:
    row = next(row for row in registry.lab.run.rows if row.name == "int8")
    assert row.artifact is not None
    registry("approve", "int8")
    file = registry.lab.workspace.store.path(row.artifact.digest) / "model.safetensors"
    before = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(b"other")
    try:
        code, said = registry("promote", "int8", "--to", registry.alias)
    finally:
        file.write_bytes(before)
    assert code == 3
    assert "is not what was measured" in said
    assert registry.pointed() is None


def test_a_ledger_that_was_edited(registry: Registry) -> None:
    registry("approve", "int8")
    registry("promote", "int8", "--to", registry.alias)
    with closing(sqlite3.connect(registry.ledger_file)) as connection, connection:
        connection.execute("UPDATE quantbench_ledger SET who = 'nobody' WHERE kind = 'promote'")
    code, said = registry("history", "--verify")
    assert code == 3
    assert "NOT WHOLE: alias:" in said


def test_wrong_words(registry: Registry) -> None:
    for arguments, told in (
        (("promote", "int9"), "has no artifact int9"),
        (("rollback", "nothing"), "nothing to go back to"),
        (("rollback",), "needs an alias"),
        (("approve",), "recommends no artifact"),
        (("approve", "awq"), "has no version of awq"),
    ):
        code, said = registry(*arguments)
        assert code == 2
        assert told in said


def test_it_moves_without_importing_mlflow(recorded: Lab) -> None:
    assert recorded.tracking.uri
    model = str(recorded.tracking.registered_model)
    program = (
        "import sys; from registry.tracking.aliases import alias_of, move_alias\n"
        f"move_alias({recorded.tracking.uri!r}, {model!r}, 'light', '1')\n"
        f"assert alias_of({recorded.tracking.uri!r}, {model!r}, 'light') == '1'\n"
        f"move_alias({recorded.tracking.uri!r}, {model!r}, 'light', None)\n"
        f"assert alias_of({recorded.tracking.uri!r}, {model!r}, 'light') is None\n"
        "assert 'mlflow' not in sys.modules"
    )
    import subprocess

    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", program], check=True, cwd=root)
    with pytest.raises(NoAnswerError):
        aliases.move_alias(recorded.tracking.uri, model, "light", "99")


def test_versions_that_mlflow_deleted(recorded: Lab, tmp_path: Path) -> None:
    lab = Lab(tmp_path, str(recorded.tracking.uri))
    lab.record()
    row = next(row for row in lab.run.rows if row.name == "int8")
    assert row.artifact is not None
    found = aliases.version_of(str(lab.tracking.uri), str(lab.tracking.registered_model), row.artifact.digest)
    assert found is not None
    lab.client.delete_model_version(lab.tracking.registered_model, found)
    assert aliases.version_of(str(lab.tracking.uri), str(lab.tracking.registered_model), row.artifact.digest) is None
