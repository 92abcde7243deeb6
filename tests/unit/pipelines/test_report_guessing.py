"""Where the baseline itself guesses, no page, plot, sentence or metric shows a retention."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.records.rows import Row
from pipelines.report.forest import forest_plot
from pipelines.report.plot import points_of
from pipelines.report.summary import lowest_category, sentences
from pipelines.report.table import AT_GUESSING, UNKNOWN
from pipelines.stage_programs.record import _record_measurement
from tests.unit.pipelines.report_records import SUITE, report_record, report_rows
from tests.unit.pipelines.test_report import cells_by_title, page_of, printed


def with_a_guessing_baseline(rows: list[Row], category: str) -> list[Row]:
    """As if the baseline of the second row had guessed, and the artifact kept less of that than of anything else."""
    retention = rows[1].retention
    assert retention is not None
    judged_so = {"verdict": "inconclusive", "undecided": "baseline guesses", "verdict_reason": "No loss can show."}
    categories = [
        kept.model_copy(update=judged_so | {"retention": 0.0771}) if kept.category == category else kept
        for kept in retention.categories
    ]
    return [rows[0], rows[1].model_copy(update={"retention": retention.model_copy(update={"categories": categories})})]


def test_a_baseline_that_guesses_shows_no_retention(tmp_path: Path) -> None:
    rows = with_a_guessing_baseline(report_rows(), "grammar")
    cell = cells_by_title(rows, "int8")["grammar chance 50 %"]
    assert (cell.second, cell.tone) == (AT_GUESSING, "plain")
    assert "above chance" not in (cell.tooltip or "")
    assert "above chance" in (cells_by_title(report_rows(), "int8")["grammar chance 50 %"].tooltip or "")
    (told,) = sentences(rows)
    assert "grammar" not in told.text
    assert "lowest category arithmetic, keeps 0.97" in told.text
    assert [point.category for point in points_of(rows)] == ["", "arithmetic"]
    plot = str(forest_plot(rows))
    assert (plot.count(f">{AT_GUESSING}<"), plot.count(">inconclusive<")) == (1, 0)
    record = report_record(tmp_path, rows=rows)
    page = page_of(record)
    assert f">{AT_GUESSING}</td><td>{UNKNOWN}</td>" in page
    for text in (page, printed(record, 160)):
        assert not re.search(r"kept 0\.08|keeps 0\.08|0\.077", text)


def test_mlflow_gets_no_retention_of_a_baseline_that_guesses() -> None:
    logged: dict[str, float | None] = {}
    child: Any = SimpleNamespace(dataset=lambda *_: None, params=lambda _: None, metrics=logged.update)
    row = with_a_guessing_baseline(report_rows(), "grammar")[1]
    assert row.measurement is not None
    _record_measurement(child, row.measurement, row)
    assert logged["arithmetic.retention"] == pytest.approx(0.97)
    assert not {"grammar.retention", "grammar.retention_stderr"} & logged.keys()
    assert "grammar.acc" in logged


def test_where_every_baseline_guesses_no_category_is_the_lowest() -> None:
    rows = report_rows()
    for category in SUITE.categories:
        rows = with_a_guessing_baseline(rows, category.name)
    assert lowest_category(rows[1]) is None
    assert "keeps" not in sentences(rows)[0].text
    assert [point.name for point in points_of(rows)] == ["baseline"]
