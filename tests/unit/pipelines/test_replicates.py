"""The baseline asked in an artifact's own dtype, and several artifacts of one recipe: planned, carried out and told."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from evals.statistics.spread import spread_of
from evals.suites.resolve import load_suite
from pipelines.execution.jobs import job_of
from pipelines.execution.run import execute_run
from pipelines.execution.workspace import Workspace
from pipelines.planning.context import JobContext
from pipelines.planning.open_run import OpenRun
from pipelines.planning.stages import Stage, stages_of
from pipelines.recipe.run_config import RunConfig
from pipelines.records.rows import Row, worst_verdict
from pipelines.report.dtype_cost import dtype_costs
from pipelines.report.spread import of_these_bytes_only, spreads
from pipelines.stage_programs.measure import MeasureJob
from quantizers.calibration.config import CalibrateJob
from registry.contracts import ObjectRef, StageResult
from tests.records import checkpoint_record
from tests.unit.pipelines.loss_records import retention
from tests.unit.pipelines.report_records import measurement, report_record, report_rows
from tests.unit.pipelines.test_report import page_of
from tests.unit.pipelines.test_run import Silent
from tests.unit.pipelines.test_runner import FINGERPRINTS, GPTQ, INT8, MACHINE, run_config
from tests.unit.pipelines.test_soundness import workspace

__all__ = ["workspace"]

FAST = MACHINE.model_copy(update={"fast_bfloat16": True})


def planned(config: RunConfig, machine: object = FAST) -> dict[str, Stage]:
    return {stage.name: stage for stage in stages_of(config, machine, FINGERPRINTS)}  # type: ignore[arg-type]


def test_a_replicate_has_a_seed_of_its_own_and_changes_no_key_of_the_first() -> None:
    once, thrice = planned(run_config()), planned(run_config(replicates={"gptq": 3}))
    assert list(thrice)[: len(once)] == list(once)
    assert {name: thrice[name] for name in once} == once
    assert list(thrice)[len(once) :] == [
        f"{kind}:{subject}+{number}"
        for number in (2, 3)
        for kind, subject in (
            ("calibrate", "replicate"),
            ("quantize", "gptq"),
            ("inspect", "gptq"),
            ("measure", "gptq"),
        )
    ]
    calibrations = ["calibrate", "calibrate:replicate+2", "calibrate:replicate+3"]
    assert [thrice[name].config["calibration"]["seed"] for name in calibrations] == [0, 1, 2]
    assert thrice["quantize:gptq+3"].inputs["calibration"] == "calibrate:replicate+3"
    assert thrice["quantize:gptq+3"].config == thrice["quantize:gptq"].config


def test_methods_with_fewer_replicates_stop_earlier() -> None:
    methods = {"a": GPTQ, "b": GPTQ, "c": GPTQ}
    names = planned(run_config(methods=methods, replicates={"a": 3, "b": 2}))
    assert [name for name in names if name.startswith("quantize")] == [
        f"quantize:{name}" for name in ("a", "b", "c", "a+2", "b+2", "a+3")
    ]


@pytest.mark.parametrize(
    ("replicates", "said"),
    [
        ({"gtpq": 2}, "names gtpq, which is no entry of `methods`: int8, gptq"),
        ({"int8": 2}, "would all be the same bytes: bnb_int8 looks at no calibration"),
        ({"gptq": 1}, "greater than or equal to 2"),
        ({"gptq": 10**6}, "less than or equal to 20"),
        ({"gptq+2": 2}, "should match pattern"),
    ],
)
def test_replicates_that_mean_nothing_are_refused(replicates: dict[str, int], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        run_config(replicates=replicates)


def test_the_baseline_is_asked_in_the_dtype_of_the_first_artifact_that_has_another() -> None:
    names = planned(run_config(methods={"a": GPTQ, "b": GPTQ, "int8": INT8}), MACHINE)
    assert [name for name in names if name.startswith("measure")] == [
        "measure:baseline",
        "measure:int8",
        "measure:baseline+bfloat16",
        "measure:a",
        "measure:b",
    ]
    other = names["measure:baseline+bfloat16"]
    assert (other.dtype, other.inputs) == ("bfloat16", {"model": "prepare"})
    assert (other.config["load"], other.config["checks"]) == (None, None)
    assert not any("+" in name for name in planned(run_config()))


def test_the_jobs_of_a_replicate_calibrate_anew_and_load_nothing(tmp_path: Path) -> None:
    config = run_config(replicates={"gptq": 2})
    stages = planned(config)
    context = JobContext(config, FAST, load_suite("demo"), [])
    workspace = Workspace(tmp_path)
    workspace.create()

    def made(kind: str) -> StageResult:
        with workspace.store.staging() as folder:
            (folder / "content").write_text(kind)
            stored = workspace.store.put(folder)
        record = checkpoint_record(stored.digest).model_dump(mode="json") if kind == "prepare" else {}
        return StageResult(stage=kind, record=record, object=ObjectRef(digest=stored.digest, size_bytes=1))

    results = {name: made(stage.kind) for name, stage in stages.items()}

    def job(name: str) -> object:
        return job_of(stages[name], context, results, workspace.store, tmp_path / "r", tmp_path / "o", tmp_path / "l")

    calibrate, first, second = job("calibrate:replicate+2"), job("measure:gptq"), job("measure:gptq+2")
    assert isinstance(calibrate, CalibrateJob)
    assert calibrate.config == config.calibration.model_copy(update={"seed": 1})
    assert isinstance(first, MeasureJob)
    assert isinstance(second, MeasureJob)
    assert (first.load, first.checks) == (config.load, config.checks)
    assert (second.load, second.checks) == (None, None)


@pytest.mark.slow
def test_a_run_compares_with_both_baselines_and_tells_what_lies_between(
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("QUANTBENCH_FAKE", json.dumps({}))
    config = run_config(methods={"int8": INT8, "gptq": GPTQ}, fork_servers=False, replicates={"gptq": 2})
    context = JobContext(config, MACHINE, load_suite("demo"), [])
    stages = stages_of(config, MACHINE, FINGERPRINTS)
    record = execute_run(OpenRun(context, stages, datetime.now(UTC), time.monotonic()), workspace, Silent())
    rows = {row.name: row for row in record.rows}
    assert list(rows) == ["baseline", "int8", "baseline+bfloat16", "gptq", "gptq+2"]
    assert rows["int8"].quantization is None
    assert rows["gptq"].retention
    assert rows["gptq"].quantization
    assert rows["gptq"].quantization.baseline_digest == rows["gptq"].retention.baseline_digest
    assert rows["baseline+bfloat16"].retention
    assert rows["baseline+bfloat16"].quantization is None
    assert worst_verdict([row for row in record.rows if row.name != "int8"]) == rows["gptq"].verdict
    assert record.page
    page = record.page.read_text()
    assert "gptq+2" in page
    assert "What the dtype costs" in page


def with_replicates() -> list[Row]:
    rows = report_rows()
    first = next(row for row in rows if row.name == "gptq")
    second = first.model_copy(update={"name": "gptq+2", "retention": retention("nf4")})
    return [*rows, second]


def test_the_spread_between_artifacts_stands_beside_the_interval_within_one() -> None:
    lines = {line.category: line for line in spreads(with_replicates())}
    assert {line.entry for line in lines.values()} == {"gptq"}
    knowledge = lines["knowledge"]
    # 0.54 x (0.93 - 1) and 0.54 x (0.91 - 1), in points.
    assert knowledge.differences == ["−3.8", "−4.9"]
    assert knowledge.between == "0.8"
    assert knowledge.within == f"{1.96 * 0.04 * 54:.1f}"
    assert lines["language"].scale == "%"
    assert spreads(report_rows()) == []


def test_an_interval_for_one_more_is_printed_where_it_can_be_believed() -> None:
    rows = with_replicates()
    first, second = rows[-1], next(row for row in rows if row.name == "gptq")

    def expected(*more: Row) -> str:
        named = [row.model_copy(update={"name": f"gptq+{number}"}) for number, row in enumerate(more, 2)]
        return next(line for line in spreads([*report_rows(), *named]) if line.category == "knowledge").expected

    assert expected(first) == "3 artifacts tell"
    assert expected(second, second) == "alike: more items tell"
    # −3.8, −3.8, −4.9: mean −4.14, s = 0.62; 4.303 x 0.62 x sqrt(4/3) = 3.1.
    assert expected(second, first) == "[−7.2, −1.0]"


def test_an_interval_for_one_more_ends_where_scores_do() -> None:
    rows = with_replicates()
    made = []
    for number, (name, difference) in enumerate((("gptq", -0.5), ("nf4", 0.4), ("gptq", 0.0)), 2):
        categories = [
            one.model_copy(update={"difference": difference}) if one.category == "knowledge" else one
            for one in retention(name).categories
        ]
        kept = retention(name).model_copy(update={"categories": categories})
        made.append(rows[-1].model_copy(update={"name": f"gptq+{number}", "retention": kept}))
    line = next(line for line in spreads(made) if line.category == "knowledge")
    assert line.expected == "[−54.0, +46.0]"


def test_what_was_made_once_holds_for_its_bytes_only() -> None:
    rows = [
        row.model_copy(update={"artifact": row.artifact.model_copy(update={"calibration_digest": "sha256:c"})})
        if row.artifact and row.method in ("gptq", "awq")
        else row
        for row in with_replicates()
    ]
    assert of_these_bytes_only(rows) == ["awq"]
    assert of_these_bytes_only(rows[:-1]) == ["gptq", "awq"]


def test_the_dtype_s_part_and_quantization_s_part_stand_apart(tmp_path: Path) -> None:
    rows = report_rows()
    measured = measurement("baseline", "bfloat16", 256.6)
    other = Row(name="baseline+bfloat16", method="none", measurement=measured, retention=retention("int8"))
    rows = [one.model_copy(update={"quantization": retention("nf4")}) if one.name == "gptq" else one for one in rows]
    assert dtype_costs(rows) == []
    costs = dtype_costs([*rows, other])
    assert {(cost.artifact, cost.dtype) for cost in costs} == {("gptq", "bfloat16")}
    arithmetic = next(cost for cost in costs if cost.category == "arithmetic")
    assert arithmetic.whole.startswith("−5.3 [")
    assert arithmetic.of_dtype.startswith("−0.9 [")
    assert arithmetic.of_quantization.startswith("−12.4 [")
    page = page_of(report_record(tmp_path, rows=[*rows, other, with_replicates()[-1]]))
    assert "What the dtype costs, and what quantization costs" in page
    assert "The artifact, or the method?" in page


def test_a_prediction_interval_is_that_of_the_tables() -> None:
    # Two values 0 and 2: mean 1, s = sqrt 2, t(1, 0.975) = 12.706; 12.706 x sqrt 2 x sqrt 1.5 = 22.01.
    spread = spread_of([0.0, 2.0])
    assert (spread.mean, spread.deviation) == (1.0, pytest.approx(2**0.5))
    assert (spread.low, spread.high) == (pytest.approx(-21.007, abs=1e-3), pytest.approx(23.007, abs=1e-3))


def test_a_prediction_interval_holds_the_next_one_as_often_as_it_says() -> None:
    from numpy.random import default_rng

    draws = default_rng(0).normal(size=(4000, 4))
    held = [spread_of(one[:3]).low <= one[3] <= spread_of(one[:3]).high for one in draws.tolist()]
    assert 0.94 < sum(held) / len(held) < 0.96
