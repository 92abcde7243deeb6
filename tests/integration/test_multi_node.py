"""Ray's own clusters of two nodes that say they have GPUs, asked as before a server is shared out over them."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from configs.loading import load_yaml_model
from pipelines.environments.definition import environment_named
from pipelines.environments.making import in_use
from pipelines.recipe.run_config import RunConfig
from registry.hashing import digest_of_file
from serving_checks.engines import vllm_ray
from serving_checks.engines.vllm import VllmServerConfig
from serving_checks.engines.vllm_ray import Cluster, asked_cluster, cluster_violations
from serving_checks.server import free_port
from tests.architecture.repository import ROOT
from tests.walks import take, walk_of

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
    folder = tmp_path_factory.mktemp("ray")
    wanted = json.dumps([{"folder": str(folder / name), "gpus": 4} for name in ("head", "other")])
    program = [str(python), "-P", str(ROOT / "tests" / "orchestrators" / "ray_program.py"), wanted]
    log = folder / "log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=_environment()
        ) as nodes,
    ):
        assert nodes.stdout is not None and nodes.stdin is not None
        line = next((line for line in nodes.stdout if '"address"' in line), "")
        assert line, log.read_text()[-3000:]
        try:
            yield json.loads(line)["address"]
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


def test_the_document_begins_with_what_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    take(walk_of(ROOT / "docs" / "multi-node.md"), capsys)


def test_the_engine_itself_takes_what_the_recipe_asks_for() -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    serving = load_yaml_model(ROOT / "configs" / "recipes" / "llama_70b_two-nodes_cuda.yaml", RunConfig).serving
    assert isinstance(serving, VllmServerConfig)
    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
    taken = parser.parse_args(serving.arguments)
    assert taken.distributed_executor_backend == "ray"
    assert (taken.tensor_parallel_size, taken.pipeline_parallel_size) == (4, 2)
    assert taken.kv_cache_memory_bytes == 24 << 30


def test_the_engine_still_does_what_the_document_says() -> None:
    """Pieces of its source that the rules rest on; where one is gone, docs/multi-node.md has to be read anew."""
    package = find_spec("vllm")
    assert package is not None and package.submodule_search_locations
    folder = Path(package.submodule_search_locations[0])
    for file, piece in (
        ("v1/executor/ray_utils.py", "ray.init(address=ray_address, runtime_env=parallel_config.ray_runtime_env)"),
        ("v1/executor/ray_utils.py", "while time.time() - s < PG_WAIT_TIMEOUT"),
        ("v1/executor/ray_env_utils.py", "return {key: value for key, value in os.environ.items() if key not in"),
        ("envs.py", 'os.getenv("VLLM_USE_RAY_V2_EXECUTOR_BACKEND", "1")'),
        ("distributed/utils.py", "layers_per_partition = num_hidden_layers // pp_size"),
        ("config/model.py", "if total_num_attention_heads % tensor_parallel_size != 0:"),
    ):
        assert piece in (folder / file).read_text(encoding="utf-8"), (file, piece)
