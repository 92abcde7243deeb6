"""Where the baseline has nothing to keep, no page, plot, sentence or metric shows a retention."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.records.rows import Row, lowest_category
from pipelines.report.forest import forest_plot
from pipelines.report.plot import points_of
from pipelines.report.summary import sentences
from pipelines.report.table import NOTHING_TO_KEEP, UNKNOWN
from pipelines.stage_programs.record import _record_measurement
from registry.contracts import CategoryRetention
from tests.unit.pipelines.report_records import SUITE, report_record, report_rows
from tests.unit.pipelines.test_report import cells_by_title, page_of, printed


def with_nothing_to_keep(rows: list[Row], category: str) -> list[Row]:
    """As if the baseline of the second row had guessed."""
    retention = rows[1].retention
    assert retention is not None
    judged_so = {"verdict": "inconclusive", "undecided": "nothing to keep", "verdict_reason": "No loss can show."}
    ratios = {name: None for name in CategoryRetention.model_fields if "retention" in name}
    categories = [
        kept.model_copy(update=judged_so | ratios | {"nothing_to_keep": True}) if kept.category == category else kept
        for kept in retention.categories
    ]
    return [rows[0], rows[1].model_copy(update={"retention": retention.model_copy(update={"categories": categories})})]


def test_a_baseline_with_nothing_to_keep_shows_no_retention(tmp_path: Path) -> None:
    rows = with_nothing_to_keep(report_rows(), "grammar")
    cell = cells_by_title(rows, "int8")["grammar chance 50 %"]
    assert (cell.second, cell.tone) == (NOTHING_TO_KEEP, "plain")
    assert "guessing scores, the ratio" not in (cell.tooltip or "")
    assert "guessing scores, the ratio" in (cells_by_title(report_rows(), "int8")["grammar chance 50 %"].tooltip or "")
    (told,) = sentences(rows)
    assert "grammar" not in told.text
    assert "lowest category arithmetic, keeps 0.95 [0.87, 1.03]" in told.text
    assert [point.category for point in points_of(rows)] == ["", "arithmetic"]
    plot = str(forest_plot(rows))
    assert (plot.count(f">{NOTHING_TO_KEEP}<"), plot.count(">inconclusive<")) == (1, 0)
    record = report_record(tmp_path, rows=rows)
    page = page_of(record)
    assert f">{NOTHING_TO_KEEP}</td><td>{UNKNOWN}</td>" in page
    for text in (page, printed(record, 160)):
        assert "kept 0.9" in text
        assert not re.search(r"(kept|keeps) None", text)


def test_mlflow_gets_no_retention_where_there_is_nothing_to_keep() -> None:
    logged: dict[str, float | None] = {}
    child: Any = SimpleNamespace(dataset=lambda *_: None, params=lambda _: None, metrics=logged.update)
    row = with_nothing_to_keep(report_rows(), "grammar")[1]
    assert row.measurement is not None
    _record_measurement(child, row.measurement, row)
    assert logged["arithmetic.retention"] == pytest.approx(0.97)
    assert [name for name in logged if name.startswith("arithmetic.")][:3] == [
        "arithmetic.acc",
        "arithmetic.acc_stderr",
        "arithmetic.kept",
    ]
    assert not {"grammar.kept", "grammar.retention", "grammar.retention_stderr"} & logged.keys()
    assert "grammar.acc" in logged


def test_where_nothing_is_to_be_kept_no_category_is_the_lowest() -> None:
    rows = report_rows()
    for category in SUITE.categories:
        rows = with_nothing_to_keep(rows, category.name)
    assert lowest_category(rows[1]) is None
    assert "keeps" not in sentences(rows)[0].text
    assert [point.name for point in points_of(rows)] == ["baseline"]
