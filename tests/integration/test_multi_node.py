"""Ray's own clusters of two nodes that say they have GPUs, asked as before a server is shared out over them."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.environments.definition import environment_named
from pipelines.environments.making import in_use
from registry.hashing import digest_of_file
from serving_checks.engines import vllm_ray
from serving_checks.engines.vllm_ray import Cluster, asked_cluster, cluster_violations
from serving_checks.server import free_port
from tests.architecture.repository import ROOT

pytestmark = [pytest.mark.environment, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def python() -> Iterator[Path]:
    """Of an environment that has Ray."""
    with in_use(environment_named("deploy", "cpu"), print) as path:
        yield path


@pytest.fixture(autouse=True)
def ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture(scope="module")
def two_nodes(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster whose nodes say that they have four GPUs each."""
    program = [str(python), "-P", str(ROOT / "tests" / "orchestrators" / "gpu_nodes_program.py"), "4", "4"]
    log = tmp_path_factory.mktemp("ray") / "log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=_environment()
        ) as nodes,
    ):
        assert nodes.stdout is not None and nodes.stdin is not None
        address = nodes.stdout.readline().strip()
        assert address, log.read_text()[-3000:]
        try:
            yield address
        finally:
            nodes.stdin.close()
            nodes.wait(120)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(ROOT),
    }


def test_both_nodes_answer(two_nodes: str, python: Path, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text("{}")
    cluster = asked_cluster(two_nodes, file, tmp_path / "machines.log", python)
    assert cluster.fault is None, (tmp_path / "machines.log").read_text()
    assert [machine.gpus for machine in cluster.machines] == [4, 4]
    assert [machine.fault for machine in cluster.machines] == [None, None]
    assert all(machine.sees_folder and machine.has_probe for machine in cluster.machines)
    # The environment has Ray and no vLLM: that, and only that, is told.
    found = cluster_violations(cluster, two_nodes, 8, 4, tmp_path)
    assert len(found) == 2
    assert all("vLLM is not installed" in line for line in found)
    assert any("has 8 GPUs" in line for line in cluster_violations(cluster, two_nodes, 16, 4, tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "machines.json", "machines.log"]


def test_a_file_that_is_another_one_there_is_told(two_nodes: str, python: Path, tmp_path: Path) -> None:
    """As with folders of one name that are not shared: here, one that changes before the nodes read it."""
    file = tmp_path / "config.json"
    file.write_text("{}")
    program = (
        "import sys; from pathlib import Path; from serving_checks.engines import vllm_ray_program as asking\n"
        "Path(sys.argv[2]).write_text('[]'); asking.main(*sys.argv[1:])"
    )
    answer = tmp_path / "answer.json"
    arguments = [two_nodes, str(file), digest_of_file(file), vllm_ray.PROBE, str(answer)]
    subprocess.run([str(python), "-c", program, *arguments], env=_environment(), check=True, timeout=300)
    cluster = Cluster.model_validate_json(answer.read_bytes())
    assert [machine.sees_folder for machine in cluster.machines] == [False, False]


def test_a_cluster_that_is_not_there_is_told(python: Path, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text("{}")
    address = f"127.0.0.1:{free_port(None)}"
    cluster = asked_cluster(address, file, tmp_path / "machines.log", python)
    assert cluster.fault is not None and "Connection refused" in cluster.fault
    found = cluster_violations(cluster, address, 8, 4, tmp_path)
    assert found == [f"the Ray cluster {address} does not answer: {cluster.fault}; {vllm_ray._START}"]
