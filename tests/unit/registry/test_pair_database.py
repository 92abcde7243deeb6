"""Pairs where the disk or the clock plays tricks: a gateway goes on, what is lost is counted and said, and a clock that
jumped deletes nothing."""

import logging
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from registry import pair_database, steady_clock
from registry.contracts import Pair
from registry.pair_database import PairDatabase, read_pair_database
from registry.steady_clock import SteadyClock
from tests.unit.pipelines.test_live_pairs import a_pair

pytestmark = pytest.mark.slow

DAY = timedelta(days=1)


class Clocks:
    """The machine's, and the one that nobody sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall, self.since_boot = 1_800_000_000.0, 1000.0
        clocks = SimpleNamespace(time=lambda: self.wall, monotonic=lambda: self.since_boot)
        monkeypatch.setattr(steady_clock, "time", clocks)

    def go(self, seconds: float) -> None:
        self.wall += seconds
        self.since_boot += seconds


def until(holds: Callable[[], object]) -> None:
    for _ in range(600):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("it never held")


def offer(database: PairDatabase, *numbers: int, at: datetime | None = None) -> None:
    for number in numbers:
        database.offer(a_pair(number, at or datetime.now(UTC)))


def kept(path: Path) -> list[str]:
    return list(read_pair_database(path)["id"].to_pylist())


def test_a_clock_is_believed_once_it_has_gone_as_time_went(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = Clocks(monkeypatch)
    clock = SteadyClock()
    assert not clock.is_steady(), "it may have been wrong when the machine started"
    for _ in range(15):
        clocks.go(60)
        steady = clock.is_steady()
    assert steady
    for jump in (365 * 86400.0, -365 * 86400.0, 3600.0, -3600.0):
        clocks.wall += jump
        assert not clock.is_steady()
        clocks.go(890)
        assert not clock.is_steady()
        clocks.go(10)
        assert clock.is_steady()
    for _ in range(100):
        clocks.go(60)
        clocks.wall += 0.5
        assert clock.is_steady(), "a clock that is put right little by little"


def test_a_year_ahead_deletes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_database, "_EXPIRED_EVERY_SECONDS", 0.05)
    path, now = tmp_path / "pairs.db", datetime.now(UTC)
    with PairDatabase(path, keep=DAY) as database:
        offer(database, 1, 2, at=now - 400 * DAY)
        until(lambda: database.written == 2)
        time.sleep(0.3)
    assert kept(path) == ["id-1", "id-2"], "for all that is known the clock jumped"
    monkeypatch.setattr(steady_clock, "STEADY_SECONDS", 0.0)
    with PairDatabase(path, keep=DAY) as database:
        offer(database, 3, at=now + 400 * DAY)
        until(lambda: kept(path) == ["id-3"])
    files = b"".join(file.read_bytes() for file in tmp_path.glob("pairs.db*"))
    assert b"id-3" in files
    assert b"id-1" not in files, "what is deleted is overwritten"


def test_pairs_expire_where_no_more_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_database, "_EXPIRED_EVERY_SECONDS", 0.05)
    monkeypatch.setattr(steady_clock, "STEADY_SECONDS", 0.0)
    path = tmp_path / "pairs.db"
    with PairDatabase(path, keep=timedelta(seconds=1)) as database:
        offer(database, 1)
        until(lambda: database.written == 1)
        until(lambda: not kept(path))


def test_a_clock_that_goes_back_holds_no_batch_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Back(datetime):
        calls = 0

        @classmethod
        def now(cls, tz: object = None) -> "Back":  # type: ignore[override]
            cls.calls += 1
            return datetime(2026, 1, 1, tzinfo=UTC) - timedelta(hours=cls.calls)  # type: ignore[return-value]

    monkeypatch.setattr(pair_database, "datetime", Back)
    path = tmp_path / "pairs.db"
    with PairDatabase(path, keep=DAY) as database:
        for number in range(3):
            offer(database, number, at=datetime(2026, 1, 1, tzinfo=UTC) - number * DAY)
            until(lambda number=number: database.written == number + 1)
    assert kept(path) == ["id-0", "id-1", "id-2"], "in the order in which they came"


def test_a_database_that_is_deleted_is_made_again_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "pairs.db"
    with PairDatabase(path) as database:
        offer(database, 1)
        until(lambda: database.written == 1)
        for file in tmp_path.glob("pairs.db*"):
            file.unlink()
        offer(database, 2)
        until(lambda: database.written == 2)
    assert kept(path) == ["id-2"]
    assert path.stat().st_mode & 0o077 == 0


def test_one_that_is_locked_for_too_long_costs_pairs_and_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pair_database, "_LOCKED_SECONDS", 0.1)
    path = tmp_path / "pairs.db"
    with PairDatabase(path) as database, caplog.at_level(logging.ERROR):
        with sqlite3.connect(path) as other:
            other.execute("BEGIN EXCLUSIVE")
            offer(database, 1, 2)
            until(lambda: database.dropped == 2)
            offer(database, 3)
            until(lambda: database.dropped == 3)
            other.rollback()
        other.close()
        offer(database, 4)
        until(lambda: database.written == 1)
    assert kept(path) == ["id-4"]
    told = [record.getMessage() for record in caplog.records]
    assert [("database is locked" in text, text.endswith("again")) for text in told] == [
        (True, False),
        (False, True),
    ], "said once"


def test_one_that_is_damaged_costs_pairs_and_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "pairs.db"
    with PairDatabase(path) as database, caplog.at_level(logging.ERROR):
        offer(database, *range(50))
        until(lambda: database.written == 50)
        path.with_name("pairs.db-wal").unlink(missing_ok=True)
        path.write_bytes(b"none at all " * 1000)
        offer(database, 100)
        until(lambda: database.dropped == 1)
    assert "pairs are not written" in caplog.text


_FILLING = """
import resource, sys, time
from datetime import UTC, datetime
from pathlib import Path
from registry.pair_database import PairDatabase
from tests.unit.pipelines.test_live_pairs import a_pair
path = Path(sys.argv[1])
with PairDatabase(path) as database:
    database.offer(a_pair(0, datetime.now(UTC)))
    while not database.written: time.sleep(0.02)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
    for number in range(1, 500):
        database.offer(a_pair(number, datetime.now(UTC)))
    while not database.dropped: time.sleep(0.02)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    before = database.written
    database.offer(a_pair(1000, datetime.now(UTC)))
    while database.written == before: time.sleep(0.02)
    print(database.written, database.dropped)
"""


@pytest.mark.slow
def test_a_full_disk_costs_pairs_until_there_is_room(tmp_path: Path) -> None:
    """A real refusal of the kernel's, of a file that may not grow: the same path in SQLite as a disk without room."""
    path = tmp_path / "pairs.db"
    program = [sys.executable, "-c", _FILLING, str(path)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, check=True)
    written, dropped = (int(number) for number in done.stdout.split())
    assert written + dropped == 501
    assert dropped > 0
    assert len(kept(path)) == written
    assert {"id-0", "id-1000"} <= set(kept(path))
    assert "pairs are not written" in done.stderr
    assert "again" in done.stderr


def test_a_pair_is_a_pair(tmp_path: Path) -> None:
    path = tmp_path / "pairs.db"
    with PairDatabase(path) as database:
        offer(database, 1, 1, 2)
    rows = read_pair_database(path).to_pylist()
    assert [Pair.model_validate(row).number for row in rows] == [0, 1]
