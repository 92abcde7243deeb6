"""A collection that is killed, meets another one, or a disk that is full or elsewhere."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import main
from pipelines.execution.housekeeping import Wish, collect
from pipelines.execution.workspace import Workspace
from pipelines.planning.garbage import Asked
from tests.used_workspace import LAST, UsedWorkspace, gc, left_alone, tree, whole


@pytest.mark.slow
def test_two_at_once_do_the_same(used: UsedWorkspace) -> None:
    root = left_alone(used)
    argv = [sys.executable, "-P", "-m", "pipelines.cli", "workspace", "gc", "--yes", "--keep-runs", "1", "--json"]
    both = [
        subprocess.Popen([*argv, "--workspace", str(root)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    said = [one.communicate(timeout=60) for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    removed = [name["name"] for out, _ in said for name in json.loads(out)["removed"]]
    assert len(removed) == len(set(removed))
    store = Workspace(root).store
    assert [store.is_complete(digest) for digest in used.artifacts] == [False, False, True]


class Killed(BaseException):
    """As SIGKILL would be: nobody catches it."""


_steps: list[int] = []
_root: list[str] = []
_hooked: list[bool] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _steps and event in ("os.remove", "os.rename", "os.rmdir", "shutil.rmtree") and arguments:
        if (
            isinstance(arguments[0], str | os.PathLike)
            and os.fspath(arguments[0]).startswith("/")
            and not os.fspath(arguments[0]).startswith(_root[0])
        ):
            return
        _steps[0] -= 1
        if _steps[0] < 0:
            raise Killed


@contextmanager
def killed_before_step(root: Path, number: int) -> Iterator[None]:
    """Before the n-th removal or rename below `root`, from 0."""
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked.append(True)
    _root[:], _steps[:] = [str(root)], [number]
    try:
        yield
    finally:
        _steps.clear()


@pytest.mark.parametrize("stride", [pytest.param(9, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)])
def test_killed_at_any_step_it_leaves_what_is_needed_and_the_next_does_the_rest(
    used: UsedWorkspace, tmp_path: Path, stride: int
) -> None:
    used.sign(used.artifacts[0])
    root, copy = used.workspace.root, tmp_path / "copy"
    shutil.copytree(root, copy)
    gc(used)
    wanted = tree(root)
    step = 0
    while True:
        shutil.rmtree(root)
        shutil.copytree(copy, root)
        workspace = Workspace(root)
        try:
            with killed_before_step(root, step):
                collect(workspace, LAST, lambda _: None)
        except Killed:
            step += stride
        else:
            break
        assert whole(used, used.artifacts[2])
        assert whole(used, used.checkpoint)
        for digest in workspace.store.digests():
            # Half an object never looks whole; what looks whole is whole.
            assert not workspace.store.is_complete(digest) or workspace.store.verify(digest) == []
        for entry in workspace.cache.entries():
            found = workspace.cache.get(entry.key)
            assert found is None or found.object is None or workspace.store.is_complete(found.object.digest)
        collect(workspace, LAST, lambda _: None)
        assert tree(root) == wanted
    assert step > 40


@pytest.mark.slow
def test_killed_for_real_it_leaves_no_lock(used: UsedWorkspace, tmp_path: Path) -> None:
    """The process is killed while it waits for the machine and while it works; the next one does all."""
    argv = [sys.executable, "-P", "-m", "pipelines.cli", "workspace", "gc", "--yes", "--keep-runs", "1"]
    with used.workspace.machine_lock(lambda _: None):
        process = subprocess.Popen([*argv, "--workspace", str(used.workspace.root)], stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        assert "waiting for the stage of process" in process.stderr.readline()
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
    gc(used)
    assert [whole(used, digest) for digest in used.artifacts] == [False, False, True]


def test_links_out_of_the_workspace_are_not_followed(used: UsedWorkspace, tmp_path: Path) -> None:
    elsewhere = tmp_path / "another disk"
    place = used.workspace.store.path(used.artifacts[0])
    place.rename(elsewhere)
    place.symlink_to(elsewhere)
    logs = used.workspace.root / "runs" / used.runs[0] / "logs"
    moved = tmp_path / "logs"
    logs.rename(moved)
    logs.symlink_to(moved)
    gc(used)
    assert not place.is_symlink()
    assert (elsewhere / "content.txt").exists()
    assert not logs.is_symlink()
    assert (moved / "quantize.log").exists()


def test_a_full_disk_is_no_reason_to_keep_things(used: UsedWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    gc(used, Wish(Asked(keep_runs=3)))  # its lock files are there

    def full(self: Path, *_: object, **__: object) -> None:
        if not self.is_dir():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Path, "mkdir", full)
    assert used.artifacts[0] in gc(used)


def test_what_cannot_be_removed_is_told_and_the_rest_goes(
    used: UsedWorkspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rename = Path.rename

    def refused(self: Path, target: Path) -> Path:
        if self.name == used.artifacts[0][7:]:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refused)
    code = main(["workspace", "gc", "--yes", "--keep-runs", "1", "--workspace", str(used.workspace.root)])
    said = capsys.readouterr().out
    assert code == 3
    assert "not removed" in said
    assert "Read-only file system" in said
    assert whole(used, used.artifacts[0])
    assert not whole(used, used.artifacts[1])
