"""Workspaces in which the fake stages ran."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.records.events import StageOutcome
from tests.unit.pipelines.test_runner import Bench
from tests.used_workspace import UsedWorkspace


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bench, dict[str, StageOutcome]]]:
    """A whole run, and what it gave: made once, since each stage is a process of half a second."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        bench = Bench(tmp_path_factory.mktemp("first"), monkeypatch)
        outcomes = bench.run()
    yield bench, outcomes


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """An empty workspace."""
    return Bench(tmp_path, monkeypatch)


@pytest.fixture
def bench(first: tuple[Bench, dict[str, StageOutcome]], empty: Bench) -> Bench:
    """A workspace of its own in which the run of `first` took place."""
    shutil.copytree(first[0].workspace.root, empty.workspace.root, dirs_exist_ok=True)
    return empty


@pytest.fixture
def used(tmp_path: Path) -> UsedWorkspace:
    """A workspace of three runs."""
    made = UsedWorkspace(tmp_path / "workspace")
    for number in range(3):
        made.run(number)
    return made
