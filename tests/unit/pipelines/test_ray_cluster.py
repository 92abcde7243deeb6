"""The process that Ray lives in, and who asks it; a package of the same name stands in Ray's place."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest

from configs.errors import RequestError, StageError
from pipelines.execution import ray_cluster
from pipelines.execution.ray_cluster import ClusterGone, RayCluster
from pipelines.recipe.executor_config import RayExecutor
from pipelines.stage_programs.ray_broker import Call
from tests.architecture.repository import ROOT
from tests.unit.pipelines.test_runner import is_gone

FAKE = ROOT / "tests" / "fake_ray"
NOBODY = Event()


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], RayCluster]:
    monkeypatch.setenv("PYTHONPATH", f"{FAKE}:{ROOT}")
    monkeypatch.setattr(sys, "path", [str(FAKE), *sys.path])

    def made(behaviour: str = "") -> RayCluster:
        monkeypatch.setenv("FAKE_RAY", behaviour)
        return RayCluster(RayExecutor(kind="ray", store=str(tmp_path)), tmp_path / "ray.log")

    return made


def call(function: str, text: str = "word") -> Call:
    return Call(module="tests.on_node", function=function, text=text)


def test_text_goes_there_and_comes_back(cluster: Callable[..., RayCluster]) -> None:
    said: list[str] = []
    with cluster() as connected:
        assert [node.name for node in connected.nodes()] == ["10.0.0.1"]  # alive, and meant for stages
        assert connected.call(call("echo"), NOBODY, said.append) == "WORD"
    assert said == ["waiting for a node", "saying word"]


def test_what_is_taken_back_is_cancelled(cluster: Callable[..., RayCluster], tmp_path: Path) -> None:
    given_up = Event()

    def on_progress(text: str) -> None:
        if text == "staying":
            given_up.set()

    with cluster() as connected:
        with pytest.raises(StageError, match="nobody waits"):
            connected.call(call("stay"), given_up, on_progress)
        deadline = time.monotonic() + 60
        while "cancelled False" not in (tmp_path / "ray.log").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.parametrize(
    ("behaviour", "error", "message"),
    [
        ("die", ClusterGone, "the Ray cluster auto is gone: The GCS is gone"),
        ("crash", StageError, "WorkerCrashedError: The worker died unexpectedly"),
    ],
)
def test_a_cluster_s_faults_are_told(
    cluster: Callable[..., RayCluster], behaviour: str, error: type[StageError], message: str
) -> None:
    with cluster(behaviour) as connected:
        with pytest.raises(error, match=message) as raised:
            connected.call(call("stay"), NOBODY, lambda _: None)
        assert raised.value.blame == "machine"
        if behaviour == "die":
            with pytest.raises(ClusterGone):
                connected.nodes()


def test_a_cluster_that_is_not_there_is_told(cluster: Callable[..., RayCluster]) -> None:
    with (
        pytest.raises(StageError, match="auto does not answer: ConnectionError: Could not find any"),
        cluster("refuse"),
    ):
        pass


def test_a_cluster_without_nodes_for_stages_is_refused(cluster: Callable[..., RayCluster]) -> None:
    with cluster("empty") as connected, pytest.raises(RequestError, match="resource `quantbench`"):
        connected.nodes()


def test_a_function_that_is_not_there_is_told(cluster: Callable[..., RayCluster]) -> None:
    with cluster() as connected, pytest.raises(StageError, match="No module named 'elsewhere'"):
        connected.call(Call(module="elsewhere", function="work"), NOBODY, lambda _: None)


def test_nothing_stays(cluster: Callable[..., RayCluster]) -> None:
    with cluster() as connected:
        pid = connected._broker.pid
    assert is_gone(pid)


def test_ray_that_is_not_installed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "find_spec", lambda _: None)
    with pytest.raises(RequestError, match="Ray is not installed here"):
        RayCluster(RayExecutor(kind="ray", store=str(tmp_path)), tmp_path / "ray.log")
