"""What models cost, at a load and within the SLO: in table, page, terminal, card and MLflow, or why it is not known."""

import io
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from rich.console import Console

from configs.errors import ConfigError
from configs.loading import load_yaml_model
from pipelines.recipe.bench_config import BenchConfig
from pipelines.recipe.run_config import RunConfig
from pipelines.records.bench_result import BenchResult
from pipelines.records.model_cost import (
    Pricing,
    joules_per_output_token,
    kept_share,
    model_cost,
    no_cost,
    point_cost,
    pricing_of,
)
from pipelines.records.rows import BenchedModel, Row
from pipelines.report.bench_page import write_bench_page
from pipelines.report.bench_table import print_bench
from pipelines.report.console import print_record
from pipelines.report.model_card import model_card
from pipelines.report.page import render_page
from pipelines.report.table import build_table
from pipelines.review.costs import cost_columns, price_notices, price_shown, run_pricing
from pipelines.stage_programs.serving_metrics import cost_metrics, price_tags
from registry.contracts import LoadPoint, ServingRecord
from serving_checks.readings.cost import DevicePrice
from tests.records import load_point, measurement_record, poisson_point
from tests.unit.pipelines.export_records import found_in, workspace_with
from tests.unit.pipelines.report_records import SUITE, WRITTEN, report_record, report_rows
from tests.unit.pipelines.test_runner import MACHINE

ROOT = Path(__file__).parents[3]
TOLD = {"device": "a GPU", "currency": "EUR", "per_hour": 3.6, "source": "a page", "read_on": "2026-01-02"}
"""A tenth of a cent a second."""
SLO = {"slo": {"ttft_seconds": 1.0}}


def priced(load: dict[str, Any] | None = None, **changes: Any) -> Pricing:
    pricing = pricing_of({"price": TOLD | changes, "load": load or {}})
    assert pricing is not None
    return pricing


def changed(point: LoadPoint, **changes: Any) -> LoadPoint:
    return point.model_copy(update=changes)


def kept(point: LoadPoint, requests: int) -> LoadPoint:
    """The point with so many of its four requests within the SLO."""
    return changed(point, good_requests_per_second=requests / point.duration_seconds)


def model(*points: LoadPoint, **serving: Any) -> BenchedModel:
    record = measurement_record("sha256:a").serving
    return BenchedModel(name="mine", served=record.model_copy(update={"load_points": list(points), **serving}))


def test_all_of_a_load_test_is_paid_for_and_what_failed_gives_no_tokens() -> None:
    point = load_point(4, 40.0)  # 80 tokens in 2 s, 8 request seconds
    cost = point_cost(model().served, point, priced().price)
    assert cost is not None
    assert (cost.prefill_share, cost.busy_seconds, cost.mean_in_flight) == (0.25, 2.0, 4.0)
    assert cost.input_per_million == pytest.approx(0.002 * 0.25 / 40 * 1e6)
    assert cost.output_per_million == pytest.approx(0.002 * 0.75 / 80 * 1e6)
    half = changed(
        point, completed=2, failed=2, prompt_tokens=20, output_tokens=40, prefill_seconds=1, decode_seconds=3
    )
    dearer = point_cost(model().served, half, priced().price)
    assert dearer is not None
    assert dearer.all_per_million == pytest.approx(2 * cost.all_per_million)
    assert dearer.blended_per_million == pytest.approx(2 * (cost.blended_per_million or 0))
    assert dearer.mean_in_flight == 4.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"invalid": "counters differ"}, "invalid: counters differ"),
        ({"saturated": True}, "saturated: arrivals outran the server"),
        ({"completed": 0}, "none of 4 requests completed"),
        ({"output_tokens": 0}, "none of 4 requests completed"),
        ({"request_seconds": None}, "measured before costs were told: measure again"),
    ],
)
def test_a_load_test_without_a_cost_says_why(changes: dict[str, Any], said: str) -> None:
    point = changed(load_point(4, 40.0), **changes)
    assert no_cost(point) == said
    found = model_cost(model(point), priced(), 4)
    assert (found.measured, found.measured_missing) == (None, said)
    within = model_cost(model(point), priced(SLO), 4)
    assert (within.within_slo, within.within_slo_missing) == (None, said)


def test_answers_of_one_piece_have_a_cost_that_is_not_told_apart() -> None:
    point = changed(load_point(4, 40.0), prefill_seconds=0.0, decode_seconds=0.0)
    found = model_cost(model(point), priced(), 4).measured
    assert found is not None
    assert found.cost.blended_per_million is None
    assert found.cost.all_per_million == pytest.approx(0.002 / 120 * 1e6)


@pytest.mark.parametrize(
    ("serving", "devices", "expected"),
    [
        ({"device": "cuda", "tensor_parallel_size": 4}, 1, 4),
        ({"device": "cuda", "tensor_parallel_size": 4}, 8, 8),
        # A CPU is paid for once, in however many processes it computes.
        ({"device": "cpu", "tensor_parallel_size": 4}, 1, 1),
        ({"device": "cuda"}, 2, 2),
    ],
)
def test_a_server_on_several_devices_costs_as_many(serving: dict[str, Any], devices: int, expected: int) -> None:
    point = load_point(4, 40.0)
    cost = point_cost(model(**serving).served, point, priced(devices=devices).price)
    one = point_cost(model().served, point, priced().price)
    assert cost is not None and one is not None
    assert cost.all_per_million == pytest.approx(expected * one.all_per_million)
    assert cost.per_hour == pytest.approx(expected * 3.6)


def test_within_the_slo_is_the_highest_throughput_of_what_kept_it() -> None:
    slow, fast = kept(load_point(1, 20.0), 4), kept(load_point(8, 90.0), 3)
    middle, opened = kept(load_point(4, 60.0), 4), kept(poisson_point(2.0, 70.0), 4)
    found = model_cost(model(slow, fast, middle), priced(SLO), 8)
    assert found.measured is not None and found.within_slo is not None
    assert (found.measured.point.concurrency, found.within_slo.point.concurrency) == (8, 4)
    assert found.within_slo_missing is None
    # Rates count as levels do; a saturated one does not, and prompts of another length are another load.
    other = changed(kept(load_point(8, 300.0), 4), prompts="long")
    found = model_cost(model(slow, fast, middle, opened, other), priced(SLO), 8)
    assert found.within_slo is not None and found.within_slo.point == opened
    found = model_cost(model(slow, middle, changed(opened, saturated=True)), priced(SLO), 8)
    assert found.within_slo is not None and found.within_slo.point == middle
    # Where three of four are enough, the fastest is.
    lax = priced({**SLO, "profiles": [{"kind": "sweep", "share": 0.75}]})
    found = model_cost(model(slow, fast, middle), lax, 8)
    assert found.within_slo is not None and found.within_slo.point == fast
    assert kept_share(fast) == 0.75


def test_an_slo_that_nothing_keeps_is_said() -> None:
    found = model_cost(model(kept(load_point(4, 40.0), 3), kept(load_point(8, 80.0), 1)), priced(SLO), 8)
    assert found.within_slo is None
    assert found.within_slo_missing == (
        "no load test kept the SLO: at best 75 % of requests did, 95 % of requests have to"
    )
    nothing = model_cost(model(), priced(SLO), None)
    assert nothing == (None, "no closed loop was run", None, "no load test was run")
    assert model_cost(model(), priced(), 8).within_slo_missing is None
    unserved = model_cost(Row(name="gptq", method="gptq"), priced(SLO), 8)
    assert unserved == (None, "it was not served", None, "it was not served")


def test_joules_are_of_what_may_be_believed() -> None:
    point = changed(load_point(4, 40.0), energy_joules=160.0)
    assert joules_per_output_token(point) == 2.0
    for without in ({"invalid": "x"}, {"energy_joules": None}, {"output_tokens": 0}):
        assert joules_per_output_token(changed(point, **without)) is None
    assert joules_per_output_token(None) is None


def served(row: Row, **changes: Any) -> Row:
    assert row.measurement is not None
    serving: ServingRecord = row.measurement.serving.model_copy(update=changes)
    return row.model_copy(update={"measurement": row.measurement.model_copy(update={"serving": serving})})


def metered(row: Row) -> Row:
    points = [changed(point, energy_joules=2.0 * point.output_tokens) for point in row.load_points]
    return served(row, load_points=points, energy_source="RAPL package-0")


MADE_UP = TOLD | {"made_up": True, "source": "made up"}


def test_a_run_shows_costs_each_marked(tmp_path: Path) -> None:
    rows = [metered(row) if row.measurement else row for row in report_rows()]
    config = {"name": "demo", "description": "", "price": MADE_UP, "load": SLO}
    record = report_record(tmp_path, rows=rows, config=config)
    table = build_table(rows, SUITE, pricing_of(config))
    units = [column.unit for column in table.columns if column.title in ("cost", "energy")]
    assert units == [
        "EUR, MADE UP, 1M tokens, at 32", "EUR, MADE UP, 1M tokens, in SLO", "J/token at 32",
    ]  # fmt: skip
    note = "Cost: 3.6 EUR an hour for a GPU, MADE UP: nobody asks this price, read on 2026-01-02."
    assert sum(text.startswith(note) for text in table.footnotes) == 1
    page = render_page(record, SUITE, WRITTEN)
    assert page.count(note) == 1
    assert "<h3>Cost and energy</h3>" in page
    assert page.count("kWh, 1M output tokens, at 32") == 1
    found = model_cost(rows[0], priced(SLO, made_up=True), 32).measured
    assert found is not None
    console = Console(record=True, width=400, file=io.StringIO())
    print_record(console, record, SUITE)
    for text in (page, console.export_text()):
        assert f"{found.cost.blended_per_million:.2f}" in text
        assert "RAPL package-0" in text


def test_without_price_and_energy_nothing_of_them_is_shown(tmp_path: Path) -> None:
    rows = report_rows()
    assert not [one for one in build_table(rows, SUITE).columns if one.title in ("cost", "energy")]
    page = render_page(report_record(tmp_path), SUITE, WRITTEN)
    for absent in ("Cost and energy", "blended", "Energy:", "1M tokens", "MADE UP"):
        assert absent not in page


def test_a_record_from_before_costs_says_to_measure_again(tmp_path: Path) -> None:
    rows = []
    for row in report_rows():
        old = {"request_seconds": None, "prefill_seconds": None, "decode_seconds": None}
        points = [changed(point, **old) for point in row.load_points]
        rows.append(served(row, load_points=points) if row.measurement else row)
    config = {"name": "demo", "description": "", "price": TOLD}
    page = render_page(report_record(tmp_path, rows=rows, config=config), SUITE, WRITTEN)
    assert "nf4 has no cost at 32: measured before costs were told: measure again." in page


def test_what_the_machine_does_not_tell_is_said_once(tmp_path: Path) -> None:
    note = "this machine tells no energy: no RAPL in /sys/class/powercap"
    rows = [served(row, energy_notes=[note]) if row.measurement else row for row in report_rows()]
    assert build_table(rows, SUITE).footnotes.count(f"Energy: {note}.") == 1
    assert render_page(report_record(tmp_path, rows=rows), SUITE, WRITTEN).count(note) == 1
    one = [rows[0], *report_rows()[1:]]
    assert f"Energy, baseline: {note}." in build_table(one, SUITE).footnotes


def test_a_bench_shows_costs(tmp_path: Path) -> None:
    points = [kept(load_point(1, 20.0), 4), kept(changed(load_point(8, 64.0), energy_joules=40.0), 1)]
    record = model(*points, energy_source="NVML GPU 0").served
    config = BenchConfig.model_validate(
        {"version": 1, "name": "mine", "model": tmp_path, "price": MADE_UP, "load": SLO}
    )
    pricing = pricing_of(config.model_dump(mode="json"))
    page = write_bench_page(config, MACHINE, record, tmp_path).read_text()
    text = io.StringIO()
    print_bench(Console(file=text, width=300), BenchResult("mine", record, tmp_path, tmp_path / "p", pricing))
    cost = point_cost(record, points[1], config.price or priced().price)
    assert cost is not None
    for shown in (page, text.getvalue()):
        assert f"{cost.blended_per_million:.2f}" in shown
        assert "EUR, MADE UP" in shown
        assert "NVML GPU 0" in shown
        assert "0.500" in shown, "joules a token"
        assert shown.count("3.6 EUR an hour for a GPU") == 1
    assert "at the highest load that kept the SLO: " in text.getvalue()
    assert "EUR (MADE UP) a million tokens, 1 at a time" in text.getvalue()
    none = io.StringIO()
    worse = record.model_copy(update={"load_points": points[1:]})
    print_bench(Console(file=none, width=300), BenchResult("mine", worse, tmp_path, tmp_path / "p", pricing))
    assert "no cost within the SLO: no load test kept the SLO: at best 25 % of requests did" in none.getvalue()


def test_the_card_tells_costs_beside_the_base_model(tmp_path: Path) -> None:
    found = found_in(*workspace_with(tmp_path))
    assert "a million tokens" not in model_card(found)
    priced_run = found.run.model_copy(update={"config": found.run.config | {"price": MADE_UP}})
    card = model_card(found._replace(run=priced_run))
    assert "| a million tokens (blended 3:1), EUR, MADE UP, 32 requests at a time |" in card
    assert "MADE UP: nobody asks this price" in card
    assert "highest load that kept the SLO" not in card


def test_mlflow_gets_few_metrics_and_their_currency() -> None:
    row = metered(report_rows()[0])
    pricing = priced(SLO, made_up=True)
    metrics = cost_metrics(row, pricing, 4)
    assert metrics["joules_per_output_token"] == 2.0
    assert metrics["cost_blended_per_million"] is not None and metrics["cost_within_slo_per_million"] is None
    assert price_tags(pricing) == {"cost.currency": "EUR", "cost.made_up": "true"}
    assert price_tags(priced()) == {"cost.currency": "EUR"}
    assert set(cost_metrics(report_rows()[0], None, 4).values()) == {None}
    assert price_tags(None) == {}


def test_the_review_page_s_columns() -> None:
    row = metered(report_rows()[0])
    pricing, notices = run_pricing("r1", {"name": "old"}, DevicePrice.model_validate(TOLD))
    assert pricing is not None and not notices
    columns = cost_columns(row, pricing, 32)
    assert columns.cost_per_million is not None and columns.joules_per_token == 2.0
    assert cost_columns(row, None, 32) == (None, None, 2.0)
    assert cost_columns(row, None, None) == (None, None, None)
    # Its own price comes first.
    own, _ = run_pricing("r2", {"price": TOLD | {"currency": "USD", "devices": 2}}, DevicePrice.model_validate(TOLD))
    shown = price_shown(own)
    assert shown is not None
    assert (shown.currency, shown.per_hour, shown.read_on, shown.made_up) == ("USD", 7.2, "2026-01-02", False)
    assert price_shown(None) is None
    damaged, (notice,) = run_pricing("r3", {"price": {"per_hour": "<b>"}})
    assert damaged is None
    assert notice.about == "r3" and "cannot be read (device: Field required)" in notice.text


def test_prices_that_do_not_compare_are_said() -> None:
    eur, usd = price_shown(priced()), price_shown(priced(currency="USD"))
    dearer = price_shown(priced(per_hour=5.0))
    assert price_notices([eur, eur, None]) == []
    assert price_notices([eur, usd])[0].text.partition(":")[0] == "costs are in EUR and USD"
    (said,) = price_notices([eur, dearer])
    assert said.text.startswith("runs have different prices of an hour")


@pytest.mark.parametrize("config_type", [RunConfig, BenchConfig])
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"per_hour": 0}, "greater than 0"),
        ({"per_hour": -1}, "a number from 0"),
        ({"per_hour": float("nan")}, "finite"),
        ({"source": None}, "source"),
        ({"read_on": None}, "a date such as"),
        ({"currency": "dollars"}, "pattern"),
        ({"currency": "usd"}, "pattern"),
    ],
)
def test_a_wrong_price_is_refused(config_type: type[RunConfig], wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        config_type.model_validate({"version": 1, "name": "x", "price": TOLD | wrong})
    assert [one for one in caught.value.errors() if one["loc"][0] == "price" and said in str(one)]


def test_the_demo_has_a_made_up_price_and_a_missing_file_is_named(tmp_path: Path) -> None:
    demo = load_yaml_model(ROOT / "configs" / "recipes" / "demo.yaml", RunConfig)
    pricing = pricing_of(demo.as_json())
    assert pricing is not None
    assert pricing.price.made_up and pricing.currency == "USD, MADE UP" and pricing.slo is not None
    (tmp_path / "mine.yaml").write_text("include: prices/none.yaml\nversion: 1\n")
    with pytest.raises(ConfigError, match=r"cannot read .*prices/none\.yaml"):
        load_yaml_model(tmp_path / "mine.yaml", RunConfig)
