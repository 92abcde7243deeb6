"""A model over the GPUs of several machines: what is known to fail is told before a server waits for it."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from configs.errors import ConfigError, RequestError
from configs.loading import load_yaml_model
from evals.suites.resolve import load_suite
from pipelines.planning import open_run
from pipelines.planning.context import JobContext
from pipelines.planning.data_parallel import check_data_parallel, servers_of
from pipelines.planning.memory_split import check_ranks, rank_memory, split_violations
from pipelines.planning.open_run import check_machines
from pipelines.planning.preflight import check_rules, rule_violations
from pipelines.recipe.run_config import RunConfig
from pipelines.rendering.deploy.champion import Champion
from serving_checks.engines import vllm_ray
from serving_checks.engines.vllm import VllmEngine, VllmServerConfig
from serving_checks.engines.vllm_ray import Cluster, ClusterMachine, cluster_violations, engine_version
from tests.unit.pipelines.test_preflight import GPU_MACHINE, llama_shapes
from tests.unit.pipelines.test_runner import ROOT

RECIPE = ROOT / "configs" / "recipes" / "llama_70b_two-nodes_cuda.yaml"
CHECKPOINT = llama_shapes(hidden=8192, heads=64, wide=28672, layers=80)
MACHINE = GPU_MACHINE.model_copy(update={"gpus": ["0", "1", "2", "3"]})


def recipe(*overrides: str) -> RunConfig:
    return load_yaml_model(RECIPE, RunConfig, list(overrides))


def violations(*overrides: str, gpu_gib: int = 80) -> list[str]:
    machine = MACHINE.model_copy(update={"gpu_memory_bytes": gpu_gib << 30})
    context = JobContext(recipe(*overrides), machine, load_suite("core"), [])
    found = rule_violations(context, CHECKPOINT) + split_violations(context.config, machine, CHECKPOINT)
    if found:
        with pytest.raises(RequestError) as refused:
            check_rules(context, CHECKPOINT)
        assert all(line in refused.value.what for line in found)
    return found


def test_the_recipe_fits_its_model_and_eight_gpus() -> None:
    assert CHECKPOINT.parameters == 70_553_706_496
    config = recipe()
    assert violations() == []
    check_ranks(config.serving, MACHINE)
    check_data_parallel(config, MACHINE)
    assert servers_of(config, MACHINE, 10) == [[]]


def test_stages_and_ranks_are_not_both_over_machines() -> None:
    with pytest.raises(ConfigError, match="leave one out"):
        recipe("executor.kind=ray", "executor.store=/mnt/store")


@pytest.mark.parametrize(("bits", "gib"), [(16, 16.4), (8, 8.5), (4, 4.5)])
def test_what_each_of_eight_gpus_holds_of_70b(bits: int, gib: float) -> None:
    held = rank_memory(CHECKPOINT, recipe().serving, bits)
    assert held.weights_bytes / 2**30 == pytest.approx(gib, abs=0.05)
    assert held.cache_bytes == 24 << 30


def test_the_fullest_stage_counts_where_layers_do_not_go_round() -> None:
    """vLLM gives the layers that are over to some of the stages."""
    serving = recipe("serving.pipeline_parallel_size=3").serving
    linear = sum(rows * columns for rows, columns in CHECKPOINT.linear_shapes.values())
    ends = (CHECKPOINT.parameters - linear) / 2
    assert rank_memory(CHECKPOINT, serving).weights_bytes == round((linear * 27 / 80 + ends) * 2 / 4)


def test_gpus_that_are_too_small_are_told_by_model() -> None:
    found = violations(gpu_gib=40)
    assert len(found) == 1
    assert found[0].startswith("baseline: each of 8 GPUs would hold 16.4 GiB of weights and 24 GiB of KV cache")
    assert "has 40.0 GiB; lower serving.kv_cache_gib" in found[0]
    assert [line.partition(":")[0] for line in violations(gpu_gib=24)] == ["baseline", "rtn-int4", "w8a8", "gptq-int4"]


def test_heads_and_layers_have_to_go_round() -> None:
    assert any("cannot share 64 attention heads" in line for line in violations("serving.tensor_parallel_size=3"))
    found = violations("serving.pipeline_parallel_size=81", "serving.tensor_parallel_size=1")
    assert "81 pipeline stages cannot share 80 layers; lower serving.pipeline_parallel_size" in found


def test_more_ranks_than_gpus_are_refused_without_ray() -> None:
    config = recipe("serving.distributed_executor_backend=mp")
    with pytest.raises(RequestError, match=r"8 ranks \(4 x 2\), and 4 GPUs are visible here") as refused:
        check_ranks(config.serving, MACHINE)
    assert "distributed_executor_backend to ray" in refused.value.remedy
    check_ranks(config.serving, MACHINE.model_copy(update={"gpus": []}))  # planned where there is no GPU


def test_a_cpu_is_no_machine_of_such_a_server() -> None:
    with pytest.raises(RequestError, match="this run's device is a CPU"):
        check_ranks(recipe().serving, MACHINE.model_copy(update={"device": "cpu"}))


def test_a_second_server_is_refused() -> None:
    with pytest.raises(RequestError, match="one that is shared out over machines takes them all"):
        check_data_parallel(recipe("evaluation.data_parallel_size=2"), MACHINE)


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["serving.ray_address=ray://head:10001"], "HOST:PORT or auto"),
        (["serving.ray_address=head:6379", "serving.distributed_executor_backend=mp"], "is read with"),
        (["serving.distributed_executor_backend=dask"], "'mp' or 'ray'"),
    ],
)
def test_what_cannot_be_meant_is_refused(overrides: list[str], why: str) -> None:
    with pytest.raises((ConfigError, ValidationError), match=why):
        recipe(*overrides)


def test_it_is_passed_on_as_the_engine_takes_it(tmp_path: Path) -> None:
    config = recipe("serving.ray_address=head:6379").serving
    assert isinstance(config, VllmServerConfig)
    engine = VllmEngine(config)
    from serving_checks.engines.base import ServerRequest

    command = engine.command(ServerRequest(config, tmp_path, "bfloat16", "cuda", None), 8000)
    assert command.argv[command.argv.index("--distributed-executor-backend") + 1] == "ray"
    assert command.argv[command.argv.index("--pipeline-parallel-size") + 1] == "2"
    assert command.env["RAY_ADDRESS"] == "head:6379"
    plain = VllmServerConfig()
    assert "--distributed-executor-backend" not in plain.arguments
    variables = VllmEngine(plain).command(ServerRequest(plain, tmp_path, "bfloat16", "cuda", None), 8000).env
    assert "RAY_ADDRESS" not in variables


def machines(*gpus: float, **changes: object) -> Cluster:
    return Cluster(
        machines=[
            ClusterMachine(address=f"10.0.0.{number}", gpus=count, engine_version=engine_version()).model_copy(
                update={"has_probe": True, "sees_folder": True, **changes}
            )
            for number, count in enumerate(gpus, start=1)
        ]
    )


@pytest.mark.parametrize(
    ("cluster", "why"),
    [
        (machines(4), r"has 4 GPUs \(10.0.0.1: 4\), and the server takes 8; add machines"),
        (machines(4, 3, 1), "cannot each hold whole groups of 4 ranks"),
        (machines(4, 4, engine_version="0.1"), r"10.0.0.1: vLLM 0.1, and .* here; install the same lock there"),
        (machines(4, 4, engine_version=None), "vLLM is not installed"),
        (machines(4, 4, has_probe=False), "10.0.0.2: Quantbench cannot be imported"),
        (machines(4, 4, sees_folder=False), "10.0.0.2: /shared/workspace is not the folder that it is here"),
        (machines(4, 4, fault="RaySystemError: raylet died"), "10.0.0.1: RaySystemError: raylet died"),
        (Cluster(fault="ConnectionError: none"), "the Ray cluster auto does not answer: ConnectionError: none"),
    ],
)
def test_what_a_cluster_cannot_take_is_told(cluster: Cluster, why: str) -> None:
    import re

    found = cluster_violations(cluster, "auto", 8, 4, Path("/shared/workspace"))
    assert any(re.search(why, line) for line in found), found


def test_a_head_without_gpus_is_no_hindrance() -> None:
    assert cluster_violations(machines(0, 4, 4), "auto", 8, 4, Path("/shared")) == []
    without = machines(0, 4, 4)
    head = without.machines[0].model_copy(update={"engine_version": None, "sees_folder": False})
    assert cluster_violations(Cluster(machines=[head, *without.machines[1:]]), "auto", 8, 4, Path("/shared")) == []


def test_the_machines_are_asked_before_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = recipe()
    seen: list[str] = []

    def asked(address: str, file: Path, log_file: Path) -> Cluster:
        seen.append(file.read_text())
        return machines(4)

    monkeypatch.setattr(vllm_ray, "asked_cluster", asked)
    with pytest.raises(RequestError, match="cannot take its servers:\n  - the Ray cluster auto has 4 GPUs") as refused:
        check_machines(config.serving, tmp_path)
    assert refused.value.blame == "machine"
    assert len(seen) == 1
    assert list(tmp_path.iterdir()) == []
    check_machines(VllmServerConfig(), tmp_path)
    assert len(seen) == 1


def test_a_machine_without_ray_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_ray, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"Ray is not installed here \(pip install 'quantbench\[ray\]'"):
        open_run.check_machines(recipe().serving, tmp_path)


def test_what_is_rendered_for_one_machine_refuses_it() -> None:
    champion = Champion.__new__(Champion)
    object.__setattr__(champion, "config", recipe().serving)
    object.__setattr__(champion, "name", "gptq-int4")
    with pytest.raises(RequestError, match="gptq-int4 was served over the machines of a Ray cluster"):
        _ = champion.container


def test_where_the_cluster_is_shapes_no_number() -> None:
    shaping = recipe().serving.shaping
    assert shaping == recipe("serving.ray_address=head:6379").serving.shaping
    assert shaping["distributed_executor_backend"] == "ray"
    assert not {"distributed_executor_backend", "ray_address"} & VllmServerConfig().shaping.keys()
