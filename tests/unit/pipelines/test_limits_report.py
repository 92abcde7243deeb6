"""The share of the machine's limit where speeds stand; nothing where it is not known."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipelines.cli import doctor, main
from pipelines.decision.recommend import recommend
from pipelines.recipe.policy import Policy, RecommendConfig
from pipelines.records.bench_result import BenchResult
from pipelines.records.rows import Row, concurrencies
from pipelines.report.bench_table import print_bench
from pipelines.report.page import render_page
from pipelines.report.table import build_table
from pipelines.review.one_run import model_rows
from pipelines.stage_programs.serving_metrics import serving_metrics
from registry.contracts import MachineLimits, ServingRecord
from tests.unit.pipelines.report_records import SUITE, WRITTEN, report_record, report_rows
from tests.unit.serving_checks.test_bounds import LIMITS, RATES, WORK, point, served

SLOW = LIMITS.model_copy(update={"serving": RATES.model_copy(update={"memory_bytes_per_second": 2**40 / 16})})


def limited(row: Row, limits: MachineLimits | None = SLOW) -> Row:
    assert row.measurement is not None
    serving = row.measurement.serving.model_copy(update={"limits": limits, "work": WORK})
    return row.model_copy(update={"measurement": row.measurement.model_copy(update={"serving": serving})})


def rows(limits: MachineLimits | None = SLOW) -> list[Row]:
    return [limited(row, limits) if row.measurement else row for row in report_rows()]


def cells(of: list[Row], name: str) -> dict[str, Any]:
    table = build_table(of, SUITE)
    drawn = next(cells for cells in table.rows if cells[0].text == name)
    return {f"{column.title} {column.unit}": cell for column, cell in zip(table.columns, drawn, strict=True)}


def test_the_share_stands_under_the_speed_and_its_inputs_in_the_tooltip() -> None:
    cell = cells(rows(), "gptq")["tokens/s at 1"]
    # 139 MiB at 64 GiB/s take 2.1 ms; a token comes every 0.9 / 24.9 s.
    assert cell.second == "1.19×, 6 %"
    assert cell.tooltip.startswith("decode: 6 % of what memory bandwidth allows, 27.67 of 47")
    assert "64 of 64 requests" in cell.tooltip
    assert cells(rows(), "baseline")["tokens/s at 1"].second.endswith("%")
    assert cells(rows(), "baseline")["TTFT p50 ms at 1"].second.endswith("%")


def test_a_share_above_everything_is_marked() -> None:
    slower = RATES.model_copy(update={"memory_bytes_per_second": 2**30})
    cell = cells(rows(LIMITS.model_copy(update={"serving": slower})), "gptq")["tokens/s at 1"]
    assert cell.second.endswith("(?)") and cell.tone == "warn" and "not possible" in cell.tooltip


def test_records_without_limits_look_as_they_did() -> None:
    before = [row.model_dump_json() for row in build_table(report_rows(), SUITE).rows[0]]
    assert not [text for text in before if "of what" in text]
    assert "of the limit" not in render_page(report_record(Path("run")), SUITE, WRITTEN).replace(
        "<dt>of the limit</dt>", ""
    )
    serving = report_rows()[0].serving
    assert serving is not None
    assert not [name for name in serving_metrics(serving) if "limit" in name or "machine" in name]
    # As it was written before the fields were there.
    old = {name: value for name, value in serving.model_dump(mode="json").items() if name not in ("limits", "work")}
    assert ServingRecord.model_validate(old) == serving


def test_the_page_has_both_shares_and_the_limits() -> None:
    page = render_page(report_record(Path("run"), rows=rows()), SUITE, WRITTEN)
    assert 'decode<span class="unit">of the limit</span>' in page
    assert "memory, read 64.0 GiB/s" in page
    assert "decode: 6 % of what memory bandwidth allows" in page


def test_mlflow_is_told_shares_and_rates_in_few_names() -> None:
    metrics = serving_metrics(served(point(1)))
    assert metrics["load.short.concurrency_1.decode_share_of_limit"] == pytest.approx(0.5, rel=1e-2)
    assert metrics["load.short.concurrency_1.prefill_share_of_limit"] == pytest.approx(0.1)
    assert metrics["machine.int8_op_per_second"] == 400e9
    assert len([name for name in metrics if name.startswith("machine.")]) == 4
    assert "load.short.concurrency_1.decode_share_of_limit" not in serving_metrics(served(point(1, tpot=0.001)))


def test_the_recommendation_says_how_much_of_the_machine_it_takes() -> None:
    found = recommend(rows(), Policy(), RecommendConfig(goal="fastest"))
    told = recommend(report_rows(), Policy(), RecommendConfig(goal="fastest"))
    assert "with 32 requests at a time (5 % of what the machine's float32 arithmetic allows)" in found.sentence
    assert "of what the machine's" not in told.sentence


def test_a_bench_prints_shares_and_doubts(tmp_path: Path) -> None:
    console = Console(record=True, width=160, file=(tmp_path / "out").open("w"))
    record = served(point(1), limits=LIMITS.model_copy(update={"doubts": ["other processes kept 2.0 cores busy"]}))
    print_bench(console, BenchResult("mine", record, tmp_path, tmp_path / "report.html"))
    text = console.export_text()
    assert "50 %, 10 %" in text
    assert "the machine's limits on 3 threads: memory, read 9.8 GiB/s, float32 100 GFLOP/s" in text
    assert "other processes kept 2.0 cores busy" in text


def test_the_review_page_has_the_shares_in_its_columns(tmp_path: Path) -> None:
    rows = [limited(row) if row.measurement else row for row in report_rows()]
    record = report_record(tmp_path, rows=rows)
    level = concurrencies(record.rows)[-1]
    shares = [(row.decode_share(level), row.prefill_share) for row in record.rows]
    told = [(row["decode_share"], row["prefill_share"]) for row in model_rows(record)]
    assert told == [tuple(share and share.share for share in both) for both in shares]
    assert any(decode for decode, _ in told)


def test_doctor_measures_when_it_is_asked_to(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    doubted = LIMITS.model_copy(update={"alone": RATES.model_copy(update={"threads": 1}), "doubts": ["somebody"]})
    monkeypatch.setattr(doctor, "take_limits", lambda device, threads: doubted)
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["doctor", "--measure"]) == 0
    said = capsys.readouterr()
    assert "measuring memory bandwidth" in said.err
    assert "1 thread" in said.out and "3 threads" in said.out and "9.8" in said.out
    assert "doubtful: somebody" in said.out
    assert main(["doctor", "--measure", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["limits"]["serving"]["int8_op_per_second"] == 400e9
    assert main(["doctor", "--json"]) == 0
    assert "limits" not in json.loads(capsys.readouterr().out)
