"""Serving as the report shows it: load tests, memory, checks; whatever is missing, failed, absurd or hostile."""

import re
from pathlib import Path
from typing import Any

import pytest

from pipelines.records.rows import Row, concurrencies
from pipelines.report.curve import Drawn, drawable, latency_curves, undrawn
from pipelines.report.load import conditions, conditions_text, doubt, load_text, slo_text
from pipelines.report.memory_split import budgets_differ, memory_lines, room_gained
from pipelines.report.page import render_page
from pipelines.report.plot import quality_speed_plot
from pipelines.report.summary import sentences
from pipelines.report.svg import axis_of
from pipelines.report.table import UNKNOWN, Cell, build_table
from pipelines.stage_programs.serving_metrics import check_tags, doubt_tags, load_name, serving_metrics
from registry.contracts import SLO, CheckRecord, LoadPoint, MemoryRecord, ServingRecord
from registry.numerals import significant
from tests.records import check_record, load_point, measurement_record, percentiles, poisson_point
from tests.unit.pipelines.report_records import HOSTILE, SUITE, WRITTEN, report_record, report_rows

MIB = 2**20


def served(row: Row, **changes: Any) -> Row:
    """The row with other serving facts."""
    assert row.measurement is not None
    serving = row.measurement.serving.model_copy(update=changes)
    return row.model_copy(update={"measurement": row.measurement.model_copy(update={"serving": serving})})


def bare(row: Row) -> Row:
    """Served, and nothing known about how."""
    memory = MemoryRecord(artifact_bytes=0, notes=["nothing could be read"])
    nothing: dict[str, Any] = {"rate_search": None, "checks": [], "profile": None, "load_requests_file": None}
    nothing |= {"threads": None, "prefix_caching": None, "max_num_seqs": None, "quantization_kernel": None}
    return served(row, load_points=[], memory=memory, **nothing)


def page_of(rows: list[Row]) -> str:
    return render_page(report_record(Path("run"), rows=rows), SUITE, WRITTEN)


def serving_of(name: str) -> ServingRecord:
    serving = next(row for row in report_rows() if row.name == name).serving
    assert serving is not None
    return serving


def cell(rows: list[Row], name: str, title: str) -> Cell:
    table = build_table(rows, SUITE)
    titles = [f"{column.title} {column.unit}".strip() for column in table.columns]
    return next(cells for cells in table.rows if cells[0].text == name)[titles.index(title)]


def memory(weights_mib: list[float] | None, tokens: int | None = 10_000, budget_mib: float = 100.0) -> MemoryRecord:
    return MemoryRecord(
        artifact_bytes=MIB,
        weights_bytes_by_rank=None if weights_mib is None else [int(part * MIB) for part in weights_mib],
        kv_cache_bytes=int(budget_mib * MIB),
        kv_cache_tokens=tokens,
    )


def test_only_closed_loops_of_the_first_mix_are_in_the_table() -> None:
    rows = report_rows()
    assert concurrencies(rows) == [1, 4, 8, 32]
    assert cell(rows, "gptq", "tokens/s at 32").text == "128.0"
    alone = served(rows[0], load_points=[poisson_point(2.0, 30.0)])
    assert concurrencies([alone]) == []
    assert not [column for column in build_table([alone], SUITE).columns if column.title in ("tokens/s", "TTFT p50")]


def test_conditions_stand_beside_each_throughput() -> None:
    tooltip = cell(report_rows(), "gptq", "tokens/s at 32").tooltip or ""
    for expected in ("64 of 64 requests", "prompts short", "kernel CPUWNA16LinearKernel", "dtype bfloat16", "eager"):
        assert expected in tooltip
    for expected in ("prefix caching on", "threads 2", "load average before 0.10", "device a test's CPU"):
        assert expected in tooltip


def test_an_invalid_load_test_gives_no_number_to_compare() -> None:
    rows = report_rows()
    found = cell(rows, "int8", "tokens/s at 8")
    assert (found.text, found.second, found.tone) == (UNKNOWN, "invalid", "warn")
    assert "the server 2,011" in (found.tooltip or "")
    # An invalid baseline has nothing to relate others to.
    points = [
        point.model_copy(update={"invalid": "the server died"}) if point.concurrency == 8 else point
        for point in rows[0].load_points
    ]
    rows[0] = served(rows[0], load_points=points)
    assert cell(rows, "gptq", "tokens/s at 8").second is None


def test_checks_count_what_was_run_and_shout_what_failed() -> None:
    rows = report_rows()
    assert (cell(rows, "int8", "checks").text, cell(rows, "int8", "checks").second) == (
        "2 of 2",
        "1 not run",
    )
    failed = cell(rows, "nf4", "checks")
    assert (failed.text, failed.second, failed.tone) == ("batching FAILED", "1 of 2", "bad")
    assert "Never more than 1 request ran at once" in (failed.tooltip or "")
    both = served(rows[2], checks=[check_record("batching", "fail"), check_record("starvation", "fail")])
    assert cell([rows[0], both], "nf4", "checks").text == "2 FAILED"
    none = served(rows[2], checks=[check_record("sharding", "not_run")])
    assert cell([rows[0], none], "nf4", "checks").text == UNKNOWN
    assert cell(rows, "awq", "checks").text == UNKNOWN


def test_a_failed_check_is_told_in_the_sentences_even_of_the_baseline() -> None:
    rows = report_rows()
    told = {sentence.name: sentence for sentence in sentences(rows)}
    assert "check of batching failed: Never more than 1 request" in told["nf4"].text
    assert "check of" not in told["int8"].text
    assert "baseline" not in told
    rows[0] = served(rows[0], checks=[check_record("starvation", "fail")])
    rows[1] = served(rows[1], checks=[check_record("starvation", "fail")])
    told = {sentence.name: sentence for sentence in sentences(rows)}
    assert (told["baseline"].tone, told["int8"].tone) == ("bad", "bad")
    assert told["baseline"].text.startswith("check of starvation failed")
    unjudged = sentences([rows[0], rows[1].model_copy(update={"retention": None})])[1]
    assert unjudged.tone == "bad" and "starvation failed" in unjudged.text


def test_freed_weights_are_told_as_room() -> None:
    told = {sentence.name: sentence.text for sentence in sentences(report_rows())}
    assert "on the same memory, 17,021 more tokens of KV cache (computed)" in told["gptq"]
    # The weights of nf4 could not be read.
    assert "on the same memory" not in told["nf4"]
    assert [name for name, _ in room_gained(report_rows())] == ["int8", "gptq"]
    assert room_gained([Row(name="baseline", method="none"), *report_rows()[1:]]) == []
    rows = report_rows()[:2]
    assert rows[0].serving is not None
    larger = rows[0].serving.memory.model_copy(update={"weights_bytes_by_rank": [900 * MIB]})
    rows[1] = served(rows[1], memory=larger)
    assert memory_lines(rows)[1].gain.text.startswith("−")
    assert "fewer tokens" in sentences(rows)[0].text


def test_memory_is_four_numbers_each_on_its_own_scale() -> None:
    rows = report_rows()
    baseline, int8, nf4, gptq = memory_lines(rows)
    assert [one.text for one in baseline.cells] == ["257 MiB", "513 MiB", "23,301 tokens", "2,557 MiB"]
    assert [sum(one.parts) for one in baseline.cells[:2]] == [1.0, 1.0]
    assert gptq.cells[1].parts == [pytest.approx(139 / 513)]
    assert gptq.cells[1].second == "0.27×"
    assert gptq.cells[2].second == "2.00×, 91.0 requests of full context, in 1,024 MiB"
    assert nf4.cells[1].text == UNKNOWN and "did not answer" in (nf4.cells[1].tooltip or "")
    assert nf4.gain.text == UNKNOWN and nf4.gain.tooltip
    assert int8.gain.text == "+5,711 tokens"
    assert not budgets_differ(rows)
    assert rows[0].serving is not None
    other = served(rows[0], memory=rows[0].serving.memory.model_copy(update={"kv_cache_bytes": 1}))
    assert budgets_differ([other, *rows[1:]])


def test_ranks_are_parts_of_one_bar() -> None:
    rows = [served(report_rows()[0], memory=memory([60.0, 40.0]))]
    weights = memory_lines(rows)[0].cells[1]
    assert (weights.text, weights.second, weights.parts) == ("100 MiB", "2 ranks", [0.6, 0.4])
    assert weights.tooltip == "rank 0: 60.0 MiB; rank 1: 40.0 MiB"


def test_loads_and_doubts_in_words() -> None:
    assert load_text(load_point(8, 40.0)) == "8 at a time"
    assert load_text(poisson_point(2.5, 40.0)) == "2.5/s arriving"
    assert doubt(load_point(8, 40.0)) is None
    doubtful = {
        "invalid: counters disagree": {"invalid": "counters disagree", "saturated": True},
        "none of 4 requests completed": {"completed": 0},
        "saturated: arrivals outran": {"saturated": True},
    }
    for expected, changes in doubtful.items():
        assert (doubt(load_point(8, 40.0).model_copy(update=changes)) or "").startswith(expected)
    assert slo_text(SLO(ttft_seconds=0.5, e2e_seconds=20)) == "TTFT ≤ 500 ms, end to end ≤ 20,000 ms"
    assert slo_text(SLO()) == "no limit at all"


def test_conditions_are_told_once_where_they_are_alike() -> None:
    found = conditions(report_rows())
    assert found.alike["threads"] == "2"
    assert found.differing == ["dtype", "kernel"]
    assert found.rows[-1] == ("gptq", ["bfloat16", "CPUWNA16LinearKernel"])
    assert conditions([]).rows == []
    # Of a single model nothing is "alike".
    assert conditions(report_rows()[:1]).alike == {}
    assert "threads" not in conditions_text(serving_of("gptq").model_copy(update={"threads": None}))


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0"), (0.01234, "0.0123"), (4.561, "4.56"), (1234.6, "1,235"), (-2.5, "-2.50"), (1e30, "1.00e+30")],
)
def test_three_digits_are_kept(value: float, expected: str) -> None:
    assert significant(value) == expected


def test_far_apart_values_get_a_logarithmic_axis() -> None:
    linear, wide = axis_of([3.0, 20.0]), axis_of([3.0, 700.0])
    assert (linear.logarithmic, linear.low) == (False, 0.0)
    assert wide.logarithmic and wide.ticks == [5, 10, 20, 50, 100, 200, 500]
    assert wide.share(wide.low) == 0 and wide.share(wide.high) == pytest.approx(1)
    one = axis_of([5.0])
    assert one.low < 5 < one.high


def test_the_curve_draws_each_kind_of_load_apart() -> None:
    rows = report_rows()
    plot = str(latency_curves(rows, "short"))
    # Two panels; of 4 models each 4 levels and 3 rates, one of which completed nothing.
    assert plot.count('class="point ') == 2 * (4 * 7 - 1)
    assert plot.count('<polygon class="point hollow s2"') == 2
    assert plot.count('class="cross s1"') == 2 * 2
    assert plot.count('class="ring"') == 2 * 2
    assert plot.count('<line class="slo"') == 2
    assert undrawn(rows, "short") == 1
    assert "highest rate that kept the SLO" in plot
    # The saturated point is beyond the plot and does not stretch its axis.
    assert plot.count('class="arrow s2"') == 1
    assert ">10,000<" not in plot
    for x, y in re.findall(r'<circle class="point[^"]*" cx="([-\d.]+)" cy="([-\d.]+)"', plot):
        assert 0 <= float(x) <= 1000 and 0 <= float(y) <= 600
    # Invalid points are not joined: 3 + 2 lines of the four models, less the ones that lack a point.
    assert plot.count('<line class="closed s1"') == 2 * 2
    assert plot.count('<line class="open s3"') == 2 * 1


def test_a_limit_on_whole_requests_gets_a_panel() -> None:
    rows = report_rows()
    assert rows[0].serving is not None and rows[0].serving.rate_search is not None
    search = rows[0].serving.rate_search.model_copy(update={"slo": SLO(e2e_seconds=20.0)})
    plot = str(latency_curves([served(rows[0], rate_search=search)], "short"))
    assert "End to end" in plot and plot.count('<line class="slo"') == 1


def test_labels_do_not_cover_each_other() -> None:
    plot = str(latency_curves(report_rows(), "short"))
    boxes = []
    for kind, x, y, text in re.findall(
        r'<text class="((?:tick|name) s[^"]*)" x="([\d.]+)" y="([\d.]+)">([^<]*)<', plot
    ):
        width = 6.6 * len(text)
        left = float(x) - width if "end" in kind else float(x)
        boxes.append((left, float(y) - 11, left + width, float(y) + 2, text))
    assert len(boxes) > 20
    for index, one in enumerate(boxes):
        for other in boxes[index + 1 :]:
            apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
            assert apart, (one, other)


@pytest.mark.parametrize("speed", [0.0, 1e-300, 1e300, float("inf"), float("nan")])
@pytest.mark.parametrize("seconds", [0.0, 1e-300, 1e300, float("inf"), float("nan")])
def test_absurd_numbers_are_shown_and_not_drawn(speed: float, seconds: float) -> None:
    times = dict.fromkeys(("ttft", "tpot", "itl", "e2e", "client_queue"), percentiles(seconds, seconds))
    speeds = dict.fromkeys(("output_tokens_per_second", "requests_per_second", "good_requests_per_second"), speed)
    point = load_point(1, 40.0).model_copy(update=times | speeds)
    row = served(report_rows()[0], load_points=[point])
    assert latency_curves([row], "short") is None
    assert undrawn([row], "short") == 1
    assert quality_speed_plot([row, *report_rows()[1:]])
    assert "no place in the plot" in page_of([row])


def test_a_page_of_nothing_known_says_so() -> None:
    page = page_of([bare(row) for row in report_rows()[:4]])
    for expected in (
        "No load test was run",
        "No check of the servers was made",
        "nothing could be read",
        "None was run",
    ):
        assert expected in page
    assert 'class="plot curve"' not in page
    assert ">None<" not in page and "None " not in re.sub(r"<[^>]*>|None was run", "", page)
    unmeasured = page_of([Row(name="baseline", method="none"), Row(name="int8", method="bnb_int8")])
    assert "Speed under load" not in unmeasured and "<h2>Memory" not in unmeasured


def test_a_page_with_everything_has_both_sides_and_all_percentiles() -> None:
    page = page_of(report_rows())
    for expected in (
        "Highest rate that keeps TTFT ≤ 1,000 ms, TPOT ≤ 200 ms",
        "the client counted 2,048 output tokens, the server 2,011",
        '80 / <span class="bad">77</span>',
        "load_requests.parquet",
        "aten::mm",
        "trace.json.gz",
        "17,021 more tokens of KV cache (computed",
        "✗ FAILED",
        "One rank holds all weights: nothing is sharded.",
        "throughput ratio 16 to 1",
        "13 (11)",
        "The same with prompts long",
    ):
        assert expected in page
    assert page.count("<th>p95</th>") == 4 * 4
    assert not re.search(r"<(?:script|link|img|iframe)|@import|url\(", page)


@pytest.mark.parametrize("index", [0, 3])
def test_one_model_alone_has_a_page(index: int) -> None:
    rows = [report_rows()[index]]
    assert latency_curves(rows, "short") is not None
    assert "Speed under load" in page_of(rows)


def test_a_baseline_that_failed_leaves_the_artifacts_their_numbers() -> None:
    rows = report_rows()
    rows[0] = rows[0].model_copy(update={"measurement": None, "failure": "measure:baseline: the server died"})
    lines = memory_lines(rows)
    assert [one.name for one in lines] == ["int8", "nf4", "gptq"]
    assert lines[0].series == "s1"
    assert all(one.gain.text == UNKNOWN for one in lines)
    assert "Speed under load" in page_of(rows)


def test_what_servers_say_is_escaped() -> None:
    rows = report_rows()
    check = CheckRecord(check="batching", outcome="fail", reason=HOSTILE, numbers={HOSTILE: 1.0})
    point = load_point(1, 40.0).model_copy(update={"prompts": HOSTILE, "invalid": HOSTILE})
    profile = serving_of("gptq").profile
    assert profile is not None
    operators = profile.model_copy(update={"trace_file": HOSTILE, "operators": [(HOSTILE, 1.0, 1.0)]})
    changes: dict[str, Any] = {"quantization_kernel": HOSTILE, "device_name": HOSTILE, "profile": operators}
    rows[1] = served(rows[1], load_points=[point], checks=[check], **changes).model_copy(update={"name": HOSTILE})
    page = page_of(rows)
    assert "<script" not in page and "\x1b" not in page
    assert page.count("&lt;script") > 8


def test_mlflow_gets_all_points_under_names_that_it_takes() -> None:
    serving = serving_of("nf4")
    metrics = serving_metrics(serving)
    assert metrics["load.short.concurrency_8.output_tokens_per_second"] == 25.3
    assert metrics["load.short.poisson_2_per_second.ttft_p99_seconds"] == 61.0
    assert metrics["load.short.poisson_2_per_second.timed_out"] == 11
    assert metrics["load.long.concurrency_1.tpot_p50_seconds"] == pytest.approx(3 * 0.9 / 6.1)
    assert metrics["kv_cache_requests"] == pytest.approx(91.0, abs=0.1)
    assert metrics["resident_weights_bytes"] is None
    assert metrics["rate_search.highest_good_requests_per_second"] is None
    assert metrics["check.batching.throughput_ratio_16_to_1"] == 6.25
    assert check_tags(serving)["check.batching"] == "fail"
    assert check_tags(serving)["check.sharding"] == "not_run"
    assert doubt_tags(serving) == {"load.short.poisson_2_per_second.saturated": "true"}
    hostile = load_point(1, 1.0).model_copy(update={"prompts": 300 * "a/ä<"})
    assert re.fullmatch(r"[\w.\-]{1,250}", load_name(hostile), re.ASCII)


def test_mlflow_gets_no_speeds_of_invalid_or_empty_points() -> None:
    metrics = serving_metrics(serving_of("int8"))
    assert "load.short.concurrency_8.output_tokens_per_second" not in metrics
    assert metrics["load.short.concurrency_8.completed"] == 64
    assert "the server 2,011" in doubt_tags(serving_of("int8"))["load.short.concurrency_8.invalid"]
    empty = serving_metrics(serving_of("gptq"))
    assert empty["load.short.poisson_2_per_second.output_tokens_per_second"] == 0
    assert "load.short.poisson_2_per_second.ttft_p50_seconds" not in empty


def test_ranks_and_open_loops_without_a_rate_have_names() -> None:
    record = measurement_record("sha256:m").serving
    nowhere = poisson_point(1.0, 1.0).model_copy(update={"requests_per_second_offered": None})
    metrics = serving_metrics(record.model_copy(update={"memory": memory([60.0, 40.0]), "load_points": [nowhere]}))
    assert metrics["resident_weights_rank_1_bytes"] == 40 * MIB
    assert metrics["load.short.poisson.completed"] == 4


def test_drawable_needs_completed_requests() -> None:
    point: LoadPoint = load_point(1, 40.0)
    assert drawable(Drawn("a", "s1", point, False), "ttft")
    assert not drawable(Drawn("a", "s1", point.model_copy(update={"completed": 0}), False), "ttft")


def test_answers_of_one_piece_have_no_time_between_tokens() -> None:
    point = load_point(1, 40.0).model_copy(update={"tpot": percentiles(0, 0), "itl": percentiles(0, 0)})
    rows = [served(report_rows()[0], load_points=[point])]
    plot = str(latency_curves(rows, "short"))
    assert "TTFT" in plot and "TPOT" not in plot
    assert page_of(rows).count("answers of one piece") == 2 * 4


def test_counters_that_may_differ_are_not_marked() -> None:
    point = load_point(1, 40.0).model_copy(update={"server_output_tokens": 99, "failed": 1})
    assert "80 / <span>99</span>" in page_of([served(report_rows()[0], load_points=[point])])


def test_an_engine_that_says_nothing_leaves_dashes() -> None:
    row = served(report_rows()[0], eager=None, start_seconds=None)
    assert cell([row], "baseline", "start s").text == UNKNOWN
    assert "started in" not in page_of([row])
    found = conditions([row, report_rows()[1]])
    graphs = found.differing.index("graphs")
    assert [facts[graphs] for _, facts in found.rows] == [None, "none, eager"]
