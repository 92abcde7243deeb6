"""The review page's data from a workspace: complete, and what is missing is said."""

import json
import math
import os
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from configs.errors import RequestError
from pipelines.records.run_record import RESULT_FILE, ResultFile, result_files
from pipelines.review import summaries, workspace_runs
from pipelines.review.page_data import CATEGORIES_SHOWN, PageData
from pipelines.review.summaries import SUMMARY_FILE, RunSummary
from registry.ledger import Entry, Ledger
from registry.sealed import write_sealed
from registry.tracking.address import sqlite_uri
from serving_checks.readings.cost import DevicePrice
from tests.review_workspace import FIRST, collected, collector, put_run, put_runs, written_at
from tests.unit.pipelines.report_records import HOSTILE, report_rows


def strict(data: PageData) -> Any:
    """As a browser reads it: a number that is none is no JSON."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(data.model_dump_json(), parse_constant=refuse)


def told(data: PageData, about: str) -> str:
    found = [notice.text for notice in data.notices if notice.about == about]
    assert len(found) == 1, data.notices
    return found[0]


def entry(**said: Any) -> Entry:
    told = {"model": "smollm2-135m-demo", "sequence": 0, "at": FIRST + timedelta(minutes=20), "who": "me", "why": "so"}
    return Entry.model_validate(told | said)


def test_columns_are_those_of_the_records_and_the_newest_run_comes_first(tmp_path: Path) -> None:
    records = put_runs(tmp_path, 3)
    (records[1].run_dir / "report.html").write_text("<p>a page</p>")
    data = collected(tmp_path)
    assert data.runs.id == ["run-2", "run-1", "run-0"]
    assert data.runs.page == [None, "runs/run-1/report.html", None]
    assert len(data.models.name) == 15
    assert data.models.run == [0] * 5 + [1] * 5 + [2] * 5
    assert data.runs.recommended == [1, 6, 11], "int8, whichever run it is of"
    row = next(row for row in records[0].rows if row.name == "gptq")
    place = 10 + [row.name for row in records[0].rows].index("gptq")
    assert data.models.name[place] == "gptq"
    assert data.models.digest[place] == (row.digest or "").removeprefix("sha256:")[:12]
    assert row.retention
    for column in data.categories:
        kept = row.kept(column.name)
        assert kept and kept.kept is not None
        assert column.kept[column.model.index(place)] == pytest.approx(kept.kept, rel=1e-5)
    assert not data.notices
    assert strict(data)["runs"]["id"] == data.runs.id


def test_what_did_not_change_is_read_once_and_a_damaged_summary_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_runs(tmp_path, 2)
    made: list[str] = []
    real = summaries.summary_of

    def counted(record: Any, *made_of: Any) -> Any:
        made.append(record.run_id)
        return real(record, *made_of)

    monkeypatch.setattr(summaries, "summary_of", counted)
    before = collected(tmp_path)
    assert sorted(made) == ["run-0", "run-1"]
    assert collected(tmp_path).models == before.models
    assert len(made) == 2, "summaries are read"
    summary = tmp_path / "runs" / "run-0" / SUMMARY_FILE
    summary.write_text(summary.read_text().replace('"int8"', '"int9"', 1))
    assert collected(tmp_path).models == before.models
    assert made[2:] == ["run-0"]
    record = put_run(tmp_path, "run-2", FIRST + timedelta(hours=2))
    written_at(record.run_dir / RESULT_FILE, FIRST + timedelta(hours=3))
    collected(tmp_path)
    assert made[3:] == ["run-2"]
    monkeypatch.setattr(summaries, "VERSION", 2)
    collected(tmp_path)
    assert len(made) == 7, "of another version"


def test_a_summary_that_cannot_be_written_costs_time_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_runs(tmp_path, 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(summaries, "write_sealed", full)
    assert collected(tmp_path).runs.id == ["run-0"]


@pytest.mark.parametrize("content", ["", "{", '{"checksum": "sha256:0"}', "null", "[" * 5000, "\x00" * 9])
def test_a_damaged_record_is_told_and_the_rest_is_shown(tmp_path: Path, content: str) -> None:
    put_runs(tmp_path, 3)
    (tmp_path / "runs" / "run-1" / RESULT_FILE).write_text(content)
    data = collected(tmp_path)
    assert sorted(data.runs.id) == ["run-0", "run-2"]
    text = told(data, "run-1")
    assert str(tmp_path / "runs" / "run-1" / RESULT_FILE) in text
    assert "run its recipe again" in text
    strict(data)


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop", "link to nothing"])
def test_a_record_that_is_no_file_is_told_or_is_none_and_nothing_waits_for_it(tmp_path: Path, kind: str) -> None:
    put_runs(tmp_path, 2)
    record = tmp_path / "runs" / "run-1" / RESULT_FILE
    record.unlink()
    if kind == "folder":
        record.mkdir()
    elif kind == "pipe":
        os.mkfifo(record)
    else:
        record.symlink_to(record.name if kind == "loop" else "nowhere")
    data = collected(tmp_path)
    assert data.runs.id == ["run-0"]
    assert any("run-1" in f"{notice.about} {notice.text}" for notice in data.notices)


def test_a_run_that_is_removed_while_it_is_read_is_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_runs(tmp_path, 2)
    whole = workspace_runs.read_summary

    def removed(file: ResultFile, price: DevicePrice | None) -> RunSummary:
        shutil.rmtree(file.path.parent)
        return whole(file, price)

    monkeypatch.setattr(workspace_runs, "read_summary", removed)
    data = collected(tmp_path)
    assert data.runs.id == [] and not data.details


def test_two_readers_of_a_new_workspace_see_the_same(tmp_path: Path) -> None:
    put_runs(tmp_path, 20)
    with ThreadPoolExecutor(4) as readers:
        seen = list(readers.map(lambda _: collected(tmp_path).model_dump(exclude={"written_at"}), range(4)))
    assert seen == [seen[0]] * 4
    assert not list(tmp_path.rglob("*.tmp*")), "nothing half-written is left"


def test_a_record_of_another_version_is_told(tmp_path: Path) -> None:
    from registry.contracts.base import Record

    class Later(Record):
        run_id: str = "run-9"
        novelty: int = 1

    put_runs(tmp_path, 1)
    (tmp_path / "runs" / "run-9").mkdir()
    write_sealed(tmp_path / "runs" / "run-9" / RESULT_FILE, Later())
    assert "of this version" in told(collected(tmp_path), "run-9")


def test_of_a_hundred_damaged_records_some_are_named_and_all_are_counted(tmp_path: Path) -> None:
    for number in range(100):
        folder = tmp_path / "runs" / f"run-{number:03}"
        folder.mkdir(parents=True)
        (folder / RESULT_FILE).write_text("{")
    data = collected(tmp_path)
    assert len(data.notices) == 21
    assert "80 more" in data.notices[-1].text


def test_runs_without_a_result_or_a_measurement_are_told(tmp_path: Path) -> None:
    (tmp_path / "runs" / "killed").mkdir(parents=True)
    failed = [row.model_copy(update={"measurement": None, "retention": None}) for row in report_rows()]
    put_run(tmp_path, "run-0", rows=failed)
    data = collected(tmp_path)
    assert "killed" in told(data, "runs")
    assert "No model of it was measured: inspect:awq" in told(data, "run-0")
    assert data.models.tokens_per_second == [None] * 5
    assert data.categories == []
    assert not data.regressions


def test_a_folder_that_is_a_copy_of_another_is_a_run_of_its_own_name(tmp_path: Path) -> None:
    put_runs(tmp_path, 1)
    shutil.copytree(tmp_path / "runs" / "run-0", tmp_path / "runs" / "copy")
    data = collected(tmp_path)
    assert sorted(data.runs.id) == ["copy", "run-0"]
    assert data.details.keys() == {"copy", "run-0"}


def test_an_empty_workspace_is_a_page_too(tmp_path: Path) -> None:
    data = collected(tmp_path)
    assert data.runs.id == []
    assert strict(data)["details"] == {}


def test_numbers_that_are_none_become_null(tmp_path: Path) -> None:
    rows = report_rows()
    measurement = rows[1].measurement
    assert measurement
    scores = [
        score.model_copy(update={"value": math.nan, "stderr": math.inf}) for score in measurement.evaluation.categories
    ]
    evaluation = measurement.evaluation.model_copy(update={"categories": scores})
    rows[1] = rows[1].model_copy(update={"measurement": measurement.model_copy(update={"evaluation": evaluation})})
    record = put_run(tmp_path, "run-0", rows=rows)
    (file,) = result_files(tmp_path)
    summary = summaries.summary_of(record, file)
    for column, ends in zip(summary.categories, summary.intervals, strict=True):
        assert column.score[1] is None
        assert ends.low[1] is None and ends.high[1] is None
        assert column.score[0] is not None
    strict(collected(tmp_path))


def test_names_with_markup_are_passed_on_as_they_are(tmp_path: Path) -> None:
    put_run(tmp_path, "run-0", config={"name": HOSTILE, "source": {"path": HOSTILE}})
    data = collected(tmp_path)
    assert data.runs.recipe == [HOSTILE]
    assert strict(data)["runs"]["recipe"] == [HOSTILE]


def test_of_ten_thousand_categories_the_worst_are_kept_and_the_rest_is_counted(tmp_path: Path) -> None:
    rows = report_rows()[:2]
    measurement, retention = rows[1].measurement, rows[1].retention
    assert measurement and retention
    kept, score = retention.categories[0], measurement.evaluation.categories[0]
    assert kept.chance_corrected_retention is not None
    many = [
        kept.model_copy(update={"category": f"c{number}", "chance": None, "retention": 0.5 + number / 20_000})
        for number in range(10_000)
    ]
    scores = [score.model_copy(update={"category": f"c{number}"}) for number in range(10_000)]
    evaluation = measurement.evaluation.model_copy(update={"categories": scores})
    rows[1] = rows[1].model_copy(
        update={
            "measurement": measurement.model_copy(update={"evaluation": evaluation}),
            "retention": retention.model_copy(update={"categories": many}),
        }
    )
    put_run(tmp_path, "run-0", rows=rows)
    data = collected(tmp_path)
    assert len(data.categories) == CATEGORIES_SHOWN
    (detail,) = data.details.values()
    assert len(detail.models[1].categories) == CATEGORIES_SHOWN
    assert detail.models[1].categories_left == 10_000 - CATEGORIES_SHOWN
    assert len(data.model_dump_json()) < 1_000_000


def test_details_are_of_the_newest_runs_and_of_the_one_shown_as_far_as_the_bytes_go(tmp_path: Path) -> None:
    put_runs(tmp_path, 4)
    assert set(collected(tmp_path, most_bytes=0).details) == {"run-3"}
    assert set(collected(tmp_path, most_bytes=0, shown="run-1").details) == {"run-1"}
    one = len(collected(tmp_path, most_bytes=0).model_dump_json())
    some = collected(tmp_path, most_bytes=one + 200_000)
    assert next(iter(some.details)) == "run-3"
    assert "run-0" not in some.details or len(some.details) == 4
    assert len(some.model_dump_json()) <= one + 200_000
    assert set(collected(tmp_path).details) == {f"run-{number}" for number in range(4)}


def test_a_run_is_named_by_its_beginning_and_a_wrong_name_says_so(tmp_path: Path) -> None:
    put_runs(tmp_path, 2)
    assert collected(tmp_path, shown="run-1").shown == "run-1"
    with pytest.raises(RequestError, match=r"2 runs of .* are called run-"):
        collected(tmp_path, shown="run-")
    with pytest.raises(RequestError, match=r"no finished run of .* is called no"):
        collected(tmp_path, shown="no")


def test_series_are_chosen_by_a_word(tmp_path: Path) -> None:
    put_run(tmp_path, "run-0")
    put_run(tmp_path, "run-1", FIRST + timedelta(hours=1), config={"name": "other"})
    assert collector(tmp_path, series=["other"]).collect(most_bytes=0).runs.id == ["run-1"]


def test_a_clock_that_went_back_shuffles_nothing_and_is_told(tmp_path: Path) -> None:
    put_run(tmp_path, "run-0", FIRST)
    assert not collected(tmp_path).notices
    later = put_run(tmp_path, "run-1", FIRST - timedelta(days=30))
    written_at(later.run_dir / RESULT_FILE, FIRST + timedelta(hours=1))
    data = collected(tmp_path)
    assert data.runs.id == ["run-1", "run-0"], "in the order in which they ended"
    assert "The clock went back" in told(data, "run-1")


def test_a_run_of_the_future_is_told(tmp_path: Path) -> None:
    put_run(tmp_path, "run-0", datetime.now(UTC) + timedelta(days=3))
    assert "future" in told(collected(tmp_path), "run-0")


def test_the_history_of_a_ledger_is_read_and_gives_versions(tmp_path: Path) -> None:
    (record,) = put_runs(tmp_path, 1)
    row = next(row for row in record.rows if row.name == "int8")
    ledger = Ledger(sqlite_uri(tmp_path / "ledger.db"))
    first = ledger.append(entry(stream="alias:champion", kind="promote", version_to="3", artifact=row.digest), None)
    ledger.append(entry(stream="alias:champion", kind="rollback", version_from="3"), first)
    data = collected(tmp_path)
    assert [one.kind for one in data.aliases] == ["promote", "rollback"]
    assert data.models.version[data.models.name.index("int8")] == "3"


def test_a_ledger_that_does_not_answer_is_told_and_none_is_made(tmp_path: Path) -> None:
    put_runs(tmp_path, 1)
    assert not collected(tmp_path).notices
    assert not (tmp_path / "ledger.db").exists(), "reading makes none"
    (tmp_path / "ledger.db").write_text("no database, and long enough not to be taken for an empty one" * 20)
    data = collected(tmp_path)
    assert "ledger" in told(data, "ledger")
    assert data.runs.id == ["run-0"]


def test_a_ledger_that_is_being_written_is_read(tmp_path: Path) -> None:
    (record,) = put_runs(tmp_path, 1)
    row = next(row for row in record.rows if row.name == "int8")
    Ledger(sqlite_uri(tmp_path / "ledger.db")).append(
        entry(stream=f"approval:{row.digest}", kind="approve", artifact=row.digest), None
    )
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert [one.kind for one in collected(tmp_path).aliases] == ["approve"]


def test_a_price_is_for_runs_that_have_none_and_costs_are_made_anew_with_it(tmp_path: Path) -> None:
    price = {"device": "a CPU", "currency": "USD", "per_hour": 0.1, "source": "made up", "read_on": "2026-05-01"}
    put_run(tmp_path, "run-0")
    put_run(
        tmp_path, "run-1", FIRST + timedelta(hours=1), config={"name": "mine", "price": price | {"currency": "EUR"}}
    )
    without = collected(tmp_path)
    assert [one.currency if one else None for one in without.prices] == ["EUR", None]
    assert without.models.cost_per_million[0] is not None
    assert without.models.cost_per_million[5:] == [None] * 5
    given = collector(tmp_path, price=DevicePrice.model_validate(price)).collect(most_bytes=0)
    assert [one.currency if one else None for one in given.prices] == ["EUR", "USD"]
    assert given.models.cost_per_million[:5] == without.models.cost_per_million[:5]
    assert given.models.cost_per_million[5] is not None
    assert "EUR and USD" in " ".join(notice.text for notice in given.notices)
    assert collected(tmp_path).models == without.models
