"""The runner against stages that fail, die, hang and are killed; no engine is involved."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evals.suites.resolve import load_suite
from pipelines.execution import stage_work
from pipelines.execution.runner import Runner
from pipelines.execution.workspace import Workspace
from pipelines.planning import preflight
from pipelines.planning.context import JobContext
from pipelines.planning.device import MachineRecord
from pipelines.planning.plan import plan_stages
from pipelines.planning.stages import Fingerprints, stages_of
from pipelines.recipe.deadlines import Deadlines
from pipelines.recipe.run_config import RunConfig
from pipelines.records.events import StageOutcome
from serving_checks.processes.guard import descendants_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
FINGERPRINTS = Fingerprints("sha256:source", "sha256:calibration", "sha256:suite")
MACHINE = MachineRecord(
    device="cpu",
    device_name="a test's CPU",
    fast_bfloat16=False,
    cpu_flags=["avx512bw", "avx512dq", "avx512f", "avx512vl"],
    threads=2,
    memory_bytes=1 << 30,
)


INT8: dict[str, object] = {"method": "bnb_int8"}
GPTQ: dict[str, object] = {"method": "gptq", "group_size": 64}


def run_config(**changes: object) -> RunConfig:
    fields: dict[str, object] = {
        "version": 1,
        "name": "test",
        "source": {"kind": "folder", "path": "/nowhere"},
        "calibration": {"source": "self", "samples": 4, "tokens": 16},
        "methods": {"int8": INT8, "gptq": GPTQ},
        "evaluation": {"suite": "demo"},
    }
    return RunConfig.model_validate(fields | changes)


def changed(**parameters: dict[str, object]) -> RunConfig:
    """The config with other parameters for some of its methods."""
    methods = {"int8": INT8, "gptq": GPTQ}
    return run_config(methods={name: method | parameters.get(name, {}) for name, method in methods.items()})


class Bench:
    """One workspace, runs in it, and what they executed."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.workspace = Workspace(folder / "workspace")
        self.workspace.create()
        self.log = folder / "executed.log"
        self.progress: list[str] = []
        self._before = 0
        self._monkeypatch = monkeypatch
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        monkeypatch.setenv("QUANTBENCH_FAKE_LOG", str(self.log))
        monkeypatch.setattr(stage_work, "STAGE_MODULES", dict.fromkeys(stage_work.STAGE_MODULES, "tests.fake_stages"))

    def run(self, config: RunConfig | None = None, **behaviours: str) -> dict[str, StageOutcome]:
        # Another process may be writing into the log: what is there stays.
        self._before = len(self._logged)
        self._monkeypatch.setenv(
            "QUANTBENCH_FAKE", json.dumps({key.replace("_", "-"): value for key, value in behaviours.items()})
        )
        config = config or run_config()
        context = JobContext(config, MACHINE, load_suite("demo"), [])
        made = Runner(context, self.workspace, self.workspace.new_run_dir("test"), self._on_progress)
        return {stage.name: made.run(stage) for stage in stages_of(config, MACHINE, FINGERPRINTS)}

    def _on_progress(self, name: str, text: str) -> None:
        self.progress.append(f"{name} {text}")

    @property
    def executed(self) -> list[str]:
        """By whomever, since this one's last run began."""
        return self._logged[self._before :]

    @property
    def _logged(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []

    def leftovers(self) -> list[Path]:
        staging = self.workspace.root / "store" / "staging"
        return list(staging.iterdir()) if staging.exists() else []


def how(outcomes: dict[str, StageOutcome]) -> dict[str, str]:
    return {name: outcome.how for name, outcome in outcomes.items()}


def test_order_brings_quick_methods_first() -> None:
    config = run_config(methods={"gptq": GPTQ, "int8": INT8})
    assert [stage.name for stage in stages_of(config, MACHINE, FINGERPRINTS)] == [
        "prepare",
        "soundness",
        "measure:baseline",
        "quantize:int8",
        "inspect:int8",
        "measure:int8",
        "calibrate",
        "quantize:gptq",
        "inspect:gptq",
        "measure:baseline+bfloat16",
        "measure:gptq",
    ]


def test_a_second_run_executes_nothing(first: tuple[Bench, dict[str, StageOutcome]], bench: Bench) -> None:
    assert set(how(first[1]).values()) == {"done"}
    assert first[0].executed == [name.replace(":", "-") for name in first[1]]
    assert set(how(bench.run()).values()) == {"reused"}
    assert bench.executed == []


@pytest.mark.slow
def test_changing_one_method_redoes_that_method_only(bench: Bench) -> None:
    bench.run(changed(gptq={"group_size": 32}))
    assert bench.executed == ["quantize-gptq", "inspect-gptq", "measure-gptq"]


def test_the_plan_says_what_changed(bench: Bench) -> None:
    stages = stages_of(changed(gptq={"group_size": 32}), MACHINE, FINGERPRINTS)
    planned, _ = plan_stages(stages, bench.workspace.cache)
    reasons = {stage.name: stage.reason for stage in planned if stage.action == "run"}
    assert reasons == {
        "quantize:gptq": "changed: config.method.group_size: 64 -> 32",
        "inspect:gptq": "quantize:gptq is made first",
        "measure:gptq": "quantize:gptq, inspect:gptq is made first",
    }


@pytest.mark.parametrize(
    ("behaviour", "said", "blame"),
    [
        ("fail", "the engine gave up", None),
        ("die", "Segmentation fault in the imaginary kernel", "engine"),
        ("leave", "ended the process in the middle of its work: ValueError: the weights are not numbers", "engine"),
        ("kill", "killed by signal 9", "machine"),
        ("stop", "suspended from outside", "machine"),
        ("disk_full", "No space left on device", "machine"),
        ("bug", "KeyError: 'no such thing' (tests/fake_stages.py:", "quantbench"),
        ("bad_result", "without a result", "engine"),
    ],
)
def test_a_failed_stage_says_why_and_leaves_nothing(bench: Bench, behaviour: str, said: str, blame: str | None) -> None:
    config = changed(int8={"threshold": 5.0})
    config = config.model_copy(update={"deadlines": Deadlines(suspended_seconds=1.0)})
    outcomes = bench.run(config, quantize_int8=behaviour)
    assert bench.executed == ["quantize-int8"]
    failure = outcomes["quantize:int8"].result.failure
    assert failure is not None
    assert said in failure.what
    assert failure.remedy
    assert failure.blame == blame
    assert blame == "machine" or "same command" not in failure.remedy
    assert failure.exit_code == 3
    assert bench.leftovers() == []


@pytest.mark.slow
def test_a_failed_stage_stops_only_what_needs_it_and_is_tried_again(bench: Bench) -> None:
    config = changed(int8={"threshold": 5.0}, gptq={"group_size": 32})
    assert how(bench.run(config, quantize_int8="fail")) == {
        "prepare": "reused",
        "soundness": "reused",
        "measure:baseline": "reused",
        "quantize:int8": "failed",
        "inspect:int8": "skipped",
        "measure:int8": "skipped",
        "calibrate": "reused",
        "quantize:gptq": "done",
        "inspect:gptq": "done",
        "measure:baseline+bfloat16": "reused",
        "measure:gptq": "done",
    }
    bench.run(config)
    assert bench.executed == ["quantize-int8", "inspect-int8", "measure-int8"]


def test_too_little_disk_is_told_before_the_stage_starts(empty: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))
    failure = empty.run()["prepare"].result.failure
    assert failure is not None
    assert "MiB are free" in failure.what
    assert "--workspace" in failure.remedy
    assert empty.executed == []


def test_progress_is_told(first: tuple[Bench, dict[str, StageOutcome]]) -> None:
    assert any(line.startswith("prepare ") for line in first[0].progress)


RUN_SCRIPT = """
import os, sys
from pathlib import Path
import pytest
from tests.unit.pipelines.test_runner import Bench, changed
with pytest.MonkeyPatch.context() as monkeypatch:
    hanging = dict.fromkeys(sys.argv[2:], "hang")
    Bench(Path(sys.argv[1]), monkeypatch).run(changed(gptq={"group_size": 32}), **hanging)
"""


def start_run(folder: Path, *hanging: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", RUN_SCRIPT, str(folder), *hanging], cwd=ROOT, stderr=subprocess.PIPE)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.05)


def is_gone(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_runner_leaves_no_process_and_is_resumed(bench: Bench, tmp_path: Path, sent: signal.Signals) -> None:
    run = start_run(tmp_path, "quantize_gptq")
    pid_file = bench.log.with_suffix(".pid")
    wait_for(pid_file)
    stage_pid = int(pid_file.read_text())
    os.kill(run.pid, sent)
    run.communicate()
    assert is_gone(stage_pid)
    bench.workspace.create()
    assert bench.leftovers() == []
    bench.run(changed(gptq={"group_size": 32}))
    assert bench.executed == ["quantize-gptq", "inspect-gptq", "measure-gptq"]


@pytest.mark.slow
def test_two_runs_at_once_share_the_work(bench: Bench, tmp_path: Path) -> None:
    runs = [start_run(tmp_path) for _ in range(2)]
    for run in runs:
        assert run.wait() == 0, run.stderr.read().decode() if run.stderr else ""
    assert sorted(bench.executed) == ["inspect-gptq", "measure-gptq", "quantize-gptq"]
    assert set(how(bench.run(changed(gptq={"group_size": 32}))).values()) == {"reused"}


@pytest.mark.slow
def test_a_profile_is_taken_where_there_is_none_and_asked_for_no_second_time(bench: Bench) -> None:
    wanted = run_config(profile=True)
    planned, _ = plan_stages(stages_of(wanted, MACHINE, FINGERPRINTS), bench.workspace.cache)
    assert {stage.name: stage.reason for stage in planned if stage.action == "run"} == {
        f"measure:{name}": "its result lacks a profile or proofs wanted now" for name in ("baseline", "int8", "gptq")
    }
    bench.run(wanted)
    assert bench.executed == ["measure-baseline", "measure-int8", "measure-gptq"]
    bench.run(wanted)
    assert bench.executed == []
    bench.run()
    assert bench.executed == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("deadlines", "said"),
    [
        ({"quantize_minutes": 0.02}, "no end after 1 s"),
        ({"silent_minutes": 0.03}, "no sign of life for 2 s"),
    ],
)
def test_a_stage_that_hangs_is_ended_by_the_recipe_s_deadlines(
    bench: Bench, deadlines: dict[str, float], said: str
) -> None:
    config = changed(int8={"threshold": 5.0}).model_copy(update={"deadlines": Deadlines(**deadlines)})
    failure = bench.run(config, quantize_int8="hang")["quantize:int8"].result.failure
    assert failure is not None
    assert said in failure.what
    assert "deadlines" in failure.remedy
    assert descendants_of(os.getpid()) == []
    assert bench.leftovers() == []


def test_who_waits_for_a_suspended_run_is_told(empty: Bench) -> None:
    told: list[str] = []
    hold = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); time.sleep(600)"
    lock = empty.workspace.root / "machine.lock"
    with subprocess.Popen([sys.executable, "-c", hold, str(lock)]) as holder:
        wait_for_lock(lock)
        lock.write_text(str(holder.pid))
        os.kill(holder.pid, signal.SIGSTOP)

        def on_wait(who: str) -> None:
            told.append(who)
            if "suspended" in who:
                holder.kill()

        with empty.workspace.machine_lock(on_wait):
            pass
    assert told[-1] == f"{holder.pid}, which is suspended"


def wait_for_lock(lock: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        assert time.monotonic() < deadline
        time.sleep(0.05)
        if not lock.exists():
            continue
        with lock.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return
