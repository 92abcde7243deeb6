"""Moves are rows that only follow one another: written once, by whoever saw the last one, and found when changed."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from configs.errors import StageError
from registry.ledger import Entry, Ledger, MovedMeanwhileError, faults_of
from registry.tracking.address import sqlite_uri

BEGAN = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


def move(version: int, who: str = "someone", stream: str = "alias:shadow", minutes: int = 0) -> Entry:
    return Entry(
        model="tiny",
        stream=stream,
        sequence=0,
        kind="promote",
        at=BEGAN + timedelta(minutes=minutes),
        who=who,
        why="",
        version_to=str(version),
    )


def ledger_in(folder: Path) -> Ledger:
    return Ledger(sqlite_uri(folder / "ledger.db"))


def test_rows_follow_one_another(tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)
    assert ledger.last("tiny", "alias:shadow") is None
    first = ledger.append(move(1), None)
    # A clock that went back: the order is that of the rows.
    second = ledger.append(move(2, minutes=-90), first)
    other = ledger.append(move(9, stream="alias:champion"), None)
    assert (first.sequence, second.sequence, other.sequence) == (1, 2, 1)
    assert second.previous == first.digest
    again = ledger_in(tmp_path)
    assert again.last("tiny", "alias:shadow") == second
    assert again.entries("tiny", "alias:shadow") == [first, second]
    assert again.entries("tiny") == [other, first, second]
    assert again.entries("another") == []
    assert faults_of(again.entries("tiny", "alias:shadow")) == []


def test_who_did_not_see_the_last_row_is_refused(tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)
    first = ledger.append(move(1), None)
    ledger.append(move(2), first)
    for stale in (None, first):
        with pytest.raises(MovedMeanwhileError, match=r"alias:shadow: row [12] is there"):
            ledger.append(move(3), stale)
    assert [one.version_to for one in ledger.entries("tiny")] == ["1", "2"]


WRITER = """
import sys
from registry.ledger import Ledger, MovedMeanwhileError
from tests.unit.registry.test_ledger import move
ledger, done = Ledger(sys.argv[1]), 0
while done < int(sys.argv[3]):
    last = ledger.last("tiny", "alias:shadow")
    try:
        ledger.append(move(done, sys.argv[2]), last)
        done += 1
    except MovedMeanwhileError:
        pass
"""


@pytest.mark.slow
def test_many_writers_at_once_lose_and_double_nothing(tmp_path: Path) -> None:
    write_at_once(sqlite_uri(tmp_path / "ledger.db"))


def write_at_once(uri: str) -> None:
    """A thousand moves of one alias by eight processes, each of which looks again when another was first."""
    command = [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, '.')\n{WRITER}", uri]
    writers = [subprocess.Popen([*command, f"writer {number}", "125"]) for number in range(8)]
    assert [one.wait(300) for one in writers] == [0] * 8
    entries = Ledger(uri).entries("tiny", "alias:shadow")
    assert [one.sequence for one in entries] == list(range(1, 1001))
    assert faults_of(entries) == []
    by = {
        f"writer {number}": [one.version_to for one in entries if one.who == f"writer {number}"] for number in range(8)
    }
    assert all(mine == [str(number) for number in range(125)] for mine in by.values())


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("UPDATE quantbench_ledger SET why = 'another' WHERE sequence = 2", "row 2: it was changed"),
        ("UPDATE quantbench_ledger SET at = '2020-01-01T00:00:00Z' WHERE sequence = 2", "row 2: it was changed"),
        ("DELETE FROM quantbench_ledger WHERE sequence = 2", "row 3: row 2 is missing"),
        ("DELETE FROM quantbench_ledger WHERE sequence = 1", "row 2: row 1 is missing"),
        ("UPDATE quantbench_ledger SET previous = NULL, sequence = 4 WHERE sequence = 3", "row 4: row 3 is missing"),
    ],
)
def test_what_was_changed_by_hand_is_found(tmp_path: Path, change: str, fault: str) -> None:
    ledger, last = ledger_in(tmp_path), None
    for version in range(3):
        last = ledger.append(move(version), last)
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection, connection:
        connection.execute(change)
    assert any(fault in found for found in faults_of(ledger.entries("tiny", "alias:shadow")))


def test_a_row_that_was_written_anew_does_not_fit_the_next(tmp_path: Path) -> None:
    ledger, rows = ledger_in(tmp_path), []
    for version in range(3):
        rows.append(ledger.append(move(version), rows[-1] if rows else None))
    forged = rows[1].model_copy(update={"who": "another"}).sealed()
    assert faults_of([rows[0], forged, rows[2]]) == ["alias:shadow, row 3: it does not follow the row before it"]


def test_how_far_mlflow_follows(tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)
    first = ledger.append(move(1), None)
    assert ledger.projected("tiny", "alias:shadow") == 0
    ledger.set_projected(first)
    ledger.set_projected(ledger.append(move(2), first))
    assert ledger_in(tmp_path).projected("tiny", "alias:shadow") == 2


def test_a_ledger_that_cannot_be_had_is_told_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="opening the ledger sqlite:"):
        Ledger(sqlite_uri(tmp_path / "missing" / "ledger.db"))
    (tmp_path / "ledger.db").write_text("no database at all" * 100)
    with pytest.raises(StageError, match="file is not a database") as caught:
        ledger_in(tmp_path)
    assert "whole or not at all" in caught.value.remedy


def test_a_database_that_somebody_else_holds_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.ledger._LOCKED_SECONDS", 0.05)
    ledger = ledger_in(tmp_path)
    first = ledger.append(move(1), None)
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StageError, match="database is locked"):
            ledger.append(move(2), first)
    assert ledger.append(move(2), first).sequence == 2, "nothing was written, so it can be again"


def test_a_ledger_of_another_version_is_told(tmp_path: Path) -> None:
    ledger_in(tmp_path)
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection, connection:
        connection.execute("ALTER TABLE quantbench_ledger DROP COLUMN name")
        connection.execute("ALTER TABLE quantbench_ledger ADD COLUMN of_the_future TEXT")
    with pytest.raises(StageError, match="of another version: its rows differ by name, of_the_future"):
        ledger_in(tmp_path)


def test_a_verdict_is_kept_once_and_found_when_changed(tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)
    digest = ledger.keep_verdict({"outcome": "pass", "loss": 0.1})
    assert ledger.keep_verdict({"loss": 0.1, "outcome": "pass"}) == digest
    assert ledger.keeps(digest)
    assert not ledger.keeps(digest.replace("sha256:", "sha256:0")[:71])
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection, connection:
        connection.execute("UPDATE quantbench_verdicts SET verdict = replace(verdict, '0.1', '0.2')")
    assert not ledger.keeps(digest)
