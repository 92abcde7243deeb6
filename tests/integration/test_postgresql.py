"""A ledger that a team shares, on a real PostgreSQL server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.errors import RequestError, StageError
from registry.ledger import Ledger, faults_of
from registry.tracking.address import LEDGER_PASSWORD_VARIABLE, without_password
from tests.postgresql import PASSWORD, PostgreSQL, postgresql
from tests.unit.registry.test_ledger import move, write_at_once

pytestmark = pytest.mark.service


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    with postgresql() as running:
        yield running


def test_many_writers_at_once_lose_and_double_nothing(server: PostgreSQL) -> None:
    server.database("busy")
    write_at_once(server.uri("busy"))


def test_a_database_that_goes_in_the_middle(server: PostgreSQL) -> None:
    server.database("gone")
    ledger = Ledger(server.uri("gone"))
    first = ledger.append(move(1), None)
    server.stop()
    for work in (lambda: ledger.append(move(2), first), lambda: ledger.last("tiny", "alias:shadow")):
        with pytest.raises(StageError, match=r"the ledger postgresql://postgres:\*\*\*@127.0.0.1") as caught:
            work()
        assert PASSWORD not in str(caught.value)
        assert "secret%2Fof" not in str(caught.value)
    server.start()
    assert ledger.last("tiny", "alias:shadow") == first
    second = ledger.append(move(2), first)
    assert faults_of(ledger.entries("tiny", "alias:shadow")) == []
    assert second.sequence == 2


def test_its_password_is_in_a_variable(server: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = without_password(server.uri())
    assert "secret" not in hidden
    monkeypatch.delenv(LEDGER_PASSWORD_VARIABLE, raising=False)
    with pytest.raises(RequestError, match=r"registry.ledger .* stands without its password") as caught:
        Ledger(hidden)
    assert LEDGER_PASSWORD_VARIABLE in caught.value.remedy
    monkeypatch.setenv(LEDGER_PASSWORD_VARIABLE, "not this one")
    with pytest.raises(StageError, match="password authentication failed"):
        Ledger(hidden)
    monkeypatch.setenv(LEDGER_PASSWORD_VARIABLE, PASSWORD)
    assert Ledger(hidden).entries("nobody") == []


def test_there_is_no_such_database(server: PostgreSQL, tmp_path: Path) -> None:
    with pytest.raises(StageError, match='database "nowhere" does not exist'):
        Ledger(server.uri("nowhere"))
