"""From a recorded run to an alias and back: on a local database, on real MLflow servers, and with PostgreSQL."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from pipelines.cli import main
from pipelines.execution.shadow_evidence import Tried, record_verdict
from pipelines.recipe.registry_config import RegistryConfig
from registry.ledger import Ledger
from registry.sealed import write_sealed
from registry.signing import sign
from registry.tracking import aliases
from registry.tracking.address import LEDGER_PASSWORD_VARIABLE, sqlite_uri
from registry.tracking.rest import NoAnswerError
from tests.integration.test_mlflow_server import Lab
from tests.mlflow_server import mlflow_server
from tests.postgresql import PASSWORD, postgresql
from tests.unit.pipelines.test_ramp import verdict
from tests.walks import take, walk_of

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


STORES = [
    "database",
    *(pytest.param(name, marks=pytest.mark.service) for name in ("server", "server that uploads", "postgresql")),
]


@pytest.fixture(scope="module", params=STORES)
def recorded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A workspace whose run is recorded; int8 passes, nf4 and gptq fail.

    With `postgresql` it is behind MLflow's server, and holds the ledger too, whose password stands in no record.
    """
    folder = tmp_path_factory.mktemp("promotion")
    with ExitStack() as stack:
        if request.param == "database":
            yield _lab(folder, sqlite_uri(folder / "mlflow.db"))
            return
        ledger = behind = None
        if request.param == "postgresql":
            database = stack.enter_context(postgresql())
            database.database("team")
            ledger, behind = database.uri("team"), database.uri(driver="+psycopg")
            stack.enter_context(pytest.MonkeyPatch.context()).setenv(LEDGER_PASSWORD_VARIABLE, PASSWORD)
        uri, _ = stack.enter_context(mlflow_server(folder / "server", behind))
        yield _lab(folder, uri, ledger, weights="upload" if "uploads" in request.param else "workspace")


def _lab(folder: Path, uri: str, ledger: str | None = None, **tracking: str) -> Lab:
    lab = Lab(folder, uri, **tracking)
    assert "registered model" in lab.record()
    registry = RegistryConfig(ledger=ledger).model_dump(mode="json")
    lab.run = lab.run.model_copy(update={"config": lab.run.config | {"registry": registry}})
    write_sealed(lab.run.run_dir / "result.json", lab.run)
    return lab


class Registry:
    """The command, on a ledger of the test's own."""

    def __init__(self, lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
        self.lab, self.alias = lab, "shadow"
        self._capsys = capsys
        config = RegistryConfig.model_validate(lab.run.config["registry"])
        self._ledger = Ledger(config.ledger or sqlite_uri(lab.workspace.root / "ledger.db"))

    def sql(self, *statements: str) -> None:
        """Edit the ledger by hand."""
        with self._ledger._engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))

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

    def tags(self, name: str) -> dict[str, str]:
        """Of an artifact's version, in MLflow."""
        found = self.lab.client.get_model_version(self.lab.tracking.registered_model, self.version(name))
        return dict(found.tags)

    def version(self, name: str) -> str:
        row = next(row for row in self.lab.run.rows if row.name == name)
        assert row.digest
        assert self.lab.tracking.uri
        found = aliases.version_of(self.lab.tracking.uri, str(self.lab.tracking.registered_model), row.digest)
        assert found is not None
        return found


def before_any_decision(recorded: Lab, capsys: pytest.CaptureFixture[str]) -> Registry:
    """The command on a workspace whose ledger is empty and whose model has no alias, whatever was decided before."""
    for alias in recorded.client.get_registered_model(recorded.tracking.registered_model).aliases:
        recorded.client.delete_registered_model_alias(recorded.tracking.registered_model, alias)
    registry = Registry(recorded, capsys)
    registry.sql(*(f"DELETE FROM quantbench_{table}" for table in ("ledger", "projected", "verdicts")))  # noqa: S608
    return registry


@pytest.fixture
def registry(recorded: Lab, capsys: pytest.CaptureFixture[str]) -> Registry:
    return before_any_decision(recorded, capsys)


def test_request_approve_promote_roll_back(registry: Registry) -> None:
    alias = registry.alias
    code, said = registry("promote", "int8", "--to", alias)
    assert (code, registry.pointed()) == (4, None)
    assert "int8 is not approved" in said
    assert registry("request", "int8", "--why", "for the shadow")[0] == 0
    assert registry("promote", "int8", "--to", alias)[0] == 4, "asked for is not given"
    assert registry.tags("int8")["quantbench.approval"] == "requested by a tester"
    assert registry("approve", "int8")[0] == 0
    assert registry.tags("int8")["quantbench.approval"] == "approved by a tester"
    code, said = registry("promote", "int8", "--to", alias, "--why", "the demo's")
    assert code == 0, said
    assert registry.pointed() == registry.version("int8")
    code, said = registry("promote", "int8", "--to", alias)
    assert code == 2
    assert "already" in said

    code, said = registry("promote", "gptq", "--to", alias)
    assert code == 1
    assert "does not keep the policy" in said
    assert "quality: " in said
    code, said = registry("promote", "gptq", "--to", alias, "--override", "we look at it ourselves")
    assert code == 0, said
    assert "OVERRIDE: we look at it ourselves" in said
    assert registry.pointed() == registry.version("gptq")
    assert registry.tags("gptq")["quantbench.override"] == "shadow: we look at it ourselves"

    assert registry("rollback", alias, "--why", "answers are worse")[0] == 0
    assert registry.pointed() == registry.version("int8")
    assert registry("rollback", alias)[0] == 0
    assert registry.pointed() == registry.version("gptq"), "back from going back"

    assert registry("reject", "int8")[0] == 0
    code, said = registry("promote", "int8", "--to", "champion")
    assert code == 1
    assert "int8 was rejected by a tester" in said
    code, said = registry("history", "--verify")
    assert code == 0
    assert "whole: no entry was changed or lost" in said
    assert "7 entries" in said
    entries = json.loads(registry("history", alias, "--json")[1])["entries"]
    assert [one["kind"] for one in entries] == ["promote", "promote", "rollback", "rollback"]
    assert [one["override"] for one in entries] == [None, "we look at it ourselves"] * 2, "told again with the version"
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


def test_what_mlflow_shows_already_is_adopted_and_not_moved_to_itself(registry: Registry) -> None:
    model = registry.lab.tracking.registered_model
    registry.lab.client.set_registered_model_alias(model, "shadow", registry.version("int8"))
    registry("approve", "int8")
    code, said = registry("promote", "int8", "--to", "shadow")
    assert code == 2
    assert "registry adopt shadow" in " ".join(said.split())
    assert registry("adopt", "shadow")[0] == 0
    assert registry("rollback", "shadow")[0] == 0
    assert registry.pointed() is None


@contextmanager
def mlflow_stopped(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Between the ledger's row and MLflow's alias."""

    def gone(*_: object) -> None:
        raise NoAnswerError("it was stopped")

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.execution.alias_moves.move_alias", gone)
        yield


def test_what_a_crash_left_between_ledger_and_mlflow_is_put_right(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    alias = registry.alias
    registry("approve", "int8")
    with mlflow_stopped(monkeypatch):
        code, said = registry("promote", "int8", "--to", alias)
    assert code == 3
    assert "the next one shows in MLflow what the ledger holds" in " ".join(said.split())
    assert registry.pointed() is None
    code, said = registry("promote", "gptq", "--to", alias, "--override", "it is next")
    assert code == 0, said
    assert registry.pointed() == registry.version("gptq")
    assert registry("rollback", alias)[0] == 0
    assert registry.pointed() == registry.version("int8")


def test_a_move_by_others_between_ledger_and_mlflow_is_not_overwritten(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    alias = registry.alias
    registry("approve", "int8")
    with mlflow_stopped(monkeypatch):
        assert registry("promote", "int8", "--to", alias)[0] == 3
    theirs = registry.version("nf4")
    registry.lab.client.set_registered_model_alias(registry.lab.tracking.registered_model, alias, theirs)
    code, said = registry("promote", "gptq", "--to", alias, "--override", "it is next")
    assert code == 2
    assert "somebody moved it there" in said
    assert registry.pointed() == theirs


def test_who_is_late_leaves_mlflow_where_the_ledger_says(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a row and its alias somebody else's whole move takes place."""
    from pipelines.execution import alias_moves

    moves, real = [], alias_moves.move_alias

    def late(*place: str) -> None:
        if not moves:
            moves.append(place)
            assert registry("promote", "gptq", "--to", "shadow", "--override", "faster")[0] == 0
        real(*place)

    registry("approve", "int8")
    monkeypatch.setattr(alias_moves, "move_alias", late)
    assert registry("promote", "int8", "--to", registry.alias)[0] == 0
    entries = json.loads(registry("history", "shadow", "--json")[1])["entries"]
    assert [one["version_to"] for one in entries] == [registry.version("int8"), registry.version("gptq")]
    assert registry.pointed() == registry.version("gptq")


def test_a_version_that_was_deleted_in_mlflow_is_not_gone_back_to(registry: Registry) -> None:
    alias, model = registry.alias, registry.lab.tracking.registered_model
    client = registry.lab.client
    like = client.get_model_version(model, registry.version("nf4"))
    gone = client.create_model_version(model, like.source, run_id=like.run_id)
    client.set_registered_model_alias(model, alias, gone.version)
    registry("approve", "int8")
    assert registry("promote", "int8", "--to", alias)[0] == 0
    client.delete_model_version(model, gone.version)
    code, said = registry("rollback", alias)
    assert code == 2
    assert f"version {gone.version} of {model} was deleted in MLflow" in said
    assert registry.pointed() == registry.version("int8")
    assert len(json.loads(registry("history", alias, "--json")[1])["entries"]) == 1, "nothing was written"


def test_the_baseline_has_a_version_and_an_alias(registry: Registry) -> None:
    assert registry("promote", "baseline", "--to", "baseline")[0] == 4, "somebody has to approve it too"
    registry("approve", "baseline")
    assert registry("promote", "baseline", "--to", "baseline")[0] == 0
    registry.alias = "baseline"
    assert registry.pointed() == registry.version("baseline")


def test_the_policy_approves_by_itself_where_the_recipe_says_so(registry: Registry) -> None:
    result_file = registry.lab.run.run_dir / "result.json"
    own = registry.lab.run.config["registry"] | {"approval": "policy"}
    write_sealed(
        result_file, registry.lab.run.model_copy(update={"config": registry.lab.run.config | {"registry": own}})
    )
    try:
        assert registry("promote", "int8", "--to", "shadow")[0] == 0
        assert registry.tags("int8")["quantbench.approval"] == "approved by policy"
        assert registry("promote", "gptq", "--to", "shadow")[0] == 1, "it approves of nothing that fails"
        registry("reject", "int8")
        assert registry("promote", "int8", "--to", "champion")[0] == 1, "a person's word is more"
    finally:
        write_sealed(result_file, registry.lab.run)
    entries = json.loads(registry("history", "--json")[1])["entries"]
    assert [(one["kind"], one["who"]) for one in entries if one["stream"].startswith("approval:")] == [
        ("approve", "policy"),
        ("reject", "a tester"),
    ]


def test_a_first_move_is_taken_back_but_production_s(registry: Registry) -> None:
    registry("approve", "int8")
    for alias in ("shadow", "champion"):
        assert registry("promote", "int8", "--to", alias)[0] == 0
    assert registry("rollback", "shadow")[0] == 0
    assert registry.pointed() is None
    assert registry("rollback", "shadow")[0] == 0
    assert registry.pointed() == registry.version("int8")
    code, said = registry("rollback", "champion")
    assert code == 2
    assert "nothing to go back to" in said


def test_a_command_is_told_of_each_row(registry: Registry, tmp_path: Path) -> None:
    told, result_file = tmp_path / "told.jsonl", registry.lab.run.run_dir / "result.json"
    program = f"import sys; open({str(told)!r}, 'a').write(sys.stdin.read())"
    fails = "import sys; sys.exit('nobody listens')"
    try:
        for command in (program, fails):
            notify = registry.lab.run.config["registry"] | {"notify": [sys.executable, "-c", command]}
            config = registry.lab.run.config | {"registry": notify}
            write_sealed(result_file, registry.lab.run.model_copy(update={"config": config}))
            code, said = registry("approve", "int8")
            assert code == 0
        assert "nobody listens" in said
    finally:
        write_sealed(result_file, registry.lab.run)
    (line,) = told.read_text().splitlines()
    assert json.loads(line)["kind"] == "approve"


def test_a_ledger_whose_end_was_cut_off(registry: Registry) -> None:
    registry("approve", "int8")
    registry("promote", "int8", "--to", registry.alias)
    registry("promote", "gptq", "--to", registry.alias, "--override", "why not")
    registry.sql(
        "DELETE FROM quantbench_ledger WHERE kind = 'promote' AND sequence = 2",
        "UPDATE quantbench_verdicts SET verdict = '{}'",
    )
    code, said = registry("history", "--verify")
    assert code == 3
    assert "rows after 1 are missing" in said.replace("\n", " ")
    assert "is gone, or was changed" in said.replace("\n", " ")


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


def key_pair(private: Path, public: Path) -> None:
    """A new one, as OpenSSL makes it."""
    make = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(private)]
    halve = ["openssl", "pkey", "-in", str(private), "-pubout", "-out", str(public)]
    for command in (make, halve):
        subprocess.run(command, check=True)


def test_what_has_to_be_signed_is_not_moved_without(registry: Registry, tmp_path: Path) -> None:
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    key_pair(private, public)
    row = next(row for row in registry.lab.run.rows if row.name == "int8")
    policy = registry.lab.run.config.get("policy", {}) | {"signature": str(public)}
    result_file = registry.lab.run.run_dir / "result.json"
    config = registry.lab.run.config | {"policy": policy}
    write_sealed(result_file, registry.lab.run.model_copy(update={"config": config}))
    try:
        registry("approve", "int8")
        code, said = registry("promote", "int8", "--to", "shadow")
        assert code == 4
        assert "signature: it is not signed" in said
        assert registry.pointed() is None
        sign(registry.lab.workspace.store, str(row.digest), private)
        code, said = registry("promote", "int8", "--to", "shadow")
        assert code == 0, said
        # The signature is among what it was decided by.
        (entry,) = json.loads(registry("history", "shadow", "--json")[1])["entries"]
        (approval,) = [
            one for one in json.loads(registry("history", "--json")[1])["entries"] if one["kind"] == "approve"
        ]
        assert entry["verdict"] != approval["verdict"]
        public.write_text(public.read_text().replace("A", "B", 1))
        code, said = registry("promote", "int8", "--to", "champion")
        assert code in (1, 2)
    finally:
        write_sealed(result_file, registry.lab.run)
        registry.lab.workspace.store.signature_file(str(row.digest)).unlink(missing_ok=True)


def test_a_champion_has_passed_beside_the_one_before_where_the_policy_asks_for_it(registry: Registry) -> None:
    digests = {str(row.name): str(row.digest) for row in registry.lab.run.rows}
    ledger, model = registry._ledger, registry.lab.run.registered_model
    policy = registry.lab.run.config.get("policy", {}) | {"shadow_verdict": "pass"}
    result_file = registry.lab.run.run_dir / "result.json"
    config = registry.lab.run.config | {"policy": policy}
    write_sealed(result_file, registry.lab.run.model_copy(update={"config": config}))
    try:
        for name in ("baseline", "int8"):
            registry("approve", name)
        assert registry("promote", "baseline", "--to", "champion")[0] == 0, "the first has nothing to be compared with"
        assert registry("promote", "int8", "--to", "shadow")[0] == 0, "to be tried it needs none"
        tried = Tried(digests["baseline"], digests["int8"])
        for outcome, code in ((None, 4), ("fail", 1), ("inconclusive", 4), ("pass", 0)):
            if outcome is not None:
                record_verdict(ledger, model, "alice", tried, verdict(outcome))
            found, said = registry("promote", "int8", "--to", "champion")
            assert found == code, said
            assert ("shadow verdict: " in said) == (code != 0), said
        assert registry("rollback", "champion")[0] == 0, "back goes what was there"
        code, said = registry("promote", "gptq", "--to", "champion", "--override", "an emergency")
        assert (code, "OVERRIDE: an emergency" in said) == (0, True), said
        code, said = registry("history", "--verify")
        assert (code, said.count("verdict of")) == (0, 3), said
    finally:
        write_sealed(result_file, registry.lab.run)


def test_an_override_is_shown_wherever_the_artifact_is(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    assert registry("promote", "gptq", "--to", "shadow", "--override", "one day of traffic")[0] == 0
    place = ["--workspace", str(registry.lab.workspace.root)]
    main(["recommend", *place])
    told = "shadow points at it by override of a tester: one day of traffic"
    assert f"gptq: {told}" in capsys.readouterr().out
    assert main(["artifacts", "show", "gptq", *place]) == 0
    assert json.loads(capsys.readouterr().out)["overrides"] == [told]
    assert registry("promote", "nf4", "--to", "shadow", "--override", "no, that one")[0] == 0
    main(["artifacts", "show", "gptq", *place])
    assert json.loads(capsys.readouterr().out)["overrides"] == []


def test_a_ledger_that_was_edited(registry: Registry) -> None:
    registry("approve", "int8")
    registry("promote", "int8", "--to", registry.alias)
    registry.sql("UPDATE quantbench_ledger SET who = 'nobody' WHERE kind = 'promote'")
    code, said = registry("history", "--verify")
    assert code == 3
    assert "NOT WHOLE: alias:" in said


def test_wrong_words(registry: Registry) -> None:
    for arguments, told in (
        (("promote", "int9"), "has no artifact int9"),
        (("rollback", "champion"), "nothing to go back to"),
        (("rollback",), "takes an alias, and none is named"),
        (("history", "int8"), "takes an alias, not int8"),
        (("approve", "int8", "--override", "why"), "gives `promote` a reason"),
        (("promote", "int8", "--override", " "), "gives `promote` a reason"),
        (("approve",), "recommends no artifact"),
        (("approve", "awq"), "has no version of awq"),
    ):
        code, said = registry(*arguments)
        assert code == 2
        assert told in said


def test_the_walk_of_the_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab(tmp_path, sqlite_uri(tmp_path / "mlflow.db"))
    lab.tracking = lab.tracking.model_copy(update={"registered_model": "demo"})
    lab.run = lab.run.model_copy(update={"config": lab.run.config | {"tracking": lab.tracking.model_dump(mode="json")}})
    assert "registered model demo" in lab.record()
    write_sealed(lab.run.run_dir / "result.json", lab.run)
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    take(walk_of(Path(__file__).parents[2] / "docs" / "registry.md"), capsys)


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
