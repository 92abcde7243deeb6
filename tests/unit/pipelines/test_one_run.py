"""A run's record becomes rows of the review page's columns and its details: the record's numbers, and none made up."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from evals.judging.characterize import MOST_FLIPS
from pipelines.planning.device import MachineRecord
from pipelines.records.decision import Candidate, LimitOutcome, RecommendationRecord
from pipelines.records.events import time_breakdown
from pipelines.records.model_cost import model_cost
from pipelines.records.rows import Row
from pipelines.records.run_record import RunRecord
from pipelines.review.costs import run_pricing
from pipelines.review.one_run import (
    Fate,
    category_cells,
    category_columns,
    columns,
    model_rows,
    run_detail,
    run_row,
    with_fates,
)
from pipelines.review.page_data import CATEGORIES_SHOWN, Models, Runs
from pipelines.review.report_page import data_of_run
from registry.contracts import CategoryRetention
from tests.unit.pipelines.loss_records import SUITE, flip, numbers_of
from tests.unit.pipelines.report_records import WRITTEN, outcome, report_record
from tests.unit.pipelines.serving_records import SPEEDS


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    return report_record(tmp_path)


def by_name(record: RunRecord) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in model_rows(record)}


def kept(category: str, value: float | None, low: float | None = None) -> CategoryRetention:
    return numbers_of("int8", SUITE.categories[0]).model_copy(
        update={
            "category": category,
            "chance": None,
            "retention": value,
            "retention_low": low,
            "retention_high": None if value is None else value + 0.01,
        }
    )


def with_categories(record: RunRecord, categories: list[CategoryRetention]) -> RunRecord:
    rows = list(record.rows)
    retention = rows[1].retention
    assert retention is not None
    rows[1] = rows[1].model_copy(update={"retention": retention.model_copy(update={"categories": categories})})
    return record.model_copy(update={"rows": rows})


def test_a_row_is_what_the_record_says(record: RunRecord) -> None:
    rows = by_name(record)
    gptq = rows["gptq"]
    assert (gptq["method"], gptq["dtype"], gptq["kernel"]) == ("gptq", "bfloat16", "CPUWNA16LinearKernel")
    assert (gptq["tokens_per_second"], gptq["concurrency"]) == (SPEEDS["gptq"][-1], 32)
    assert gptq["tokens_per_second_alone"] == SPEEDS["gptq"][0]
    assert gptq["disk_bytes"] == 109 << 20 and gptq["weights_bytes"] == 139 << 20
    assert gptq["ttft_p95_seconds"] == record.rows[3].closed_point(32).ttft.p95_seconds  # type: ignore[union-attr]
    assert (gptq["worst_category"], gptq["verdict"]) == ("arithmetic", "fail")
    assert gptq["kept_low"] < gptq["kept"] < gptq["kept_high"]
    assert rows["nf4"]["weights_bytes"] is None, "its worker did not answer"
    assert rows["baseline"]["verdict"] is None and rows["baseline"]["kept"] is None
    assert rows["awq"]["verdict"] == "fail" and "weight_agreement" in rows["awq"]["failure"]
    assert rows["awq"]["tokens_per_second"] is None and rows["awq"]["concurrency"] is None


def test_all_columns_are_there_and_units_of_what_is_not_known_are_none(record: RunRecord) -> None:
    models = columns(Models, model_rows(record, run=3, versions={"int8": "7"}))
    assert models.run == [3] * 5
    assert models.version == [None, "7", None, None, None]
    assert models.cost_per_million == models.decode_share == [None] * 5
    runs = columns(Runs, [run_row(record, page="runs/x/report.html")])
    assert runs.page == ["runs/x/report.html"]
    assert runs.suite == ["demo 2"] and runs.failed == [1] and runs.seconds == [850.0]
    assert runs.series == ["smollm2-135m-demo · demo 2 · AMD EPYC 7B13, 2 threads"]


def test_the_recommended_model_is_an_index_among_all_models(record: RunRecord) -> None:
    said = RecommendationRecord(
        goal="fastest",
        kind="artifact",
        choice="gptq",
        sentence="take gptq",
        candidates=[
            Candidate(name="int8", digest=None, limits=[LimitOutcome(limit="size", outcome="fail", reason="too large")])
        ],
        next_step="quantbench registry approve gptq",
    )
    decided = record.model_copy(update={"recommendation": said})
    assert run_row(decided, first_model=10)["recommended"] == 13
    assert by_name(decided)["int8"]["policy"] == "fail"
    gone = said.model_copy(update={"choice": "of another recipe"})
    assert run_row(record.model_copy(update={"recommendation": gone}))["recommended"] is None
    assert run_row(record)["kind"] is None, "a record from before there were recommendations"


def test_cells_are_columns_with_the_worst_category_first(record: RunRecord) -> None:
    found = category_columns(category_cells(record, first_model=5))
    assert found[0].name == "arithmetic"
    assert {column.name for column in found} == {
        one.category
        for one in record.rows[0].measurement.evaluation.categories  # type: ignore[union-attr]
    }
    for column in found:
        assert column.model == [5, 6, 7, 8], "the failed artifact was asked nothing"
        assert column.kept[0] is None and column.score[0] is not None
    language = next(column for column in found if column.name == "language")
    assert language.unit == "perplexity" and language.kept[1] == pytest.approx(0.995)


def test_ten_thousand_categories_are_the_worst_sixty_and_a_number(record: RunRecord) -> None:
    many = [kept(f"part {number}", 1 - number / 20_000, 0.99 - number / 20_000) for number in range(10_000)]
    large = with_categories(record, many)
    detail = run_detail(large).models[1]
    assert detail.categories[0].category == "part 9999"
    assert len(detail.categories) == CATEGORIES_SHOWN and detail.categories_left == 10_000 - CATEGORIES_SHOWN
    names = {cell.name for cell in category_cells(large)}
    assert len(names) == CATEGORIES_SHOWN and "part 9999" in names


def test_what_is_no_number_is_not_known(record: RunRecord) -> None:
    odd = with_categories(record, [kept("a", math.nan, math.inf), kept("b", 0.9, -math.inf), kept("c", None)])
    row = by_name(odd)["int8"]
    assert (row["worst_category"], row["kept"], row["kept_low"]) == ("b", 0.9, None)
    cells = {cell.name: cell for cell in category_cells(odd) if cell.model == 1}
    assert cells["a"].kept is None and cells["a"].kept_low is None

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    text = run_detail(odd).model_dump_json()
    assert json.loads(text, parse_constant=refuse)["models"][1]["categories"][0]["category"] == "b"


def test_an_invalid_speed_is_not_told(record: RunRecord) -> None:
    rows = list(record.rows)
    measurement = rows[1].measurement
    assert measurement is not None
    points = [one.model_copy(update={"invalid": "counters disagree"}) for one in measurement.serving.load_points]
    serving = measurement.serving.model_copy(update={"load_points": points})
    rows[1] = rows[1].model_copy(update={"measurement": measurement.model_copy(update={"serving": serving})})
    row = by_name(record.model_copy(update={"rows": rows}))["int8"]
    assert row["tokens_per_second"] is row["concurrency"] is row["ttft_p95_seconds"] is None


def test_a_run_without_measurements_has_its_rows(tmp_path: Path) -> None:
    bare = RunRecord(
        run_id="20260101T000000-bare-000000",
        run_dir=tmp_path,
        started_at=WRITTEN,
        config={"name": "bare", "methods": {"int8": {"method": "bnb_int8"}}, "source": {"kind": "hub", "id": "a/b"}},
        machine=MachineRecord(
            device="cpu", device_name="a CPU", fast_bfloat16=False, cpu_flags=[], threads=1, memory_bytes=1 << 30
        ),
        rows=[Row(name="baseline", method="none", failure="prepare: the disk is full"), Row(name="int8", method="rtn")],
        outcomes=[],
        breakdown=time_breakdown([], 1.0),
    )
    row = run_row(bare)
    assert (row["source"], row["suite"], row["recommended"]) == ("a/b", None, None)
    models = columns(Models, model_rows(bare))
    assert models.failure == ["prepare: the disk is full", None] and models.verdict == [None, None]
    assert category_cells(bare) == []
    detail = run_detail(bare)
    assert detail.models[1].parameters == {"method": "bnb_int8"}
    assert detail.models[1].lineage[0] == ("source", "a/b")
    assert detail.slo is None


def test_an_artifact_is_traced_from_its_source_to_its_traffic(record: RunRecord) -> None:
    calibrate = outcome("calibrate", "done", 3.0)
    rows = {
        "schema_version": 1,
        "digest": "sha256:rows",
        "token_digest": "sha256:tokens",
        "source": "wikitext",
        "rows": 128,
        "tokens": 65_536,
        "seed": 7,
        "chat_template": False,
        "rejected_rows": 2,
    }
    calibrate = calibrate.model_copy(update={"result": calibrate.result.model_copy(update={"record": rows})})
    models = list(record.rows)
    artifact = models[3].artifact
    assert artifact is not None
    models[3] = models[3].model_copy(
        update={"artifact": artifact.model_copy(update={"calibration_digest": "sha256:rows"})}
    )
    traced = record.model_copy(update={"rows": models, "outcomes": [*record.outcomes, calibrate]})
    fates = {"gptq": Fate("4", ["replay-1", "gateway"])}
    detail = with_fates(run_detail(traced), traced.registered_model, fates)
    lineage = detail.models[3].lineage
    assert [what for what, _ in lineage] == sorted(
        (what for what, _ in lineage), key=["source", "data", "recipe", "engine", "bytes", "registry", "traffic"].index
    )
    told = "\n".join(which for _, which in lineage)
    assert "SmolLM2-135M-Instruct.Q4_1.gguf" in told and "sha256:c0ffee" in told
    assert "128 rows, 65,536 tokens of wikitext, seed 7" in told
    assert "entry gptq" in told and "method gptq, bits 5" in told
    assert "kernel CPUWNA16LinearKernel" in told
    assert artifact.digest in told and "109 MiB" in told
    assert ("registry", "smollm2-135m-demo, version 4") in lineage
    assert lineage[-1] == ("traffic", "replay-1, gateway")
    assert ("registry", "smollm2-135m-demo, no version") in detail.models[1].lineage
    assert detail.models[1].lineage[-1] == ("traffic", "none")
    unknown = [what for what, _ in run_detail(traced).models[3].lineage]
    assert "registry" not in unknown and "traffic" not in unknown, "while nobody knows, nothing is claimed"


def test_details_have_what_a_reader_asks_of_a_model(record: RunRecord) -> None:
    detail = run_detail(record)
    assert detail.slo == {"ttft_seconds": 1.0, "tpot_seconds": 0.2}
    nf4 = detail.models[2]
    assert nf4.warnings[0] == "bitsandbytes on CPU dequantizes each weight at each step"
    assert nf4.warnings[1].startswith("check of batching")
    assert nf4.memory_notes and nf4.flips[0].category == "arithmetic"
    assert nf4.categories[0].category == "arithmetic", "the worst first"
    assert detail.models[0].versions == {"vllm": "0.32.0"}


def test_costs_are_those_of_the_recipes_price(tmp_path: Path) -> None:
    told = {"device": "a CPU", "per_hour": 0.2, "currency": "EUR", "source": "a list", "read_on": "2026-05-01"}
    record = report_record(tmp_path, config={"name": "priced", "description": "", "price": told | {"made_up": True}})
    pricing, notices = run_pricing(record.run_id, record.config)
    assert pricing and not notices
    rows = model_rows(record, pricing=pricing)
    for row, shown in zip(record.rows, rows, strict=True):
        found = model_cost(row, pricing, 32).measured
        assert shown["cost_per_million"] == (found.cost.blended_per_million if found else None)
    data = data_of_run(record, WRITTEN)
    assert data.models.cost_per_million == [row["cost_per_million"] for row in rows]
    assert data.models.cost_per_million[0] is not None
    assert data.prices[0] and data.prices[0].made_up and data.prices[0].currency == "EUR"
    broken = report_record(tmp_path, config={"name": "priced", "description": "", "price": {"per_hour": "much"}})
    assert "cannot be read" in data_of_run(broken, WRITTEN).notices[0].text


def test_of_another_version_s_flips_no_more_and_no_longer_ones_are_taken(record: RunRecord) -> None:
    row = next(row for row in record.rows if row.characterization and row.characterization.flips)
    assert row.characterization
    endless = [flip("arithmetic", "free text", *("<" * 50_000 for _ in range(4)), -1.25)] * 500
    loss = row.characterization.model_copy(update={"flips": endless})
    rows = [one.model_copy(update={"characterization": loss}) if one is row else one for one in record.rows]
    detail = run_detail(record.model_copy(update={"rows": rows}))
    (shown,) = (model.flips for model in detail.models if model.name == row.name)
    assert len(shown) == MOST_FLIPS
    assert {len(text) for one in shown for text in (one.prompt, one.expected, one.artifact_answer)} == {1_000}
