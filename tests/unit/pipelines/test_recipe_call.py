"""What schedulers see of `quantbench run`: one line, an exit code, and no work where there is none.

Stages and the recorder are stand-ins in this process; comparisons are the real ones.
"""

import fcntl
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from configs.errors import StageError
from pipelines.cli import main
from pipelines.execution import comparison, recipe_call, recording, stage_work
from pipelines.execution import run as runs
from pipelines.execution.recipe_call import RecipeCall
from pipelines.execution.workspace import Workspace
from pipelines.planning.context import JobContext
from pipelines.planning.open_run import OpenRun
from pipelines.planning.stages import stages_of
from pipelines.recipe.run_config import RunConfig
from pipelines.records.run_outcome import RunOutcome
from pipelines.records.run_record import RESULT_FILE, RunRecord
from registry.sealed import read_sealed, write_sealed
from tests.architecture.test_imports import HEAVY
from tests.unit.pipelines.loss_records import SUITE
from tests.unit.pipelines.test_full_disk import NoProcess, in_process
from tests.unit.pipelines.test_runner import FINGERPRINTS, INT8, MACHINE, run_config

pytestmark = pytest.mark.slow


class Lab:
    """`quantbench run` on one workspace, of a recipe that a test may change."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.root, self._capsys, self._monkeypatch = root, capsys, monkeypatch
        self.log = root.parent / "executed.log"
        monkeypatch.setenv("QUANTBENCH_FAKE_LOG", str(self.log))
        monkeypatch.delenv("QUANTBENCH_FAKE", raising=False)
        monkeypatch.setattr(stage_work, "run_job", in_process)
        monkeypatch.setattr(runs, "check_rules", lambda *_: None)
        monkeypatch.setattr(recording, "Supervised", NoProcess)
        monkeypatch.setattr(recipe_call, "read_recipe", lambda *_: self.config)
        monkeypatch.setattr(recipe_call, "opened", self._opened)
        self.config = run_config(methods={"int8": INT8}, fork_servers=False)
        self.said = ""

    def _opened(self, config: RunConfig, *_: object) -> OpenRun:
        context = JobContext(config, MACHINE, SUITE, [])
        return OpenRun(context, stages_of(config, MACHINE, FINGERPRINTS), datetime(2026, 5, 1, tzinfo=UTC), 0.0)

    def __call__(self, *arguments: str) -> RunOutcome:
        """The line, which is all of stdout, and whose exit code is the command's."""
        self.log.write_text("")
        code = main(["run", "recipe.yaml", "--workspace", str(self.root), "--json-line", *arguments])
        captured = self._capsys.readouterr()
        self.said = captured.err
        (line,) = captured.out.splitlines()
        outcome = RunOutcome.model_validate_json(line)
        assert outcome.exit_code == code
        return outcome

    @property
    def executed(self) -> list[str]:
        return self.log.read_text().split()

    def change(self, **changes: Any) -> None:
        self.config = RunConfig.model_validate(self.config.model_dump(mode="json") | changes)

    def fail(self, **behaviours: str) -> None:
        told = {key.replace("_", "-"): value for key, value in behaviours.items()}
        self._monkeypatch.setenv("QUANTBENCH_FAKE", json.dumps(told))

    def last(self) -> RunRecord:
        newest = max(self.root.glob(f"runs/*/{RESULT_FILE}"), key=lambda path: path.stat().st_mtime_ns)
        return read_sealed(newest, RunRecord)

    def rewrite_last(self, **changes: Any) -> None:
        record = self.last()
        write_sealed(record.run_dir / RESULT_FILE, record.model_copy(update=changes))


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Lab:
    return Lab(tmp_path / "workspace", monkeypatch, capsys)


def test_the_first_run_and_one_that_has_nothing_to_do(lab: Lab) -> None:
    first = lab("--if-changed")
    assert (first.status, first.exit_code, first.recipe) == ("finished", 0, "test")
    assert first.stages == {"done": len(lab.executed)}
    assert first.verdicts.keys() == {"int8"} and first.verdicts["int8"]
    assert first.verdicts_before == {} and first.events == {"finished", "verdict"}
    assert first.report and first.report.is_file()
    assert "no run of this recipe came to its end here" in lab.said
    again = lab("--if-changed")
    assert (again.status, again.exit_code, again.run_id) == ("unchanged", 0, first.run_id)
    assert again.verdicts == again.verdicts_before == first.verdicts
    assert again.events == set()
    assert lab.executed == []
    assert f"unchanged: nothing to do: {first.run_id}" in lab.said
    assert len(list(lab.root.glob("runs/*"))) == 1
    # Without the option, a run that reuses everything is a run.
    plain = lab()
    assert plain.status == "finished" and set(plain.stages) == {"reused"} and plain.run_id != first.run_id
    assert plain.events == {"finished"}


def test_nothing_to_do_loads_no_engine(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds matter to a scheduler that asks every hour."""
    lab()
    for name in (*HEAVY, "scipy"):
        for loaded in [one for one in sys.modules if one == name or one.startswith(f"{name}.")]:
            monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.setitem(sys.modules, name, None)  # an import raises
    assert lab("--if-changed").status == "unchanged"


def test_what_is_something_to_do(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab()

    def assert_runs(why: str, stages: int = 0) -> None:
        outcome = lab("--if-changed")
        assert outcome.status == "finished", outcome
        assert why in lab.said.replace("\n", " ")
        assert len(lab.executed) == stages
        assert lab("--if-changed").status == "unchanged"

    lab.rewrite_last(recorded=False)
    assert_runs("is not recorded in MLflow")
    page = lab.last().page
    assert page is not None
    page.unlink()
    assert_runs("the report of its last run")
    lab.change(description="of another kind")
    assert_runs("the recipe makes something else of what is measured")
    lab.change(methods={"int8": INT8 | {"threshold": 5.0}})
    assert_runs("quantize:int8 runs: changed: config.method.threshold", 3)
    monkeypatch.setattr(comparison, "STATISTICS_VERSION", 99)
    assert_runs("int8 is compared anew")
    artifact = next(row.digest for row in lab.last().rows if row.name == "int8")
    assert artifact
    (Workspace(lab.root).store.path(artifact) / "content.txt").write_text("damaged")
    assert_runs("quantize:int8 runs: its result was damaged or removed", 1)


def test_what_shapes_nothing_is_nothing_to_do(lab: Lab) -> None:
    lab()
    lab.change(schedule={"cron": "0 3 * * 0"}, notify=[{"kind": "command", "command": ["true"]}])
    assert lab("--if-changed").status == "unchanged"


def test_a_run_that_failed_is_tried_again(lab: Lab) -> None:
    lab.fail(measure_int8="fail")
    failed = lab("--if-changed")
    assert (failed.status, failed.exit_code, failed.events) == ("failed", 3, {"failure", "verdict"})
    assert failed.why == "1 of 6 stages failed, the first was measure:int8"
    (failure,) = failed.failures
    assert (failure.stage, failure.what, failure.remedy) == (
        "measure:int8",
        "the engine gave up",
        "try another engine",
    )
    lab.fail()
    again = lab("--if-changed")
    assert again.status == "finished" and lab.executed == ["measure-int8"]
    assert "failed" in lab.said


def test_an_earlier_run_of_another_recipe_is_no_last_run(lab: Lab) -> None:
    lab()
    lab.change(name="test-2")
    outcome = lab("--if-changed")
    assert outcome.status == "finished" and "no run of this recipe came to its end here" in lab.said
    lab.change(name="test")
    assert lab("--if-changed").status == "unchanged"


def test_verdicts_have_an_exit_code_where_that_is_asked_for(lab: Lab) -> None:
    first = lab("--require-pass")
    wanted = {"pass": 0, "fail": 1, "inconclusive": 4}[str(first.verdicts["int8"])]
    assert (first.status, first.exit_code) == ("finished", wanted)
    assert wanted, "a pass would prove nothing here"
    assert lab("--require-pass", "--if-changed").exit_code == wanted
    assert lab("--if-changed").exit_code == 0


def test_a_recipe_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("version: 1\nnmae: x\n")
    assert main(["run", str(recipe), "--workspace", str(tmp_path / "w"), "--json-line"]) == 2
    captured = capsys.readouterr()
    outcome = RunOutcome.model_validate_json(captured.out)
    assert (outcome.status, outcome.exit_code, outcome.recipe, outcome.run_id) == ("refused", 2, None, None)
    (failure,) = outcome.failures
    assert failure.blame == "recipe" and failure.what and failure.remedy
    assert str(recipe) in failure.what
    assert captured.err.startswith("error: ")
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (KeyboardInterrupt(), "interrupted", 130),
        (StageError("the hub is silent", remedy="wait", blame="machine"), "failed", 3),
        (ZeroDivisionError("division by zero"), "failed", 3),
        (OSError(28, "No space left on device"), "failed", 3),
    ],
    ids=["signal", "explained", "bug", "disk"],
)
def test_what_breaks_a_run_off(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: str, code: int
) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(recipe_call, "opened", broken)
    outcome = lab()
    assert (outcome.status, outcome.exit_code, outcome.recipe) == (status, code, "test")
    assert bool(outcome.failures) == (status == "failed")
    assert "Traceback" not in lab.said


def test_another_run_of_the_recipe_is_left_to_go_on(lab: Lab) -> None:
    holder = (
        "import fcntl, os, sys; file = open(sys.argv[1], 'a+'); fcntl.flock(file, fcntl.LOCK_EX);"
        "os.write(file.fileno(), str(os.getpid()).encode()); print('held', flush=True); sys.stdin.read()"
    )
    Workspace(lab.root).create()
    command = [sys.executable, "-c", holder, str(lab.root / "test.recipe.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout and other.stdout.readline() == b"held\n"
        left = lab("--overlap", "leave", "--if-changed")
        assert (left.status, left.exit_code, left.run_id, left.events) == ("left", 0, None, set())
        assert f"left: process {other.pid} runs this recipe" in lab.said
        assert lab.executed == []
        # Another recipe is nobody's business.
        lab.change(name="another")
        assert lab("--overlap", "leave").status == "finished"
        # Killed however it may be, its lock is gone with it.
        other.kill()
    lab.change(name="test")
    assert lab("--overlap", "leave").status == "finished"


def test_another_run_of_the_recipe_is_waited_for(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    Workspace(lab.root).create()
    with (lab.root / "test.recipe.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        told, waiting = [], RecipeCall._on_wait

        def on_wait(self: RecipeCall, *what: Any) -> None:
            waiting(self, *what)
            told.append(what)
            fcntl.flock(other, fcntl.LOCK_UN)

        monkeypatch.setattr(RecipeCall, "_on_wait", on_wait)
        assert lab().status == "finished"
    assert len(told) == 1
    assert "waiting for its end" in lab.said


def test_whoever_the_recipe_names_is_told(lab: Lab, tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    write = ["/bin/sh", "-c", f"cat >> {told}"]
    lab.change(notify=[{"kind": "command", "command": write, "on": ["verdict", "failure"]}])
    first = lab()
    assert RunOutcome.model_validate_json(told.read_text()) == first
    lab()
    assert len(told.read_text().splitlines()) == 1, "the verdict is what it was"
    lab.change(methods={"int8": INT8 | {"threshold": 5.0}})
    lab.fail(quantize_int8="fail")
    lab()
    assert [json.loads(line)["status"] for line in told.read_text().splitlines()] == ["finished", "failed"]


def test_who_cannot_be_told_changes_no_outcome(lab: Lab) -> None:
    lab.change(notify=[{"kind": "command", "command": ["no-such-program"], "on": ["finished"]}])
    assert lab().exit_code == 0
    assert "`notify`: command no-such-program was not told: " in lab.said


def test_one_form_of_json_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "recipe.yaml", "--json", "--json-line"]) == 2
    assert "leave one of them out" in capsys.readouterr().err
