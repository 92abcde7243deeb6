"""The machine lock serializes runs of one workspace and goes with its holder."""

import subprocess
import sys
from pathlib import Path

import pytest

from configs.errors import RequestError
from pipelines.cli import main
from pipelines.execution.workspace import Workspace

HOLDER = """
import sys, time
from pathlib import Path
from pipelines.execution.workspace import Workspace
with Workspace(Path(sys.argv[1])).machine_lock(lambda pid: None):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path / "workspace")
    workspace.create()
    return workspace


def test_waits_for_another_process_and_says_for_whom(workspace: Workspace) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-P", "-c", HOLDER, str(workspace.root)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    waited_for: list[str] = []

    def on_wait(pid: str) -> None:
        waited_for.append(pid)
        holder.kill()  # SIGKILL: nothing of the holder's own can release the lock

    with workspace.machine_lock(on_wait):
        assert waited_for == [str(holder.pid)]
    holder.wait()


def test_run_folders_never_collide(workspace: Workspace) -> None:
    assert workspace.new_run_dir("demo") != workspace.new_run_dir("demo")


def test_a_workspace_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="cannot write the workspace") as caught:
        Workspace(tmp_path / "file" / "workspace").create()
    assert "--workspace" in caught.value.remedy


def test_staging_of_a_living_process_stays(workspace: Workspace) -> None:
    with workspace.store.staging() as staging:
        workspace.create()
        assert staging.exists()


def test_a_file_is_no_workspace(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="is a file"):
        Workspace(tmp_path / "file")


@pytest.mark.parametrize("action", ["list", "verify"])
def test_a_workspace_that_is_not_there_is_not_an_empty_one(
    tmp_path: Path, action: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["artifacts", action, "--workspace", str(tmp_path / "none")]) == 2
    assert "there is no workspace" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["folder", "link to nowhere"])
def test_what_has_the_lock_s_name_is_moved_aside(workspace: Workspace, kind: str) -> None:
    lock = workspace.root / "machine.lock"
    lock.unlink(missing_ok=True)
    if kind == "folder":
        lock.mkdir()
    else:
        lock.symlink_to("/nowhere/at/all")
    with workspace.machine_lock(lambda holder: None):
        assert lock.is_file()
    assert len(list(workspace.root.glob("machine.lock.damaged-*"))) == 1
