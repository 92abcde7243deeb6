"""A baseline that is not sound stops the run, and is told as the baseline's fault; no engine is involved."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evals.suites.resolve import load_suite
from pipelines.execution import run as runs
from pipelines.execution import stage_work
from pipelines.execution.baseline import MOST_KL_NATS, check_served
from pipelines.execution.recording import Ended, Recorder
from pipelines.execution.run import execute_run
from pipelines.execution.workspace import Workspace
from pipelines.planning.context import JobContext
from pipelines.planning.open_run import OpenRun
from pipelines.planning.stages import stages_of
from pipelines.records.run_record import RunRecord
from pipelines.report.summary import sentences
from registry.contracts import PromptAgreement, SoundnessCheck, TokenAgreementRecord
from tests.unit.pipelines.report_records import report_record, report_rows
from tests.unit.pipelines.test_report import page_of, printed
from tests.unit.pipelines.test_run import FakeMlflow, Silent, finished
from tests.unit.pipelines.test_runner import FINGERPRINTS, INT8, MACHINE, run_config

pytestmark = pytest.mark.slow  # whole runs

ROOT = Path(__file__).resolve().parents[3]

EXPECTED = {"task": "demo_knowledge", "score": 0.64, "tolerance": 0.05, "source": "a model card"}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("QUANTBENCH_FAKE_LOG", str(tmp_path / "executed.log"))
    monkeypatch.setattr(stage_work, "STAGE_MODULES", dict.fromkeys(stage_work.STAGE_MODULES, "tests.fake_stages"))
    monkeypatch.setattr(runs, "check_rules", lambda *_: None)
    monkeypatch.setattr(runs, "import_ahead", lambda: None)
    monkeypatch.setattr(Recorder, "start", lambda self: None)
    monkeypatch.setattr(Recorder, "record", lambda *_: Ended("nowhere"))
    found = Workspace(tmp_path / "workspace")
    found.create()
    return found


def ran(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, behaviours: dict[str, str], **changes: Any) -> RunRecord:
    monkeypatch.setenv("QUANTBENCH_FAKE", json.dumps(behaviours))
    config = run_config(methods={"int8": INT8}, fork_servers=False, **changes)
    context = JobContext(config, MACHINE, load_suite("demo"), [])
    stages = stages_of(config, MACHINE, FINGERPRINTS)
    return execute_run(OpenRun(context, stages, datetime.now(UTC), time.monotonic()), workspace, Silent())


def how(record: RunRecord) -> dict[str, str]:
    return {outcome.name: outcome.how for outcome in record.outcomes}


ARTIFACT_SKIPPED = {"quantize:int8": "skipped", "inspect:int8": "skipped", "measure:int8": "skipped"}


@pytest.mark.parametrize("behaviour", ["beginning", "die"])
def test_an_unsound_checkpoint_is_neither_served_nor_quantized(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, behaviour: str
) -> None:
    record = ran(workspace, monkeypatch, {"soundness": behaviour})
    assert how(record) == {"prepare": "done", "soundness": "failed", "measure:baseline": "skipped", **ARTIFACT_SKIPPED}
    assert record.exit_code == 3
    baseline, int8 = record.rows
    assert baseline.failure is not None
    assert baseline.failure.startswith("soundness: ")
    assert (int8.failure, int8.blocked_by, int8.verdict, int8.sound) == (None, "soundness", None, None)
    assert sentences(record.rows)[-1].text == "was not made, since soundness failed"
    if behaviour == "beginning":
        assert "the baseline is not sound, and everything would be compared with it: beginning: " in baseline.failure
        again = ran(workspace, monkeypatch, {})
        assert how(again)["soundness"] == "failed", "what was found is kept, and judged anew"
        assert again.rows[0].failure == baseline.failure


def test_an_engine_that_computes_another_model_stops_the_run(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = ran(workspace, monkeypatch, {"measure-baseline": "other logits"})
    assert how(record) == {"prepare": "done", "soundness": "done", "measure:baseline": "failed", **ARTIFACT_SKIPPED}
    baseline, int8 = record.rows
    assert baseline.failure is not None
    assert "vllm (float32) beside transformers (float32) on 1 tokens: KL divergence" in baseline.failure
    assert [check.name for check in baseline.soundness] == ["finite", "language", "beginning", "answers", "served"]
    assert (int8.failure, int8.blocked_by, int8.verdict) == (None, "measure:baseline", None)


def test_a_published_score_that_is_missed_stops_the_run(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = EXPECTED | {"task": "knowledge", "score": 0.4}
    record = ran(workspace, monkeypatch, {}, expect=[expected])
    assert how(record)["measure:baseline"] == "failed"
    (failure,) = (one.result.failure for one in record.outcomes if one.how == "failed")
    assert failure is not None
    assert (
        "BASELINE MISMATCH: knowledge acc is 1 ± 0.05 over 20 items, expected 0.4 ± 0.05 (a model card)" in failure.what
    )
    # What was measured is kept: another expectation measures nothing anew.
    again = ran(workspace, monkeypatch, {}, expect=[expected | {"score": 0.97}])
    assert how(again)["measure:baseline"] == "reused"
    assert (again.exit_code, again.rows[0].soundness[-1].outcome) == (0, "pass")
    assert again.rows[1].retention is not None


def test_an_artifact_that_could_not_be_measured_beside_a_baseline_that_died_is_not_to_blame(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = {"suite": "demo", "adaptive": True}
    record = ran(workspace, monkeypatch, {"measure-baseline": "die"}, evaluation=evaluation)
    assert how(record) == {
        "prepare": "done",
        "soundness": "done",
        "measure:baseline": "failed",
        "quantize:int8": "done",
        "inspect:int8": "done",
        "measure:int8": "skipped",
    }
    int8 = record.rows[1]
    assert (int8.failure, int8.blocked_by, int8.verdict) == (None, "measure:baseline", None)
    assert sentences(record.rows)[-1].text == "was made and not measured, since measure:baseline failed"


def agreement(kl_nats: float) -> TokenAgreementRecord:
    worst = PromptAgreement(text="The harbour was quiet", positions=50, top1_agreement=0.5, kl_nats=2 * kl_nats)
    return TokenAgreementRecord(
        prompts_digest="sha256:p",
        positions=1600,
        top_logprobs=20,
        top1_agreement=0.97,
        top1_stderr=0.01,
        kl_nats=kl_nats,
        kl_stderr=None,
        kl_p99_nats=kl_nats,
        unseen_share=0.1,
        prompts=[worst],
    )


def test_the_tolerance_is_that_of_the_coarser_dtype() -> None:
    between = (MOST_KL_NATS["float32"] + MOST_KL_NATS["bfloat16"]) / 2
    assert check_served(agreement(between), "float32", "bfloat16", "vllm").outcome == "pass"
    found = check_served(agreement(between), "float32", "float32", "vllm")
    assert found.outcome == "fail"
    assert "worst at 'The harbour was quiet'" in found.detail
    assert "artifact" not in found.detail + found.remedy


def test_page_and_console_show_what_was_asked_of_the_baseline(tmp_path: Path) -> None:
    rows = report_rows()
    doubt = SoundnessCheck(name="language", outcome="warn", detail="a guess has 512 <b>", remedy="see the weights")
    checks = [SoundnessCheck(name="finite", outcome="pass", detail="all logits are finite"), doubt]
    rows[0] = rows[0].model_copy(update={"soundness": checks})
    record = report_record(tmp_path, rows=rows)
    page = page_of(record)
    assert "<td>finite</td><td>all logits are finite</td>" in page
    assert "a guess has 512 &lt;b&gt; See the weights." in page
    assert "baseline is doubtful: a guess has 512 <b>" in printed(record, 160)


def test_mlflow_is_told_of_the_baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.stage_programs.record import _record_row

    rows, mlflow = report_rows(), FakeMlflow()
    checks = [
        SoundnessCheck(name="expected", outcome="fail", detail="BASELINE MISMATCH", remedy="mend it"),
        SoundnessCheck(name="expected", outcome="pass", detail="as published"),
    ]
    row = rows[0].model_copy(update={"soundness": checks, "checkpoint": None})
    blocked = rows[1].model_copy(update={"measurement": None, "artifact": None, "blocked_by": "soundness"})
    handed = finished(report_record(tmp_path, rows=[row, blocked]), 0.0)
    for one in (row, blocked):
        _record_row(None, mlflow, SimpleNamespace(run_id="parent"), one, "m", handed)  # type: ignore[arg-type]
    assert mlflow.runs["baseline"].tags["soundness.expected"] == "fail"
    assert mlflow.runs[blocked.name].tags["quantbench.sound"] == "unknown"
