"""Terminal and page show the same table, escape what comes from outside, and say what failed and what to do."""

import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from markupsafe import escape
from rich.console import Console

from pipelines.planning.stages import Stage
from pipelines.records.events import PartKind
from pipelines.records.rows import Row, lowest_category, worst_verdict
from pipelines.records.run_record import RunRecord
from pipelines.report.asked import asking_notes
from pipelines.report.console import HEARTBEAT_SECONDS, RunConsole, print_record
from pipelines.report.forest import forest_plot
from pipelines.report.judged import judged
from pipelines.report.page import render_page
from pipelines.report.plot import quality_speed_plot
from pipelines.report.summary import reused_text, sentences
from pipelines.report.svg import ticks
from pipelines.report.table import UNKNOWN, Cell, build_table, printable, with_stderr
from pipelines.review.report_page import write_page
from registry.contracts import AskedAlone, Failure
from tests.records import checkpoint_record
from tests.unit.pipelines.report_records import (
    HOSTILE,
    SUITE,
    WRITTEN,
    measurement,
    outcome,
    report_outcomes,
    report_record,
    report_rows,
)


def page_of(record: RunRecord) -> str:
    return render_page(record, SUITE, WRITTEN)


def printed(record: RunRecord, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_record(console, record, SUITE)
    return console.file.getvalue()  # type: ignore[attr-defined]


def cells_by_title(rows: list[Row], name: str) -> dict[str, Cell]:
    table = build_table(rows, SUITE)
    titles = [f"{column.title} {column.unit}".strip() for column in table.columns]
    cells = next(cells for cells in table.rows if cells[0].text == name)
    return dict(zip(titles, cells, strict=True))


def fake_run() -> Any:
    config = SimpleNamespace(name="demo", as_json=dict)
    machine = SimpleNamespace(device_name="a CPU", threads=2)
    return SimpleNamespace(
        context=SimpleNamespace(config=config, machine=machine, suite=SUITE),
        stages=report_outcomes(),
        left_out={"w8a8": "no instructions"},
        asked_revision=None,
    )


def test_the_table_says_what_was_measured() -> None:
    cells = cells_by_title(report_rows(), "gptq")
    assert (cells["model method"].text, cells["model method"].second) == ("gptq", None)
    assert cells["dtype served"].text == "bfloat16 †"
    assert (cells["size MiB"].text, cells["size MiB"].second) == ("109", "0.42×")
    assert cells["bits per weight"].text == "4.56"
    assert (cells["arithmetic chance 0 %"].text, cells["arithmetic chance 0 %"].second) == (
        "0.26 ± 0.04",
        "kept 0.81 [0.73, 0.89]",
    )
    assert cells["language perplexity, lower is better"].text == "25.2 ± 2.1"
    assert (cells["tokens/s at 8"].text, cells["tokens/s at 8"].second) == ("97.4", "1.11×")
    assert cells["TTFT p50 ms at 1"].text == "96.1"
    verdict = cells["verdict"]
    assert (verdict.text, verdict.second, verdict.tone) == ("fail", "1 of 6", "bad")
    assert "grammar chance 50 %" in cells


def test_failed_categories_and_implausible_gains_are_toned() -> None:
    gptq, nf4 = cells_by_title(report_rows(), "gptq"), cells_by_title(report_rows(), "nf4")
    assert gptq["commonsense chance 50 %"].tone == "warn"
    assert "look for a mistake" in (gptq["commonsense chance 50 %"].tooltip or "")
    assert nf4["arithmetic chance 0 %"].tone == "bad"
    assert "fail: Scores 12.4 points lower" in (nf4["arithmetic chance 0 %"].tooltip or "")
    # Nine percent less, but these items do not tell whether that is more than the margin.
    assert nf4["knowledge chance 0 %"].tone == "plain"


def test_verdicts_and_soundness_first() -> None:
    cells = {name: cells_by_title(report_rows(), name)["verdict"] for name in ("baseline", "int8", "awq")}
    assert cells["baseline"].text == UNKNOWN
    assert (cells["int8"].text, cells["int8"].tone, cells["int8"].second) == ("pass", "good", "6 of 6")
    assert (cells["awq"].text, cells["awq"].second) == ("fail", "not sound")
    assert "did not pass its inspection" in (cells["awq"].tooltip or "")
    # A passing comparison does not make an unsound artifact pass.
    int8 = report_rows()[1].model_copy(update={"failure": "measure:int8: the server died"})
    assert int8.verdict == "fail"


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["pass"], "pass"),
        (["pass", "inconclusive"], "inconclusive"),
        (["inconclusive", "fail"], "fail"),
        ([], "inconclusive"),
    ],
)
def test_the_worst_verdict_of_a_run(verdicts: list[str], expected: str) -> None:
    baseline, artifact = report_rows()[:2]
    rows = [
        artifact.model_copy(update={"retention": artifact.retention.model_copy(update={"verdict": one})})  # type: ignore[union-attr]
        for one in verdicts
    ]
    assert worst_verdict([baseline, *rows]) == expected


def test_an_artifact_without_a_comparison_decides_nothing() -> None:
    rows = report_rows()
    assert worst_verdict([*rows[:2], rows[1].model_copy(update={"retention": None})]) == "inconclusive"


def test_only_artifacts_of_another_dtype_get_a_footnote() -> None:
    notes = build_table(report_rows(), SUITE).footnotes
    assert len(notes) == 1
    assert notes[0].startswith("† nf4, gptq: served in bfloat16, the baseline in float32")
    assert "16-bit types only" in notes[0]


def asked_with(row: Row, **changes: int) -> Row:
    """The row with its first category asked so."""
    assert row.measurement is not None
    first, *rest = row.measurement.evaluation.categories
    evaluation = row.measurement.evaluation.model_copy(update={"categories": [first.model_copy(update=changes), *rest]})
    return row.model_copy(update={"measurement": row.measurement.model_copy(update={"evaluation": evaluation})})


def test_how_items_were_asked_stands_below_the_table() -> None:
    baseline, artifact, *_ = report_rows()
    assert asking_notes([baseline, artifact]) == []
    rows = [
        asked_with(baseline, truncated=2, windows=900, tied=1),
        asked_with(artifact, truncated=2, windows=900, tied=3),
    ]
    cut, pieces, ties = asking_notes(rows)
    score = baseline.measurement.evaluation.categories[0]  # type: ignore[union-attr]
    assert cut.startswith(
        f"{score.category}: the prompts of 2 of {score.items} items did not fit into the context of 512"
    )
    assert f"{score.items} texts were read in 900 pieces" in pieces
    asked = sum(one.items for one in baseline.measurement.evaluation.categories)  # type: ignore[union-attr]
    assert f": baseline 1 of {asked:,} items, {artifact.name} 3 of {asked:,} items, all in {score.category}." in ties
    assert build_table(rows, SUITE).footnotes[-3:] == [cut, pieces, ties]
    assert asking_notes([asked_with(baseline, windows=score.items)]) == [], "each text in one piece"
    assert artifact.measurement is not None
    again = AskedAlone(items=48, changed=3, changed_low=0.013, changed_high=0.172, mean_shift_nats=0.0456)
    evaluation = artifact.measurement.evaluation.model_copy(update={"asked_alone": again})
    measurement = artifact.measurement.model_copy(update={"evaluation": evaluation})
    (alone,) = asking_notes([baseline, artifact.model_copy(update={"measurement": measurement})])
    assert "3 of 48 items scored otherwise (1 to 17 %), log-likelihoods moved by 0.046 nats" in alone
    assert asking_notes([Row(name="baseline", method="none")]) == []


def test_what_is_not_known_is_a_dash_and_no_column_averages() -> None:
    cells = cells_by_title(report_rows(), "awq")
    assert cells["knowledge chance 0 %"].text == "–"
    titles = " ".join(column.title for column in build_table(report_rows(), SUITE).columns)
    assert not re.search("average|mean|overall", titles)


def test_a_table_of_nothing_measured_yet_can_be_drawn() -> None:
    rows = [Row(name="baseline", method="none"), Row(name="int8", method="bnb_int8")]
    table = build_table(rows, SUITE)
    assert all(len(cells) == len(table.columns) for cells in table.rows)
    assert all(cell.text == UNKNOWN for cell in table.rows[1][1:])
    assert quality_speed_plot(rows) is None
    assert forest_plot(rows) is None


@pytest.mark.parametrize("width", [80, 160])
def test_terminal_and_page_show_the_same_table(tmp_path: Path, width: int) -> None:
    record = report_record(tmp_path)
    text, page = printed(record, width), page_of(record)
    assert max(map(len, text.splitlines()[:40])) <= width
    for cells in build_table(record.rows, SUITE).rows:
        for cell in cells:
            for value in filter(None, (cell.text, cell.second)):
                assert value in text
                assert f">{value}<" in page


def test_the_lowest_category_is_so_above_guessing() -> None:
    """0.93 of the score is 0.82 of what a two-choice task shows beyond guessing, and that is the lowest."""
    row = report_rows()[1]
    assert row.retention is not None
    kept = {one.category: one for one in row.retention.categories}
    flattered = kept["grammar"].model_copy(update={"retention": 0.93, "chance_corrected_retention": 0.82})
    lower = kept["knowledge"].model_copy(update={"retention": 0.9, "chance_corrected_retention": 0.9})
    retention = row.retention.model_copy(update={"categories": [flattered, lower]})
    found = lowest_category(row.model_copy(update={"retention": retention}))
    assert found is not None
    assert (found.category, found.kept) == ("grammar", 0.82)


@pytest.mark.parametrize(
    ("value", "stderr", "digits", "text"),
    [
        (0.83, 0.04, 2, "0.83 ± 0.04"),
        (0.98, 0.002, 2, "0.980 ± 0.002"),
        (0.5, 0.0, 2, "0.50"),
        (0.5, None, 2, "0.50"),
        (35.6, 1.2, 1, "35.6 ± 1.2"),
    ],
)
def test_no_standard_error_is_written_as_zero(value: float, stderr: float | None, digits: int, text: str) -> None:
    assert with_stderr(value, stderr, digits) == text


def test_a_score_without_spread_is_written_with_its_interval() -> None:
    row = report_rows()[0]
    assert row.measurement is not None
    scores = [
        score.model_copy(update={"value": 1.0, "stderr": 0.0, "low": 0.969, "high": 1.0})
        if score.category == "grammar"
        else score
        for score in row.measurement.evaluation.categories
    ]
    evaluation = row.measurement.evaluation.model_copy(update={"categories": scores})
    measured = row.measurement.model_copy(update={"evaluation": evaluation})
    rows = [row.model_copy(update={"measurement": measured})]
    assert cells_by_title(rows, "baseline")["grammar chance 50 %"].text == "1.00 [0.97, 1.00]"


def test_sentences_name_the_lowest_category_and_the_failure() -> None:
    told = {sentence.name: sentence for sentence in sentences(report_rows())}
    assert told["int8"].text.startswith("pass: all 6 categories lose less than their margins")
    assert told["int8"].tone == "good"
    assert told["gptq"].text.startswith("fails in arithmetic (1 of 6 categories)")
    assert "lowest category arithmetic, keeps 0.81 [0.73, 0.89]" in told["gptq"].text
    assert "implausibly better than the baseline in commonsense" in told["gptq"].text
    assert told["nf4"].tone == "bad"
    assert told["awq"].text.startswith("failed in inspect:awq")


def test_the_end_says_times_reuse_failures_and_places(tmp_path: Path) -> None:
    text = printed(report_record(tmp_path), 160)
    for expected in (
        "FAILED inspect:awq",
        "remedy: the artifact is not served",
        "skipped, since what they need failed: measure:awq",
        "reused 1 of 9 stages: prepare",
        "serve start 41.0",
        "850.0 s in all",
        "MLflow: sqlite:///workspace/mlflow.db",
        "report.html",
    ):
        assert expected in text


def test_a_run_without_work_says_so() -> None:
    assert reused_text([outcome("prepare", "reused", 0.0)]) == "reused: all 1 stages, nothing to do"


def test_the_page_loads_nothing_and_has_all_parts(tmp_path: Path) -> None:
    page = page_of(report_record(tmp_path))
    assert not re.search(r"(?:https?:)?//[a-z]", page.replace("sqlite:///", ""))
    assert not re.search(r"<(?:script|link|img|iframe)|@import|url\(", page)
    for expected in ("rounded to 4 bits", "AMD EPYC", "<svg", "inspect:awq failed", "TTFT", "vllm.entrypoints"):
        assert expected in page


def test_every_kind_of_work_has_a_colour(tmp_path: Path) -> None:
    page = page_of(report_record(tmp_path))
    for kind in get_args(PartKind):
        name = kind.replace(" ", "-")
        assert f".k-{name} {{ background: var(--{name}); }}" in page
        # One in daylight, one at night.
        assert page.count(f" --{name}: #") == 2
        assert f'<i class="k-{name}"></i>{kind}' in page


def test_what_comes_from_outside_is_escaped_in_both(tmp_path: Path) -> None:
    rows = report_rows()
    hostile = measurement("gptq", "bfloat16", 109.0, smoke=HOSTILE)
    checkpoint = checkpoint_record("sha256:c").model_copy(update={"origin": HOSTILE, "note": HOSTILE})
    rows[0] = rows[0].model_copy(update={"checkpoint": checkpoint})
    rows[3] = rows[3].model_copy(update={"name": HOSTILE, "measurement": hostile})
    rows[4] = rows[4].model_copy(update={"failure": HOSTILE})
    failure = Failure(what=HOSTILE, remedy=HOSTILE)
    record = report_record(tmp_path, rows=rows, outcomes=[outcome(HOSTILE, "failed", 1.0, failure)])
    page, text = page_of(record), printed(record, 160)
    assert "<script" not in page
    assert "&lt;script" in page
    assert "\x1b" not in page + text
    assert "[red]" in text


def test_flips_are_escaped_too(tmp_path: Path) -> None:
    rows = report_rows()
    found = rows[1].characterization
    assert found is not None
    texts = dict.fromkeys(("prompt", "expected", "baseline_answer", "artifact_answer", "task"), HOSTILE + "\u202eevil")
    flips = [flip.model_copy(update=texts) for flip in found.flips]
    rows[1] = rows[1].model_copy(update={"characterization": found.model_copy(update={"flips": flips})})
    page = page_of(report_record(tmp_path, rows=rows))
    assert "<script" not in page
    assert "&lt;script" in page
    assert "\x1b" not in page and "\u202e" not in page


def test_control_characters_are_dropped_and_lines_kept() -> None:
    assert printable("a\x1b[31mb\x07\nc\td\x9b") == "ab\nc\td"


def test_the_page_explains_every_verdict_and_where_it_was_lost(tmp_path: Path) -> None:
    record = report_record(tmp_path)
    page = page_of(record)
    for row in record.rows:
        for kept in row.retention.categories if row.retention else []:
            assert f">{escape(kept.verdict_reason)}</div></td>" in page
        for breakdown in row.characterization.breakdowns if row.characterization else []:
            assert str(escape(breakdown.finding)) in page
            assert all(f"<td>{drop.name}</td>" in page for drop in breakdown.drops)
    for expected in ("Worst flips of gptq", "it sang", "97.1 ± 0.9 %", "≥ 0.0041", "≥ 0.1120", "−2 points", "−3 %"):
        assert expected in page


def test_the_page_shows_the_kinds_that_lost_differently_and_names_the_others(tmp_path: Path) -> None:
    page = page_of(report_record(tmp_path))
    found = [row.characterization for row in report_rows() if row.characterization]
    assert page.count("<th>arithmetic by kind</th>") == sum(part.differ for one in found for part in one.parts) == 2
    assert "The kinds of arithmetic lost differently: from difference (−30.0 points) to tens (+13.3 points)." in page
    assert "<td>difference</td><td>30</td>" in page
    assert "<th>knowledge by kind</th>" not in page
    assert "No sign that parts of a category lost differently: knowledge by kind (p = 0.80)" in page


def test_a_category_that_could_not_be_judged_is_shown_as_such(tmp_path: Path) -> None:
    rows = report_rows()
    assert rows[1].retention is not None
    nothing = dict.fromkeys(
        ("baseline", "artifact", "retention", "retention_stderr", "difference", "difference_low", "difference_high")
    )
    reason = {"verdict": "inconclusive", "verdict_reason": "Cannot be judged: it has no items."}
    first, *others = rows[1].retention.categories
    empty = first.model_copy(update=nothing | reason)
    rows[1] = rows[1].model_copy(
        update={"retention": rows[1].retention.model_copy(update={"categories": [empty, *others]})}
    )
    record = report_record(tmp_path, rows=rows)
    assert "Cannot be judged: it has no items." in page_of(record)
    assert "int8" in printed(record, 160)


def test_the_forest_puts_methods_together_by_category_with_margins() -> None:
    plot = str(forest_plot(report_rows()))
    names = re.findall(r'<text class="name"[^>]*>([^<]*)<', plot)
    assert names == [category.name for category in SUITE.categories]
    assert plot.count('class="margin"') == len(names)
    assert plot.count('class="mark ') == 3 * len(names)
    assert plot.count('class="mark fail"') == 2
    # Methods in the rows' order below each name.
    assert re.findall(r">(int8|nf4|gptq)<", plot) == ["int8", "nf4", "gptq"] * len(names)


def test_differences_are_on_one_scale_and_signed() -> None:
    rows = report_rows()
    assert rows[2].retention is not None
    by_category = {one.category: one for one in judged(rows[2].retention)}
    assert by_category["arithmetic"].difference_text.startswith("−12.4 [−14.8, −10.0]")
    assert by_category["language"].scale == "%"
    # A retention of 0.9 is 11 % more perplexity; 3 % more are allowed.
    assert by_category["language"].difference == pytest.approx(100 - 100 / 0.9)
    assert by_category["language"].margin == pytest.approx(3.0)
    assert next(one for one in judged(rows[1].retention) if one.category == "grammar").difference_text[:3] == "0.0"  # type: ignore[arg-type]


def test_a_broken_artifact_does_not_flatten_the_others() -> None:
    rows = report_rows()
    assert rows[2].retention is not None
    broken = [
        kept.model_copy(update={"difference": -0.9, "difference_low": -0.95, "difference_high": -0.85})
        if kept.unit == "share"
        else kept.model_copy(update={"difference": -9.0, "difference_low": -9.5, "difference_high": -8.5})
        for kept in rows[2].retention.categories
    ]
    rows[2] = rows[2].model_copy(update={"retention": rows[2].retention.model_copy(update={"categories": broken})})
    plot = str(forest_plot(rows))
    assert ">−40<" in plot and ">−60<" not in plot
    assert "arrow" in plot
    assert "−90.0 [−95.0, −85.0]" in plot
    for x in map(float, re.findall(r'(?:x1|x2|cx)="([-\d.]+)"', plot)):
        assert 0 <= x <= 800


def test_the_page_is_written_where_the_run_is(tmp_path: Path) -> None:
    path = write_page(report_record(tmp_path), SUITE)
    assert path == tmp_path / "report.html"
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_without_a_terminal_each_stage_gets_a_line_and_long_ones_a_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("pipelines.report.console.time", SimpleNamespace(monotonic=lambda: now[0]))
    console = Console(file=io.StringIO(), width=80)
    with RunConsole(fake_run(), console) as run_console:
        stage = Stage("measure", "int8", {})
        for second in range(0, 70, 5):
            now[0] = float(second)
            run_console.on_progress(stage.name, "evaluate 3/700")
        run_console.on_outcome(report_outcomes()[4], report_rows())
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line for line in lines if "evaluate 3/700" in line] == [
        f"measure:int8: evaluate 3/700, {seconds:.0f} s" for seconds in (HEARTBEAT_SECONDS, 2 * HEARTBEAT_SECONDS)
    ]
    assert "measure:int8 done in 230 s" in lines
    assert "w8a8 is left out: no instructions" in lines
    assert any(
        line.startswith("  int8: verdict pass (6 of 6), dtype float32, knowledge 0.53 ± 0.04 (kept 0.97 [0.89, 1.05])")
        for line in lines
    )


def test_on_a_terminal_the_table_is_live() -> None:
    console = Console(file=io.StringIO(), width=160, height=60, force_terminal=True)
    with RunConsole(fake_run(), console) as run_console:
        run_console.on_outcome(report_outcomes()[1], report_rows())
        run_console.on_progress("quantize:int8", "load")
        assert run_console._live is not None
        run_console._live.refresh()
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "arithmetic" in text
    assert "quantize:int8: load" in text


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (0.93, 1.01, [0.92, 0.94, 0.96, 0.98, 1.0, 1.02]), (1, 1, [1.0, 2.0])],
)
def test_ticks_are_round_and_cover_the_range(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_what_the_machine_cannot_serve_is_told_as_left_out(tmp_path: Path) -> None:
    page = page_of(report_record(tmp_path, left_out={"w8a8": "vllm: its kernel lacks <instructions>"}))
    assert "w8a8 was left out: vllm: its kernel lacks &lt;instructions&gt;." in page
