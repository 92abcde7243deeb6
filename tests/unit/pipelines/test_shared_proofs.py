"""Batching and fairness are proved once for each kernel, and whose proof covers whom is said."""

from types import SimpleNamespace
from typing import Any

import pytest

from evals.suites.resolve import load_suite
from pipelines.planning.stages import Stage, proved_by
from pipelines.records.rows import Row, with_shared_proofs
from pipelines.report.table import build_table
from pipelines.stage_programs import serving_stage
from pipelines.stage_programs.serving_metrics import check_tags, serving_metrics
from registry.contracts import CheckRecord, MeasurementRecord, StageResult
from serving_checks.checks.config import ChecksConfig
from tests.records import check_record, measurement_record

KERNEL = "CPUWNA16LinearKernel x 120"


def measured(*outcomes: str, **serving: Any) -> MeasurementRecord:
    """With a batching and a starvation check of these outcomes; neither was made where there is none."""
    record = measurement_record("sha256:m")
    checks = [
        check_record(check, outcome) for check, outcome in zip(("batching", "starvation"), outcomes, strict=False)
    ]
    facts = {"quantization_kernel": KERNEL, "checks": checks, "scheduling_left": not outcomes}
    return record.model_copy(update={"serving": record.serving.model_copy(update=facts | serving)})


def result(record: MeasurementRecord) -> StageResult:
    return StageResult(stage="measure", record=record.model_dump(mode="json"))


def rows(**records: MeasurementRecord) -> dict[str, Row]:
    made = with_shared_proofs([Row(name=name, method="gptq", measurement=one) for name, one in records.items()])
    return {row.name: row for row in made}


def stage(proofs: Any = "kernel") -> Stage:
    return Stage("measure", "rtn", {}, proofs=proofs)


def test_a_proof_is_true_of_whoever_runs_the_same_kernel() -> None:
    proved = proved_by({"measure:gptq": result(measured("pass", "pass"))})
    assert measured().serving.proof_scope in proved
    for other in (
        {"quantization_kernel": "other"},
        {"dtype": "bfloat16"},
        {"tensor_parallel_size": 3},
        {"eager": False},
    ):
        assert measured(**other).serving.proof_scope not in proved


@pytest.mark.parametrize("outcomes", [("fail", "pass"), ("pass", "not_run"), ()])
def test_what_was_not_proved_covers_nobody(outcomes: tuple[str, ...]) -> None:
    assert proved_by({"measure:gptq": result(measured(*outcomes))}) == []


def test_an_engine_that_names_no_kernel_covers_nobody() -> None:
    assert proved_by({"measure:gptq": result(measured("pass", "pass", quantization_kernel=None))}) == []


def test_a_measurement_without_proofs_is_kept_while_another_s_covers_it() -> None:
    left = result(measured())
    covering = {"measure:gptq": result(measured("pass", "pass"))}
    assert stage().is_answered_by(left, covering)
    assert not stage().is_answered_by(left, {})
    assert not stage("each").is_answered_by(left, covering)
    assert stage("each").is_answered_by(result(measured("pass", "fail")), {})
    assert stage(None).is_answered_by(left, {})


def test_the_row_says_on_whose_server_it_was_proved() -> None:
    found = rows(gptq=measured("pass", "pass"), rtn=measured(), nf4=measured(quantization_kernel="bitsandbytes"))
    shared = found["rtn"].serving
    assert shared is not None
    assert [(check.check, check.outcome, check.proved_on) for check in shared.checks] == [
        ("batching", "pass", "gptq"),
        ("starvation", "pass", "gptq"),
    ]
    assert shared.checks[0].reason.startswith("proved on the server of gptq, which runs the same kernel: ")
    assert found["nf4"].serving is not None
    assert found["nf4"].serving.checks == []
    assert check_tags(shared)["check.batching.reason"].startswith("proved on the server of gptq")
    # Numbers are another server's.
    assert not [name for name in serving_metrics(shared) if name.startswith("check.")]
    table = build_table(list(found.values()), load_suite("demo"))
    cells = {line[0].text: line[-1] for line in table.rows}
    assert (cells["rtn"].text, cells["rtn"].second) == ("2 of 2", "2 on gptq")
    assert cells["nf4"].text == "–"


def test_the_shared_proofs_stand_before_what_was_proved_of_the_model_itself() -> None:
    sharding = CheckRecord(check="sharding", outcome="pass", reason="split")
    found = rows(gptq=measured("pass", "pass"), rtn=measured(checks=[sharding]))["rtn"].serving
    assert found is not None
    assert [check.check for check in found.checks] == ["batching", "starvation", "sharding"]
    assert found.proves is None


@pytest.mark.parametrize(("proved_before", "made"), [(True, []), (False, ["batching"])])
def test_a_server_is_asked_only_where_none_that_is_alike_was(
    proved_before: bool, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_stage, "prove_scheduling", lambda server, config: [check_record("batching")])
    served = measured(scheduling_left=False).serving
    other = measured("pass", "pass", **({} if proved_before else {"quantization_kernel": "other"}))
    job: Any = SimpleNamespace(checks=ChecksConfig(), proved=proved_by({"measure:gptq": result(other)}))
    server: Any = SimpleNamespace(suspended_seconds=0.0)
    record, checks = serving_stage._scheduling(job, server, served)
    assert ([check.check for check in checks], record.scheduling_left) == (made, proved_before)
