"""The log of events: lines of JSON, files of a bounded size, and nobody who waits for it."""

import json
import threading
from pathlib import Path

import pytest

from serving_checks.gateway.config import LogConfig
from serving_checks.gateway.event_log import EventLog, FaultEvent, MoveEvent, RefusalEvent, now


def lines_of(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_bytes().split(b"\n") if line]


def test_a_line_an_event_in_their_order(tmp_path: Path) -> None:
    file = tmp_path / "live" / "events.jsonl"
    for _ in range(2):
        with EventLog(file, LogConfig()) as log:
            log.tell(MoveEvent(now(), "1"))
            log.tell(RefusalEvent(now(), "id-7", 401, "invalid_api_key"))
    told = lines_of(file)
    assert [one["event"] for one in told] == ["moved", "refused"] * 2, "a second start goes on"
    assert {name: told[1][name] for name in ("id", "status", "code")} == {
        "id": "id-7",
        "status": 401,
        "code": "invalid_api_key",
    }
    assert told[0].keys() == {"event", "at", "champion"}, "what is not known is left out"
    assert str(told[0]["at"]).endswith("Z")
    assert file.stat().st_mode & 0o077 == 0


def test_a_line_end_in_a_value_makes_no_line_of_its_own(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl", LogConfig()) as log:
        log.tell(FaultEvent(now(), 'a\n{"event": "moved"}\u2028'))
    (line,) = lines_of(tmp_path / "events.jsonl")
    assert line["event"] == "fault"


def test_files_are_put_aside_and_the_oldest_is_removed(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    for number in range(5):
        with EventLog(file, LogConfig(file_mib=0.0001, kept=2)) as log:
            for _ in range(3):
                log.tell(FaultEvent(now(), f"{number} " + "a" * 100))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["events.1.jsonl", "events.2.jsonl"]
    assert {str(one["what"])[0] for one in lines_of(tmp_path / "events.1.jsonl")} == {"4"}
    assert {str(one["what"])[0] for one in lines_of(tmp_path / "events.2.jsonl")} == {"3"}


def test_a_disk_that_refuses_costs_lines_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    with EventLog(file, LogConfig()) as log:
        file.mkdir()
        log.tell(FaultEvent(now(), "lost"))
    assert log.dropped == 1


def test_what_finds_no_room_is_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = threading.Event()
    monkeypatch.setattr(EventLog, "_write", lambda self, lines: hanging.wait(30))
    log = EventLog(tmp_path / "events.jsonl", LogConfig())
    event = FaultEvent(now(), "one of many")
    with log:
        for _ in range(25_000):
            log.tell(event)
        hanging.set()
    assert 25_000 - 20_001 <= log.dropped <= 15_000


def test_standard_error_instead_of_a_file(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with EventLog(None, LogConfig(to="stderr")) as log:
        log.tell(MoveEvent(now(), "3", "4"))
    told = json.loads(capfdbinary.readouterr().err)
    assert (told["champion"], told["candidate"]) == ("3", "4")
