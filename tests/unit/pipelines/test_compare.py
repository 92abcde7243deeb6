"""`quantbench compare`: any two measured models, verdicts as exit codes, and clear words for what does not compare."""

import json
import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evals.samples import SAMPLES_FILE, Sample, write_samples
from pipelines.cli import main
from pipelines.cli import run as run_command
from pipelines.execution import recipe_call
from pipelines.execution.workspace import Workspace
from registry.contracts import MeasurementRecord, ObjectRef, StageResult
from registry.sealed import write_sealed
from registry.stage_cache import CacheEntry, StageKey
from tests.records import CONDITIONS, artifact_record, measurement_record
from tests.unit.pipelines.report_records import SUITE, outcome, report_record, report_rows
from tests.unit.pipelines.test_runner import run_config

ITEMS = 600
SUITE_FILE = """\
name: demo
version: "1"
description: one category
categories:
  - {name: knowledge, description: facts, tasks: [demo_knowledge], metric: acc, chance: 0.25, margin: 0.05}
"""
WRONG = {"baseline": 0, "same": 0, "near": 25, "far": 120}
"""Items of which the baseline's right answer turns wrong."""
DIGESTS = {"baseline": "b0b0b0", "same": "5a5a5a", "near": "9e9e9e", "far": "fafafa"}


def samples(wrong: int) -> list[Sample]:
    return [
        Sample(
            task="capitals",
            category="knowledge",
            filter="none",
            metric="acc",
            doc_id=item,
            doc_hash=f"d{item}",
            prompt_hash=f"p{item}",
            sent_hash=f"s{item}",
            target_hash=f"t{item}",
            score=float(wrong <= item < 480),
            prompt=f"Capital {item}?\x1b[2J",
            target="Rome",
            prompt_tokens=8 + item % 5,
            log_likelihoods=[-1.0, -2.0],
            answer="Rome",
        )
        for item in range(ITEMS)
    ]


def measured(workspace: Workspace, name: str, suite_digest: str = "sha256:s", **changes: Any) -> StageResult:
    record = measurement_record(f"sha256:{DIGESTS[name]}{'0' * 58}")
    update = {"samples_file": SAMPLES_FILE, "suite_digest": suite_digest} | changes
    record = record.model_copy(update={"evaluation": record.evaluation.model_copy(update=update)})
    with workspace.store.staging() as staging:
        write_samples(staging / SAMPLES_FILE, samples(WRONG[name]))
        (staging / "name.txt").write_text(f"{name} {suite_digest}")
        reference: ObjectRef = workspace.store.put(staging)
    result = StageResult(stage="measure", record=record.model_dump(mode="json"), object=reference)
    config = {"suite": suite_digest, "evaluation": result.record["evaluation"] if result.record else None}
    key = StageKey(stage="measure", stage_version=1, config=config, inputs={"m": name}, libraries={})
    workspace.cache.put(key, f"measure:{name}", result)
    return result


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path / "workspace")
    workspace.create()
    suite = tmp_path / "suite.yaml"
    suite.write_text(SUITE_FILE)
    run_dir = workspace.new_run_dir("test")
    results = {name: measured(workspace, name) for name in WRONG}
    outcomes = [
        outcome(f"measure:{name}", "done", 1.0).model_copy(update={"result": result})
        for name, result in results.items()
    ]
    outcomes.append(outcome("measure:awq", "skipped", 0.0))
    config = {"name": "test", "description": "", "evaluation": {"suite": str(suite)}}
    record = report_record(run_dir, outcomes=outcomes, config=config)
    write_sealed(run_dir / "result.json", record)
    return workspace


def said(workspace: Workspace, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["compare", *arguments, "--workspace", str(workspace.root)])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("artifact", "code", "verdict"), [("same", 0, "pass"), ("far", 1, "fail"), ("near", 4, "inconclusive")]
)
def test_the_verdict_is_the_exit_code(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], artifact: str, code: int, verdict: str
) -> None:
    found, text, _ = said(workspace, capsys, "baseline", artifact)
    assert found == code
    assert f"{artifact} against baseline: {verdict}" in text
    assert "knowledge" in text
    assert "−5 points" in text
    assert "by prompt length" in text
    assert "\x1b" not in text


def test_any_two_artifacts_by_name_or_digest(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = said(workspace, capsys, "far", "sha256:5a5a", "--json")
    assert code == 0
    found = json.loads(text)
    assert (found["baseline"], found["artifact"]) == ("far", "model 5a5a5a000000")
    (category,) = found["retention"]["categories"]
    assert category["difference"] == pytest.approx(120 / ITEMS)
    assert category["margin"] == 0.05
    assert [one["by"] for one in found["characterization"]["breakdowns"]] == [
        "category",
        "prompt length",
        "answer type",
    ]


def test_a_digest_is_shown_with_the_name_of_its_artifact(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    record = artifact_record(f"sha256:{DIGESTS['far']}{'0' * 58}", name="gptq")
    key = StageKey(stage="quantize", stage_version=1, config={}, inputs={}, libraries={})
    workspace.cache.put(key, "quantize:gptq", StageResult(stage="quantize", record=record.model_dump(mode="json")))
    _, text, _ = said(workspace, capsys, "baseline", "fafa")
    assert "gptq fafafa000000 against baseline: fail" in text


def test_margins_of_another_suite(workspace: Workspace, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    wide = tmp_path / "wide.yaml"
    wide.write_text(SUITE_FILE.replace("margin: 0.05", "margin: 0.5"))
    assert said(workspace, capsys, "baseline", "far", "--suite", str(wide))[0] == 0


def test_a_suite_that_lacks_a_measured_category_gives_no_margin(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(SUITE_FILE.replace("name: knowledge", "name: facts"))
    code, _, text = said(workspace, capsys, "baseline", "far", "--suite", str(other))
    assert code == 2
    assert "has no category knowledge, which both were measured on: no margin is known" in text
    assert "it has facts" in text


def test_a_wrong_name_gets_the_near_ones(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, text = said(workspace, capsys, "baselin", "far")
    assert code == 2
    assert "no measured model is called 'baselin'" in text
    assert "did you mean baseline?" in text
    code, _, text = said(workspace, capsys, "baseline", "zzz")
    assert code == 2
    assert "measured are: baseline, same, near, far, awq" in text


def test_an_artifact_that_was_not_measured_says_why(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, text = said(workspace, capsys, "baseline", "awq")
    assert code == 2
    assert "awq was not measured in the last run: inspect:awq: the artifact did not pass" in text


def test_an_ambiguous_digest(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, text = said(workspace, capsys, "baseline", "sha256:")
    assert code == 2
    assert "no measured model is called 'sha256:'" in text
    DIGESTS["twin"], WRONG["twin"] = "fafab0", 1
    try:
        measured(workspace, "twin")
    finally:
        del DIGESTS["twin"], WRONG["twin"]
    code, _, text = said(workspace, capsys, "baseline", "fafa")
    assert code == 2
    assert "2 measured models have digest fafa" in text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"suite_digest": "sha256:other"}, "were both measured on suite demo, version 2, but with other items, limits"),
        (
            {"suite_digest": "sha256:other", "suite": "core", "suite_version": "3"},
            "baseline was measured on suite demo, version 2, model fafafb000000 on suite core, version 3",
        ),
    ],
)
def test_other_questions_do_not_compare(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], expected: str
) -> None:
    DIGESTS["other"], WRONG["other"] = "fafafb", 1
    try:
        measured(workspace, "other", **changes)
    finally:
        del DIGESTS["other"], WRONG["other"]
    code, _, text = said(workspace, capsys, "baseline", "fafafb")
    assert code == 2
    assert expected in text


def test_of_several_measurements_the_comparable_one_is_taken(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    measured(workspace, "far", suite_digest="sha256:newer")
    assert said(workspace, capsys, "baseline", "fafafa")[0] == 1


def test_what_was_asked_otherwise_does_not_compare(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    short = CONDITIONS.model_copy(update={"max_model_len": 16})
    DIGESTS["short"], WRONG["short"] = "cccccc", 1
    try:
        measured(workspace, "short", conditions=short)
        code, _, text = said(workspace, capsys, "baseline", "cccc")
        assert code == 2
        assert "were not asked alike: context length 512 and 16" in text
        measured(workspace, "short")
        assert said(workspace, capsys, "baseline", "cccc")[0] == 0, "the one that was asked alike is taken"
    finally:
        del DIGESTS["short"], WRONG["short"]


def test_a_suite_that_is_gone_or_changed(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text(SUITE_FILE.replace('version: "1"', 'version: "99"').replace("name: demo", "name: mine"))
    for name in ("baseline", "far"):
        measured(workspace, name, suite="mine", suite_version="98")
    code, _, text = said(workspace, capsys, "b0b0", "fafa")
    assert code == 2
    assert "suite mine, version 98, that both were measured on is not there" in text
    assert "--suite" in text


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_damaged_samples(workspace: Workspace, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    for path in (workspace.root / "store" / "objects").glob(f"*/{SAMPLES_FILE}"):
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-4] + b"oops")
    code, _, text = said(workspace, capsys, "baseline", "far")
    assert code == 3
    assert f"{SAMPLES_FILE}: {'missing' if damage == 'gone' else 'changed'}" in text
    assert "remedy: run the recipe again" in text


def test_a_damaged_run_record(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (path,) = workspace.root.glob("runs/*/result.json")
    earlier = workspace.root / "runs" / "earlier"
    earlier.mkdir()
    (earlier / "result.json").write_bytes(path.read_bytes())
    os.utime(earlier / "result.json", (0, 0))
    fields = json.loads(path.read_text())
    fields["rows"][0]["measurement"]["evaluation"]["categories"][0]["value"] = 0.99
    path.write_text(json.dumps(fields))
    with caplog.at_level(logging.WARNING):
        assert said(workspace, capsys, "baseline", "far")[0] == 1
    assert (
        f"{path} is damaged: its checksum is not that of its content; names are those of the run before" in caplog.text
    )
    (earlier / "result.json").write_bytes(b"{\xff")
    margins = ("--suite", str(workspace.root.parent / "suite.yaml"))
    assert said(workspace, capsys, "b0b0", "fafa", *margins)[0] == 1  # digests need no run
    code, _, text = said(workspace, capsys, "baseline", "far")
    assert code == 2
    assert "measured are: " in text


def test_an_empty_workspace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, text = said(Workspace(tmp_path / "nothing"), capsys, "baseline", "int8")
    assert code == 2
    assert "nothing is measured in this workspace" in text
    assert not (tmp_path / "nothing").exists()


class SilentConsole:
    def __init__(self, run: object) -> None: ...
    def __enter__(self) -> "SilentConsole":
        return self

    def __exit__(self, *error: object) -> None: ...


@pytest.mark.parametrize(
    ("rows", "outcomes", "required", "expected"),
    [
        (slice(0, 2), "done", True, 0),
        (slice(0, 4), "done", True, 1),
        (slice(0, 4), "done", False, 0),
        (slice(0, 1), "done", True, 4),
        (slice(0, 2), "failed", True, 3),
    ],
    ids=["pass", "fail", "not asked", "nothing judged", "a stage failed"],
)
def test_require_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: slice, outcomes: str, required: bool, expected: int
) -> None:
    from registry.contracts import Failure

    failure = Failure(what="it broke", remedy="mend it") if outcomes == "failed" else None
    record = report_record(tmp_path, rows=report_rows()[rows], outcomes=[outcome("prepare", outcomes, 1.0, failure)])
    run = SimpleNamespace(context=SimpleNamespace(config=run_config(), suite=SUITE))
    monkeypatch.setattr(recipe_call, "read_recipe", lambda *arguments: run_config())
    monkeypatch.setattr(recipe_call, "opened", lambda *arguments: run)
    monkeypatch.setattr(recipe_call, "execute_run", lambda *arguments: record)
    monkeypatch.setattr(run_command, "RunConsole", SilentConsole)
    arguments = ["run", "recipe.yaml", "--workspace", str(tmp_path / "workspace")]
    assert main(arguments + (["--require-pass"] if required else [])) == expected


def test_plan_takes_no_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "recipe.yaml", "--require-pass"])
    assert "--require-pass" in capsys.readouterr().err


def test_measurements_of_an_older_version_are_passed_over(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    key = StageKey(stage="measure", stage_version=0, config={}, inputs={}, libraries={})
    old = StageResult(
        stage="measure", record={"model_digest": "sha256:0"}, object=ObjectRef(digest="sha256:1", size_bytes=1)
    )
    write_sealed(workspace.root / "cache" / "measure" / f"{key.digest[7:]}.json", CacheEntry(key=key, result=old))
    with pytest.raises(ValueError):
        MeasurementRecord.model_validate(old.record)
    assert said(workspace, capsys, "b0b0", "fafa")[0] == 1
