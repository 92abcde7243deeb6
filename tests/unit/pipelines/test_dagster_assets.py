"""What Dagster is told of a run that it started: read from the files through which its own library speaks."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster_pipes
import pytest

from pipelines.cli import main
from pipelines.execution.dagster_assets import STARTED_BY
from pipelines.rendering.schedules.dagster import ASSETS_EXTRA, VERDICT_CHECK
from tests.unit.pipelines.test_recipe_call import Lab

pytestmark = pytest.mark.slow

STAGES = ("prepare", "soundness", "measure:baseline", "quantize:int8", "inspect:int8", "measure:int8")
ASSETS = {stage: f"tiny/{stage.replace(':', '/')}" for stage in STAGES}


class Step:
    """A step of Dagster's, as the process that it starts sees it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.messages = folder, folder / "messages"
        self._monkeypatch = monkeypatch

    def begin(self, extras: Mapping[str, Any]) -> None:
        self.folder.mkdir(exist_ok=True)
        self.messages.write_text("")
        context = {
            "asset_keys": list(ASSETS.values()),
            "code_version_by_asset_key": None,
            "provenance_by_asset_key": None,
            "partition_key": None,
            "partition_key_range": None,
            "partition_time_window": None,
            "run_id": "1",
            "job_name": "tiny",
            "retry_number": 0,
            "extras": extras,
        }
        (self.folder / "context").write_text(json.dumps(context))
        for name in ("context", "messages"):
            value = dagster_pipes.encode_param({"path": str(self.folder / name)})
            self._monkeypatch.setenv(f"DAGSTER_PIPES_{name.upper()}", value)
        # A process is started once; this one is so again and again.
        self._monkeypatch.setattr(dagster_pipes.PipesContext, "_instance", None)

    def told(self, method: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.messages.read_text().splitlines()]
        return [line["params"] for line in lines if line["method"] == method]

    def metadata(self) -> dict[str, dict[str, Any]]:
        return {
            one["asset_key"]: {name: value["raw_value"] for name, value in one["metadata"].items()}
            for one in self.told("report_asset_materialization")
        }


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Lab:
    return Lab(tmp_path / "workspace", monkeypatch, capsys)


@pytest.fixture
def step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Step:
    made = Step(tmp_path / "step", monkeypatch)
    made.begin({ASSETS_EXTRA: ASSETS})
    return made


def test_each_stage_is_an_asset_with_digest_verdict_and_numbers(lab: Lab, step: Step) -> None:
    outcome = lab("--if-changed")
    assert outcome.status == "finished"
    shown = step.metadata()
    assert list(shown) == list(ASSETS.values())  # Dagster refuses an asset before those that it depends on
    rows = {row.name: row for row in lab.last().rows}
    assert all(one["how"] == "done" and one["digest"].startswith("sha256:") for one in shown.values())
    assert shown["tiny/quantize/int8"]["digest"] == rows["int8"].digest
    measured = shown["tiny/measure/int8"]
    assert measured["verdict"] == outcome.verdicts["int8"]
    (category, *_) = rows["int8"].measurement.evaluation.categories  # type: ignore[union-attr]
    assert measured[f"{category.category}.{category.metric}"] == category.value
    assert measured["peak_process_bytes"] == rows["int8"].serving.memory.peak_process_bytes  # type: ignore[union-attr]
    assert "verdict" not in shown["tiny/measure/baseline"]
    (check,) = step.told("report_asset_check")
    assert (check["asset_key"], check["check_name"]) == ("tiny/measure/int8", VERDICT_CHECK)
    assert check["passed"] == (outcome.verdicts["int8"] == "pass")
    assert [one["exception"] for one in step.told("closed") if "exception" in one] == []

    # What a run would only repeat is told as it was: the same versions of the data, of no new work.
    versions = {one["asset_key"]: one["data_version"] for one in step.told("report_asset_materialization")}
    step.begin({ASSETS_EXTRA: ASSETS})
    assert lab("--if-changed").status == "unchanged"
    assert {one["how"] for one in step.metadata().values()} == {"reused"}
    assert {one["asset_key"]: one["data_version"] for one in step.told("report_asset_materialization")} == versions
    assert len(step.told("report_asset_check")) == 1


def test_a_stage_that_fails_is_no_asset_and_told_in_the_log(lab: Lab, step: Step) -> None:
    lab.fail(quantize_int8="fail")
    assert lab().exit_code == 3
    assert list(step.metadata()) == [ASSETS[stage] for stage in STAGES[:3]]
    said = [one["message"] for one in step.told("log") if one["level"] == "ERROR"]
    assert any(text.startswith("quantize:int8 failed: ") and "; remedy: " in text for text in said)
    assert any(text.startswith("measure:int8 skipped: ") for text in said)
    assert len(step.told("closed")) == 1


@pytest.mark.parametrize(
    ("extras", "said"),
    [
        ({ASSETS_EXTRA: {**ASSETS, "measure:nf4": "tiny/measure/nf4"}}, "assets for measure:nf4, which this run does"),
        ({ASSETS_EXTRA: {stage: ASSETS[stage] for stage in STAGES[:-1]}}, "no asset for measure:int8"),
        ({}, "did not say which asset each stage is"),
    ],
)
def test_definitions_of_another_recipe_are_refused_before_work(
    extras: dict[str, Any],
    said: str,
    lab: Lab,
    step: Step,
) -> None:
    step.begin(extras)
    outcome = lab()
    assert (outcome.status, outcome.exit_code, lab.executed) == ("refused", 2, [])
    assert said in outcome.why
    assert "schedule render" in outcome.failures[0].remedy
    assert step.metadata() == {}
    assert len(step.told("closed")) == 1


def test_a_dagster_that_is_gone_is_told_at_the_beginning(
    lab: Lab,
    step: Step,
) -> None:
    (step.folder / "context").unlink()
    outcome = lab()
    assert (outcome.exit_code, lab.executed) == (2, [])
    assert "what Dagster left for this process cannot be read" in outcome.why


def test_a_dagster_that_goes_while_a_run_works_costs_the_run_nothing(
    lab: Lab,
    step: Step,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gone(*_: object) -> None:
        raise FileNotFoundError(2, "No such file or directory", str(step.messages))

    monkeypatch.setattr(dagster_pipes.PipesFileMessageWriterChannel, "write_message", _after_the_first(gone))
    assert lab().status == "finished"
    assert lab.said.count("Dagster is not told any more") == 1
    assert step.metadata() == {}


def _after_the_first(gone: Any) -> Any:
    real, calls = dagster_pipes.PipesFileMessageWriterChannel.write_message, iter(range(100))
    return lambda self, message: gone() if next(calls) else real(self, message)


def test_nonsense_in_the_variable_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(STARTED_BY, "nonsense")
    monkeypatch.setattr(dagster_pipes.PipesContext, "_instance", None)
    assert main(["run", "recipe.yaml"]) == 2
    assert f"{STARTED_BY} is set" in capsys.readouterr().err
