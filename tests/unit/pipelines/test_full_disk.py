"""A disk that is full at each of the runner's own writes in turn: a sentence, exit code 3, and all goes on afterwards.

Stages and MLflow are stand-ins in the runner's process, so that the writes can be counted; a real small disk with real
processes is at the end.
"""

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import main
from pipelines.execution import recipe_call, recording, stage_work
from pipelines.execution import run as runs
from pipelines.execution.workspace import Workspace
from pipelines.planning.context import JobContext
from pipelines.planning.open_run import OpenRun
from pipelines.planning.stages import stages_of
from pipelines.records.comparison import Comparison
from registry.contracts import StageJob, StageResult
from registry.files import write_text_atomically
from registry.stage_cache import StageKey
from registry.stage_process import StageClock, progress_file_of
from tests import fake_stages
from tests.full_disk import full_disk
from tests.unit.pipelines.loss_records import SUITE, characterization, retention, token_agreement
from tests.unit.pipelines.test_runner import FINGERPRINTS, INT8, MACHINE, ROOT, run_config

WRITES = 100
"""At least so many a run of this kind makes."""


def in_process(job: StageJob, module: str, name: str, log_file: Path, **_: Any) -> StageResult:
    """`run_job` without a process."""
    log_file.write_text(f"{name}\n")
    write_text_atomically(job.result_file.with_suffix(".job"), job.model_dump_json())
    mine = fake_stages.FakeJob.model_validate_json(job.model_dump_json())
    result = fake_stages.work(mine, StageClock(progress_file_of(job.result_file)))
    write_text_atomically(job.result_file, result.model_dump_json())
    return StageResult.model_validate_json(job.result_file.read_text())


def compared(baseline: StageResult, artifact: StageResult, suite: object, workspace: Workspace) -> None:
    """`compare_measured` without statistics: only what it keeps."""
    key = StageKey(stage="compare", stage_version=1, config={}, inputs={}, libraries={})
    if workspace.cache.get(key) is None:
        found = Comparison(
            retention=retention("int8"),
            characterization=characterization("int8"),
            token_agreement=token_agreement("int8"),
        )
        workspace.cache.put(key, "compare", StageResult(stage="compare", record=found.model_dump(mode="json")))


class NoProcess:
    """Of `Supervised`: the recorder's process."""

    def __init__(self, argv: list[str], *, log_file: Path, **variables: object) -> None:
        self._job_file, self._log_file = Path(argv[-1]), log_file

    def start(self) -> "NoProcess":
        self._log_file.write_text("")
        return self

    def poll(self) -> None: ...

    def stop(self) -> None: ...

    def attend(self, *ignored: object) -> int:
        result_file = Path(json.loads(self._job_file.read_text())["result_file"])
        result = StageResult(stage="record", record={"where": "an MLflow", "run_id": "1"})
        write_text_atomically(result_file, result.model_dump_json())
        return 0


class Command:
    """`quantbench run` on one workspace."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.root, self._capsys = root, capsys
        monkeypatch.setenv("QUANTBENCH_FAKE_LOG", str(root.parent / "executed.log"))
        monkeypatch.delenv("QUANTBENCH_FAKE", raising=False)
        monkeypatch.setattr(stage_work, "run_job", in_process)
        monkeypatch.setattr(runs, "compare_measured", compared)
        monkeypatch.setattr(runs, "check_rules", lambda *_: None)
        monkeypatch.setattr(recording, "Supervised", NoProcess)
        config = run_config(methods={"int8": INT8}, fork_servers=False)
        run = OpenRun(
            JobContext(config, MACHINE, SUITE, []),
            stages_of(config, MACHINE, FINGERPRINTS),
            datetime(2026, 5, 1, tzinfo=UTC),
            0.0,
        )
        monkeypatch.setattr(recipe_call, "read_recipe", lambda *_: config)
        monkeypatch.setattr(recipe_call, "opened", lambda *_: run)

    def __call__(self) -> tuple[int, str]:
        code = main(["run", "recipe.yaml", "--workspace", str(self.root)])
        captured = self._capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out + captured.err

    def digests(self) -> list[str]:
        return Workspace(self.root).store.digests()

    def left_behind(self) -> list[str]:
        """Half-made files, and staging folders."""
        staging = self.root / "store" / "staging"
        hidden = [str(path) for path in self.root.rglob(".*")]
        return hidden + ([str(path) for path in staging.iterdir()] if staging.exists() else [])


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path / "workspace", monkeypatch, capsys)


@pytest.fixture
def undisturbed(command: Command) -> tuple[int, list[str]]:
    """How many writes a run makes, and the digests of what it leaves."""
    with full_disk(command.root) as disk:
        code, said = command()
    assert code == 0, said
    digests = command.digests()
    shutil.rmtree(command.root)
    return disk.writes, digests


@pytest.mark.parametrize(
    "places",
    [pytest.param(slice(0, None, 31), id="some"), pytest.param(slice(2, None, 3), id="many", marks=pytest.mark.slow)],
)
def test_a_full_disk_is_told_and_the_run_goes_on(
    command: Command, undisturbed: tuple[int, list[str]], places: slice
) -> None:
    writes, digests = undisturbed
    assert writes >= WRITES
    for room in range(writes)[places]:
        for_ever = room % 2 == 0  # else there is room again after one write
        with full_disk(command.root, room, for_ever=for_ever) as disk:
            code, said = command()
        place = f"write {room + 1} of {writes}"
        if code == 0:
            # A note that no stage is given up for; or all fitted, since what is worth a note depends on the clock.
            assert not for_ever or disk.writes in (room, writes), place
        else:
            assert code == (2 if "cannot write the workspace" in said else 3), place
            assert "there is no room on the disk of" in said, place
            assert "MiB free" in said, place
            assert "free space there" in said, place
            assert "run again with --debug" not in said, place
        assert command.left_behind() == [], place
        code, said = command()
        assert code == 0, f"{place}: {said}"
        assert command.digests() == digests, place
        shutil.rmtree(command.root)


SMALL_DISK = """
import json, os, shutil, subprocess, sys
from pathlib import Path
import pytest
from tests.unit.pipelines.test_runner import Bench

place, mib = Path(sys.argv[1]), sys.argv[2]
subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(place)], check=True)
with pytest.MonkeyPatch.context() as monkeypatch:
    bench = Bench(place, monkeypatch)
    monkeypatch.setattr("pipelines.execution.runner.check_free_space", lambda *_: None)
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
    said = []
    for given_back in (0, 4096, 16384, 65536):
        os.truncate(ballast, max(0, ballast.stat().st_size - given_back))
        try:
            outcomes = bench.run()
            said += [one.result.failure.what for one in outcomes.values() if one.how == "failed"]
        except OSError as error:
            said.append(str(error))
        except RuntimeError as error:
            said.append(str(error))
    ballast.unlink()
    outcomes = bench.run()
    print(json.dumps({
        "said": said,
        "how": {name: one.how for name, one in outcomes.items()},
        "digests": bench.workspace.store.digests(),
        "left": [str(path) for path in bench.leftovers()],
    }))
"""


def may_mount() -> bool:
    """Whether a process of ours may mount in a namespace of its own."""
    unshare = shutil.which("unshare")
    asked = [unshare, "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"] if unshare else ["false"]
    return subprocess.run(asked, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not may_mount(), reason="this machine lets no user mount a tmpfs in a namespace of his own")
def test_a_real_small_disk_with_real_processes(tmp_path: Path) -> None:
    def run_on(mib: int) -> dict[str, Any]:
        place = tmp_path / str(mib)
        place.mkdir()
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        argv = ["unshare", "-rm", sys.executable, "-c", SMALL_DISK, str(place), str(mib)]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    found = run_on(2)
    assert found["said"]
    assert all("No space left on device" in one for one in found["said"])
    assert set(found["how"].values()) <= {"done", "reused"}
    # One object a stage: what was cut off left none beside those of the last run.
    assert len(found["digests"]) == len(found["how"])
    assert found["left"] == []
