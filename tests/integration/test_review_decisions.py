"""Decisions on the live page: real HTTP, a real workspace and ledger, a real MLflow store."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from configs.errors import RequestError
from pipelines.execution.promotion import ModelRegistry
from pipelines.execution.reviewing import decided
from pipelines.records.run_record import RESULT_FILE
from registry.ledger import Entry, Ledger
from registry.sealed import write_sealed
from registry.tracking.address import sqlite_uri
from tests.integration.test_promotion import Lab, Registry, _lab, before_any_decision
from tests.unit.pipelines.test_review_server import Live, Said

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A workspace whose run is recorded; int8 passes, nf4 and gptq fail."""
    folder = tmp_path_factory.mktemp("decisions")
    lab = _lab(folder, sqlite_uri(folder / "mlflow.db"))
    run = lab.run.model_copy(update={"page": None})
    write_sealed(run.run_dir / RESULT_FILE, run)
    return lab


@pytest.fixture
def registry(recorded: Lab, capsys: pytest.CaptureFixture[str]) -> Registry:
    return before_any_decision(recorded, capsys)


class Page:
    """The page as a reader has it before the eyes: decisions say what it showed when it was loaded."""

    def __init__(self, live: Live, run: str) -> None:
        self.live, self._run = live, run
        self.load()

    def load(self) -> None:
        self.data = self.live.ask("/data.json").json

    def __call__(self, action: str, name: str | None = None, alias: str | None = None, **changes: Any) -> Said:
        rows = self.data["aliases"]
        decision = {"action": action, "run": self._run, "name": name, "alias": alias, "why": "seen on the page"}
        decision["seen"] = rows[-1]["digest"] if rows else None
        return self.live.decide(decision | changes)


@pytest.fixture
def page(registry: Registry) -> Iterator[Page]:
    workspace = registry.lab.workspace
    with Live(workspace.root, lambda decision: decided(decision, workspace)).running() as live:
        yield Page(live, registry.lab.run.run_dir.name)


def refused(said: Said, message: str) -> None:
    assert said.status == 409, said
    assert message in said.json["message"]
    assert said.json["remedy"]


def test_approve_promote_roll_back_and_reject_are_rows_with_who_and_why(page: Page, registry: Registry) -> None:
    refused(page("promote", "int8", "shadow"), "int8 is not approved")
    assert page("approve", "int8").status == 200
    page.load()
    said = page("promote", "int8", "shadow")
    assert said.status == 200, said
    assert registry.pointed() == registry.version("int8")
    page.load()
    assert page("rollback", alias="shadow").status == 200
    assert registry.pointed() is None
    page.load()
    assert page("reject", "int8").status == 200
    page.load()
    rows = [Entry.model_validate(row) for row in page.data["aliases"]]
    assert [row.kind for row in rows] == ["approve", "promote", "rollback", "reject"]
    assert all(row.who.startswith("review page: ") and row.why == "seen on the page" for row in rows)
    code, history = registry("history", "--verify")
    assert code == 0 and "whole" in history
    refused(page("promote", "int8", "champion"), "int8 was rejected by review page: ")


def test_the_command_line_s_checks_hold(page: Page, registry: Registry) -> None:
    refused(page("promote", "gptq", "shadow"), "does not keep the policy")
    refused(page("promote", "int8", "nowhere"), "needs an alias")
    refused(page("promote", "int8"), "needs an alias")
    refused(page("approve"), "needs a model's name")
    refused(page("approve", "nobody"), "has no artifact nobody")
    refused(page("approve", "awq"), "in MLflow")
    refused(page("rollback", alias="champion"), "nothing to go back to")
    refused(page("approve", "int8", run="another"), "is called another")
    refused(page("approve", "int8", run=registry.lab.run.run_dir.name[:2]), "no finished run is called")
    assert not registry("history", "--json")[1].count('"kind"'), "nothing was written"


def test_a_page_that_shows_an_old_state_is_told_to_look_again(page: Page, registry: Registry) -> None:
    assert registry("approve", "int8", "--why", "from the command line")[0] == 0
    said = page("reject", "int8")
    refused(said, "has changed since the page was made: a tester wrote `approve`")
    assert "look again" in said.json["remedy"]
    page.load()
    assert page("promote", "int8", "shadow").status == 200
    refused(page("rollback", alias="shadow"), "has changed since the page was made")
    assert registry.pointed() == registry.version("int8")


def test_what_is_written_between_the_look_and_the_row_is_not_overtaken(
    page: Page, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ModelRegistry.subject

    def late(self: ModelRegistry, name: str) -> Any:
        found = real(self, name)
        lab = registry.lab
        ModelRegistry(lab.run, lab.workspace, "somebody else", lambda text: None).tell(found, "reject", "first")
        return found

    monkeypatch.setattr(ModelRegistry, "subject", late)
    refused(page("approve", "int8"), "has changed since")
    kinds = [row["kind"] for row in json.loads(registry("history", "--json")[1])["entries"]]
    assert kinds == ["reject"]


def test_of_two_readers_who_decide_at_once_one_is_told_to_look_again(page: Page, registry: Registry) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(lambda action: page(action, "int8"), ("approve", "reject")))
    assert sorted(one.status for one in said) == [200, 409]


def test_a_ledger_that_is_gone_is_told(page: Page, registry: Registry, tmp_path: Path) -> None:
    def away(self: Ledger, *_: Any) -> Any:
        raise RequestError("the ledger does not answer", remedy="see that it is there")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "append", away)
        refused(page("approve", "int8"), "the ledger does not answer")
