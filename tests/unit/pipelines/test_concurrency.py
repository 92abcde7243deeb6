"""Which stages work beside which, and that a run of them comes to what it comes to one stage at a time."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from configs.errors import RequestError
from evals.suites.resolve import load_suite
from pipelines.cli.plan import _beside
from pipelines.execution import run as runs
from pipelines.execution import stage_work
from pipelines.execution.recording import Ended, Recorder
from pipelines.execution.run import execute_run
from pipelines.execution.shared_machine import Place, SharedMachine
from pipelines.execution.workspace import Workspace
from pipelines.planning.concurrency import check_concurrency, may_be_beside, sharing_of, startable, waits_of
from pipelines.planning.context import JobContext
from pipelines.planning.device import MachineRecord, detect_machine
from pipelines.planning.open_run import OpenRun
from pipelines.planning.plan import PlannedStage
from pipelines.planning.stages import Stage, stages_of
from pipelines.recipe.run_config import RunConfig
from pipelines.records.events import WAIT_PART, StageOutcome, side_by_side, time_breakdown
from pipelines.records.run_record import RunRecord
from registry.contracts import StageResult
from registry.machine_turns import MachineTurns
from tests.unit.pipelines.test_run import Silent
from tests.unit.pipelines.test_runner import FINGERPRINTS, GPTQ, MACHINE, is_gone, run_config, wait_for
from tests.walks import take, walk_of

ROOT = Path(__file__).resolve().parents[3]
TWO_CORES = MACHINE.model_copy(update={"memory_bytes": 64 << 30})
SIXTEEN_CORES = TWO_CORES.model_copy(update={"threads": 16})
GPU = TWO_CORES.model_copy(update={"device": "cuda", "gpus": ["0"]})
MODEL_BYTES = 270 << 20


def config_of(stages: int | str = "auto", **changes: object) -> RunConfig:
    return run_config(concurrency={"stages": stages}, fork_servers=False, **changes)


@pytest.mark.parametrize(
    ("machine", "stages", "methods", "expected"),
    [
        (TWO_CORES, "auto", 2, (2, True, "computes on one thread")),
        (TWO_CORES, 2, 1, (2, True, "computes on one thread")),
        (TWO_CORES, "auto", 1, (1, False, "with one artifact")),
        (TWO_CORES, 1, 2, (1, False, "the recipe says so")),
        (TWO_CORES.model_copy(update={"threads": 1}), "auto", 2, (1, False, "one core")),
        (SIXTEEN_CORES, "auto", 2, (1, False, "computes on 15 threads")),
        (SIXTEEN_CORES, 3, 2, (3, False, "an evaluation is alone, since its server computes on 15 threads")),
        (TWO_CORES.model_copy(update={"memory_bytes": 4 << 30}), "auto", 2, (1, False, "may take")),
        (GPU, "auto", 2, (1, False, "on a GPU")),
    ],
)
def test_stages_share_a_machine_only_where_that_is_surely_faster(
    machine: MachineRecord, stages: int | str, methods: int, expected: tuple[int, bool, str]
) -> None:
    names: dict[str, object] = {f"gptq{number}": GPTQ for number in range(methods)}
    sharing = sharing_of(config_of(stages, methods=names), machine, MODEL_BYTES)
    assert (sharing.stages, sharing.evaluation) == expected[:2]
    assert expected[2] in sharing.reason


def test_nothing_is_beside_an_evaluation_on_all_cores() -> None:
    config = config_of(evaluation={"suite": "demo", "data_parallel_size": "auto"})
    assert sharing_of(config, TWO_CORES, None).evaluation, "how many servers there are is not known yet"
    sharing = sharing_of(config, TWO_CORES, MODEL_BYTES)
    assert (sharing.stages, sharing.evaluation) == (2, False)
    assert sharing.reason == "an evaluation is alone, since its 2 servers compute on all 2 cores"
    assert in_order("auto", config=config) == [
        ["prepare"],
        ["soundness"],
        ["measure:baseline"],
        ["quantize:int8", "calibrate"],
        ["inspect:int8", "calibrate"],
        ["calibrate"],
        ["quantize:gptq"],
        ["inspect:gptq"],
        ["measure:int8"],
        ["measure:baseline+bfloat16"],
        ["measure:gptq"],
    ]


def test_what_a_stage_computes_on_does_not_depend_on_what_works_beside_it() -> None:
    assert (TWO_CORES.making_threads, SIXTEEN_CORES.making_threads) == (1, 16)
    assert sharing_of(config_of(2), TWO_CORES, MODEL_BYTES).making_env == {}
    assert sharing_of(config_of(2), SIXTEEN_CORES, MODEL_BYTES).making_env == {"OMP_WAIT_POLICY": "PASSIVE"}


def test_it_is_no_part_of_any_key() -> None:
    one, two = (stages_of(config_of(stages), TWO_CORES, FINGERPRINTS) for stages in (1, 2))
    assert one == two


@pytest.mark.parametrize(("machine", "said"), [(TWO_CORES, "it has 2 cores"), (GPU, "on a GPU the memory")])
def test_more_than_a_machine_takes_is_refused(machine: MachineRecord, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        check_concurrency(config_of(3), machine)
    check_concurrency(config_of("auto"), machine)
    check_concurrency(config_of(1), machine)


def in_order(
    sharing_stages: int | str, machine: MachineRecord = TWO_CORES, config: RunConfig | None = None
) -> list[list[str]]:
    """What works together, step by step, where the stage that is first in the plan always ends first."""
    config = config or config_of(sharing_stages)
    stages, sharing = stages_of(config, machine, FINGERPRINTS), sharing_of(config, machine, MODEL_BYTES)
    waits, waiting = waits_of(stages), list(stages)
    working: list[Stage] = []
    ended: list[str] = []
    steps = []
    while waiting or working:
        begun = startable(waiting, working, ended, waits, sharing)
        waiting = [stage for stage in waiting if stage not in begun]
        working = sorted([*working, *begun], key=stages.index)
        steps.append([stage.name for stage in working])
        ended.append(working.pop(0).name)
    assert sorted(ended) == sorted(stage.name for stage in stages)
    return steps


def test_one_at_a_time_is_the_plan_s_order() -> None:
    stages = stages_of(config_of(), TWO_CORES, FINGERPRINTS)
    assert in_order(1) == [[stage.name] for stage in stages]


def test_the_next_artifact_is_made_while_one_is_measured() -> None:
    assert in_order("auto") == [
        ["prepare"],
        ["soundness"],
        ["measure:baseline", "calibrate"],
        ["quantize:int8", "calibrate"],
        ["inspect:int8", "calibrate"],
        ["measure:int8", "calibrate"],
        ["calibrate", "measure:baseline+bfloat16"],
        ["quantize:gptq", "measure:baseline+bfloat16"],
        ["inspect:gptq", "measure:baseline+bfloat16"],
        ["measure:baseline+bfloat16"],
        ["measure:gptq"],
    ]


def test_nothing_is_beside_a_measurement_whose_server_has_several_threads() -> None:
    for step in in_order(2, SIXTEEN_CORES):
        assert len(step) == 1 or not any(name.startswith("measure") for name in step)
    assert ["quantize:int8", "calibrate"] in in_order(2, SIXTEEN_CORES)


def test_the_plan_s_word_of_what_may_be_beside_what() -> None:
    stages = stages_of(config_of(), TWO_CORES, FINGERPRINTS)
    beside = may_be_beside(stages, sharing_of(config_of(), TWO_CORES, MODEL_BYTES))
    assert beside["prepare"] == beside["soundness"] == []
    assert beside["measure:baseline"] == ["calibrate"]
    assert beside["measure:int8"] == ["calibrate", "quantize:gptq", "inspect:gptq"]
    assert "measure:gptq" not in beside["measure:baseline+bfloat16"]
    assert all(name in beside[other] for name, others in beside.items() for other in others)
    alone = may_be_beside(stages, sharing_of(config_of(1), TWO_CORES, MODEL_BYTES))
    assert set(map(tuple, alone.values())) == {()}


def test_the_terminal_says_what_is_made_while_a_model_is_measured() -> None:
    beside = ["calibrate", "quantize:gptq", "inspect:gptq", "quantize:awq"]
    planned = PlannedStage(name="measure:int8", action="run", reason="", key_digest=None, beside=beside)
    assert _beside(planned) == "calibrate; making gptq, awq"
    assert _beside(planned.model_copy(update={"name": "quantize:int8"})) == ""


@pytest.mark.slow
def test_the_document_s_walk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = detect_machine("cpu")
    alike = machine.model_copy(update={"threads": 2, "memory_bytes": 64 << 30})
    monkeypatch.setattr("pipelines.planning.open_run.detect_machine", lambda wanted: alike)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    take(walk_of(ROOT / "docs" / "concurrency.md"), capsys)


def outcome(name: str, begin: float, seconds: float, evaluate: float, how: Any = "done") -> StageOutcome:
    started = datetime(2026, 5, 1, tzinfo=UTC) + timedelta(seconds=begin)
    result = StageResult(stage=name, timings_seconds={"evaluate": evaluate})
    return StageOutcome(name=name, how=how, started_at=started, wall_seconds=seconds, result=result)


def test_time_in_which_two_stages_worked_counts_once() -> None:
    outcomes = [outcome("a", 0, 10, 8), outcome("b", 4, 10, 9), outcome("c", 20, 5, 5), outcome("d", 0, 9, 0, "reused")]
    breakdown = time_breakdown(outcomes, 30.0)
    # 14 s and 5 s had work in them; 2 s of a and 1 s of b were their own.
    assert breakdown.own_seconds == pytest.approx(30 - 19 + 3)
    assert side_by_side(outcomes) == {"a": ["b"], "b": ["a"], "c": []}


class Watched(Silent):
    def __init__(self) -> None:
        self.ended: list[str] = []

    def on_outcome(self, ended: StageOutcome, rows: object) -> None:
        assert threading.current_thread() is threading.main_thread()
        self.ended.append(ended.name)


class Lab:
    """A workspace, and runs of stages as stand-ins in it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.turns, self._monkeypatch = folder / "executed.turns", monkeypatch
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        monkeypatch.setenv("QUANTBENCH_FAKE_LOG", str(folder / "executed.log"))
        monkeypatch.setattr(stage_work, "STAGE_MODULES", dict.fromkeys(stage_work.STAGE_MODULES, "tests.fake_stages"))
        monkeypatch.setattr(runs, "check_rules", lambda *_: None)
        monkeypatch.setattr(runs, "import_ahead", lambda: None)
        monkeypatch.setattr(Recorder, "start", lambda self: None)
        monkeypatch.setattr(Recorder, "record", lambda *_: Ended("nowhere"))
        self.workspace = Workspace(folder / "workspace")
        self.workspace.create()
        self.observer = Watched()

    def run(self, config: RunConfig, **behaviours: str) -> RunRecord:
        told = {name.replace("_", "-"): behaviour for name, behaviour in behaviours.items()}
        self._monkeypatch.setenv("QUANTBENCH_FAKE", json.dumps(told))
        stages = stages_of(config, TWO_CORES, FINGERPRINTS)
        opened = OpenRun(JobContext(config, TWO_CORES, load_suite("demo"), []), stages, datetime.now(UTC), 0.0)
        return execute_run(opened, self.workspace, self.observer)

    @property
    def told(self) -> list[str]:
        return self.turns.read_text().splitlines()


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(tmp_path, monkeypatch)


def came_to(record: RunRecord) -> list[tuple[Any, ...]]:
    return [
        (one.name, one.how, one.result.object and one.result.object.digest, one.result.failure)
        for one in record.outcomes
    ]


@pytest.mark.slow
def test_a_run_side_by_side_comes_to_what_it_comes_to_one_by_one(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each of the two ends only when the other works too.
    record = lab.run(config_of(), measure_int8="meet quantize-gptq", quantize_gptq="meet measure-int8")
    worked = side_by_side(record.outcomes)
    assert "quantize:gptq" in worked["measure:int8"]
    assert [one.name for one in record.outcomes] != lab.observer.ended
    for measured in ("measure-baseline", "measure-int8", "measure-gptq"):
        told = lab.told
        assert told.index(f"together {measured}") == told.index(f"alone {measured}") + 1, "nothing begins or ends"
        before = told[: told.index(f"alone {measured}")]
        begun = {line.removeprefix("begin ") for line in before if line.startswith("begin ")}
        over = {line.removeprefix("end ") for line in before if line.startswith("end ")}
        assert begun - over == {measured}
    other = tmp_path / "other"
    other.mkdir()
    again = Lab(other, monkeypatch)
    one_by_one = again.run(config_of(1))
    assert [one.name for one in one_by_one.outcomes] == again.observer.ended
    assert set(map(tuple, side_by_side(one_by_one.outcomes).values())) == {()}
    assert came_to(record) == came_to(one_by_one)
    assert [row.verdict for row in record.rows] == [row.verdict for row in one_by_one.rows]
    assert not any(line.startswith("alone") for line in again.told), "nobody to be alone from"
    assert {one.how for one in lab.run(config_of(1)).outcomes} == {"reused"}


def test_a_stage_waits_for_the_load_tests_of_another(tmp_path: Path) -> None:
    (prepare, soundness, *_), load_test = stages_of(config_of(), TWO_CORES, FINGERPRINTS), ExitStack()
    workspace = Workspace(tmp_path / "workspace")
    workspace.create()
    machine = SharedMachine(workspace, tmp_path)
    machine.sharing = sharing_of(config_of(), TWO_CORES, MODEL_BYTES)
    load_test.enter_context(MachineTurns(tmp_path).alone(lambda: None))
    with (
        machine.held_for(prepare, lambda whom: load_test.close()) as first,
        machine.held_for(soundness, print) as then,
    ):
        assert first.waited_seconds >= 0.1 > then.waited_seconds
        assert (first.beside, then.beside) == ([], [prepare])


@pytest.mark.slow
def test_what_a_stage_waited_for_its_turn_is_no_work_of_its_own(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SharedMachine, "held_for", lambda *_: nullcontext(Place([], 0.25)))
    worked = lab.run(config_of(1)).outcomes
    assert {one.result.timings_seconds[WAIT_PART] for one in worked} == {0.25}
    breakdown = time_breakdown(worked, sum(one.wall_seconds for one in worked))
    assert {parts[WAIT_PART] for parts in breakdown.stages.values()} == {0.25}
    again = lab.run(config_of(1)).outcomes
    assert not any(WAIT_PART in one.result.timings_seconds for one in again), "it is kept without"


@pytest.mark.slow
def test_a_stage_that_fails_beside_another_stops_only_what_needs_it(lab: Lab) -> None:
    record = lab.run(config_of(), measure_int8="meet quantize-gptq", quantize_gptq="die")
    how = {one.name: one.how for one in record.outcomes}
    assert how == {
        **dict.fromkeys(("prepare", "soundness", "measure:baseline", "quantize:int8", "inspect:int8"), "done"),
        **dict.fromkeys(("measure:int8", "calibrate", "measure:baseline+bfloat16"), "done"),
        "quantize:gptq": "failed",
        "inspect:gptq": "skipped",
        "measure:gptq": "skipped",
    }


@pytest.mark.slow
def test_a_baseline_that_is_not_sound_stops_all_that_has_not_begun(lab: Lab) -> None:
    record = lab.run(config_of(), measure_baseline="other logits", calibrate="meet measure-baseline")
    how = {one.name: one.how for one in record.outcomes}
    assert how.pop("measure:baseline") == "failed"
    assert [how.pop(name) for name in ("prepare", "soundness", "calibrate")] == ["done"] * 3
    assert set(how.values()) == {"skipped"}


RUN_SCRIPT = """
import sys
from pathlib import Path
import pytest
from pipelines.cli import main  # noqa: F401
from tests.unit.pipelines.test_concurrency import Lab, config_of
with pytest.MonkeyPatch.context() as monkeypatch:
    Lab(Path(sys.argv[1]), monkeypatch).run(config_of(), measure_int8="hang", quantize_gptq="hang")
"""


def below(pid: int) -> list[int]:
    from serving_checks.processes.guard import descendants_of

    return descendants_of(pid)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_killed_with_two_stages_at_work_leaves_none(
    lab: Lab, tmp_path: Path, sent: signal.Signals
) -> None:
    with subprocess.Popen([sys.executable, "-c", RUN_SCRIPT, str(tmp_path)], cwd=ROOT, stderr=subprocess.PIPE) as run:
        wait_for(lab.turns)
        deadline = time.monotonic() + 120
        while not {"begin measure-int8", "begin quantize-gptq"} <= set(lab.told):
            assert time.monotonic() < deadline and run.poll() is None, lab.told
            time.sleep(0.05)
        started = below(run.pid)
        os.kill(run.pid, sent)
        run.communicate()
    assert len(started) >= 4  # two stages, each with its guard
    assert all(is_gone(pid) for pid in started)
    lab.workspace.create()
    staging = lab.workspace.root / "store" / "staging"
    assert not list(staging.iterdir())
    record = lab.run(config_of())
    how = {one.name: one.how for one in record.outcomes}
    assert (how["measure:int8"], how["quantize:gptq"], how["calibrate"]) == ("done", "done", "reused")
