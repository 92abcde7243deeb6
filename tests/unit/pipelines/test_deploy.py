"""A champion for other platforms: as it was measured, held against their schemas, refused where something lacks."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.errors import ConfigError, RequestError, StageError
from configs.loading import model_of_overrides
from pipelines.cli import main
from pipelines.recipe.deploy_config import DeployConfig
from pipelines.rendering.deploy.champion import Champion
from pipelines.rendering.deploy.engine_arguments import fields_of, variables_of
from pipelines.rendering.deploy.monitoring import panels_of
from pipelines.rendering.deploy.resources import resources_of
from pipelines.rendering.deploy.scaling import scaling_of
from pipelines.rendering.deploy.targets import TARGETS, render
from pipelines.rendering.validation import check_document, check_documents
from registry.ledger import Entry, Ledger
from registry.tracking.address import sqlite_uri
from serving_checks.engines.base import ServerRequest
from serving_checks.engines.vllm import VllmEngine
from tests.deployments import CONFIG, DIGEST, SETTINGS, champion, unit_commands
from tests.unit.pipelines.export_records import workspace_with

GIB = 2**30
ODD = 'a "model" # of: {odd} $names $(HOME) %h \\ üñ'
GPU = {"device": "cuda", "device_name": "NVIDIA L4", "threads": None}


def files_of(target: str, **changed: Any) -> dict[str, str]:
    one = champion(target, **changed)
    return render(one, target).files(one)


def documents_of(target: str, **changed: Any) -> dict[str, Any]:
    """File -> its document."""
    found = {}
    for name, text in files_of(target, **changed).items():
        if name.endswith((".yaml", ".yml")):
            found[name] = yaml.safe_load(text)
        elif name.endswith(".json"):
            found[name] = json.loads(text)
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_files_say_what_they_are_of_and_what_to_check(target: str) -> None:
    files = files_of(target)
    first, *others = [text for name, text in files.items() if not name.endswith(".json")]
    head = first[: first.index("\n", first.rindex("\n# ") + 1)]
    for told in ("run-1", DIGEST, "gptq (gptq), version 3", "vllm 0.32.0, bfloat16", "Numbers:", "Check:"):
        assert told in head
    assert "quantbench artifacts export gptq" in head
    for text in others:
        assert DIGEST in text
        assert "Numbers and what to check: see" in text
    assert all(DIGEST in text or "model.json" in name or "deploy-model" in name for name, text in files.items())
    assert not [text for text in files.values() if "&id" in text or "VLLM_SERVER_DEV_MODE" in text]
    documents_of(target)


@pytest.mark.parametrize("target", TARGETS)
def test_the_engine_gets_what_it_was_measured_with(target: str) -> None:
    config = {"serving": {**CONFIG["serving"], "max_num_batched_tokens": 384, "enable_prefix_caching": False}}
    one = champion(target, config=config)
    measured = VllmEngine(one.config).command(  # type: ignore[arg-type]
        ServerRequest(one.config, Path("/m"), one.serving.dtype, one.serving.device, one.serving.threads), 8000
    )
    asked = fields_of(measured.argv[4:])
    left_out = {"host", "port", "worker_extension_cls", "model", "served_model_name"}
    asked = {name: value for name, value in asked.items() if name not in left_out}
    assert asked["max_num_batched_tokens"] == 384
    assert asked["enable_prefix_caching"] is False
    found = fields_of(_engine_words(target, one))
    assert {name: value for name, value in found.items() if name not in left_out} == asked
    assert found["served_model_name"] == "smollm2"


def _engine_words(target: str, one: Champion) -> list[str]:
    """Flags and values that a target's server is started with."""
    files = render(one, target).files(one)
    documents = {name: yaml.safe_load(text) for name, text in files.items() if name.endswith((".yaml", ".json"))}
    if target == "systemd":
        words, _ = unit_commands(files["quantbench.service"])
    elif target == "docker-compose":
        words = documents["compose.yaml"]["services"]["model"]["command"]
    elif target == "kserve":
        words = documents["kserve.yaml"]["spec"]["predictor"]["containers"][0]["args"]
    elif target == "llm-d":
        words = documents["servers.yaml"]["spec"]["template"]["spec"]["containers"][0]["args"]
    elif target == "ray-serve":
        words = documents["serve.yaml"]["applications"][0]["args"]["command"]
    elif target == "vertex":
        words = documents["upload-model.json"]["model"]["containerSpec"]["args"]
    elif target == "triton":
        fields = documents["model_repository/quantbench/1/model.json"]
        return [word for name, value in fields.items() for word in _flag(name, value)]
    else:
        variables = documents["create-model.yaml"]["PrimaryContainer"]["Environment"]
        fields = {name.removeprefix("SM_VLLM_"): value for name, value in variables.items() if "SM_VLLM_" in name}
        return [
            word for name, value in fields.items() for word in (f"--{name.lower().replace('_', '-')}", value) if word
        ]
    return [str(word) for word in words[next(place for place, word in enumerate(words) if word.startswith("--")) :]]


def _flag(name: str, value: Any) -> list[str]:
    flag = name.replace("_", "-")
    return [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]


def test_arguments_take_other_forms() -> None:
    arguments = ["--dtype", "bfloat16", "--max-model-len", "512", "--enforce-eager", "--no-enable-prefix-caching"]
    assert fields_of(arguments) == {
        "dtype": "bfloat16",
        "max_model_len": 512,
        "enforce_eager": True,
        "enable_prefix_caching": False,
    }
    assert variables_of(arguments, "X_")["X_ENFORCE_EAGER"] == ""
    assert variables_of(arguments, "X_")["X_MAX_MODEL_LEN"] == "512"


@pytest.mark.parametrize("target", [target for target in TARGETS if target != "triton"])
def test_a_gpu_s_ranks_are_asked_for_together(target: str) -> None:
    config = {"serving": {**CONFIG["serving"], "tensor_parallel_size": 2}}
    text = "\n".join(files_of(target, config=config, serving={**GPU, "tensor_parallel_size": 2}).values())
    wanted = {
        "docker-compose": "count: 2",
        "systemd": "NVIDIA L4",
        "kserve": "nvidia.com/gpu: '2'",
        "llm-d": "nvidia.com/gpu: '2'",
        "ray-serve": "num_gpus: 2",
        "sagemaker": "has 2 GPU",
        "vertex": '"acceleratorCount": 2',
    }
    assert wanted[target] in text
    shared = {"docker-compose": "shm_size: 2048m", "kserve": "medium: Memory", "llm-d": "medium: Memory"}
    shared["vertex"] = '"sharedMemorySizeMb": "2048"'
    assert shared.get(target, "") in text
    assert "PrivateDevices" not in text
    assert "TORCHDYNAMO" not in text


class TestResources:
    def test_of_a_cpu_are_its_measured_peak(self) -> None:
        found = resources_of(champion(memory={"peak_process_bytes": 8 * GIB}, headroom=0.5))
        assert (found.memory_bytes, found.cpus, found.gpus) == ((12 + 2) * GIB, 3, 0)
        assert "peak of 8,192 MiB" in found.told[0]

    def test_without_a_peak_are_the_split_and_say_so(self) -> None:
        unread = {"peak_process_bytes": None, "weights_bytes_by_rank": [GIB], "kv_cache_bytes": 2 * GIB}
        found = resources_of(champion(memory=unread))
        assert found.memory_bytes == (1 + 2 + 3 + 2) * GIB
        assert "was not measured" in found.told[0]

    def test_of_a_gpu_server_tell_the_host_from_the_device(self) -> None:
        memory = {"artifact_bytes": 10 * GIB, "peak_process_bytes": 16 * GIB}
        found = resources_of(champion(serving=GPU, memory=memory))
        assert found.memory_bytes == 14 * GIB
        assert found.gpu_bytes == 20 * GIB
        assert "it was not measured" in found.told[0]
        unknown = resources_of(champion(serving=GPU, memory=memory | {"peak_process_bytes": None}))
        assert unknown.gpu_bytes is None
        assert "peak was not measured" in unknown.told[1]

    def test_less_than_was_measured_is_refused(self) -> None:
        one = champion(memory={"peak_process_bytes": 8 * GIB}, memory_gib=4)
        with pytest.raises(RequestError, match="less than the 8,192 MiB"):
            resources_of(one)
        assert resources_of(champion(memory={"peak_process_bytes": 2 * GIB}, memory_gib=4)).memory_bytes == 4 * GIB


class TestScaling:
    def test_rests_on_the_recipe_s_slo(self) -> None:
        one = champion(config={**CONFIG, "load": {"slo": {"ttft_seconds": 0.4}}})
        assert one.ttft_seconds == pytest.approx({1: 0.305, 4: 0.384, 8: 0.51, 32: 1.33}, abs=0.001), "of long prompts"
        found = scaling_of(one)
        assert (found.ttft_seconds, found.waiting, found.ongoing) == (0.4, 4, 4)
        assert "the recipe's SLO" in found.told[1]
        assert "the highest load that was measured" in found.told_ongoing

    @pytest.mark.parametrize(("limit", "ongoing", "said"), [(0.1, 1, "none had"), (1.5, 16, "all that it works on")])
    def test_tells_a_promise_that_no_load_kept_from_one_that_all_did(
        self, limit: float, ongoing: int, said: str
    ) -> None:
        found = scaling_of(champion(scale={"ttft_seconds": limit}))
        assert found.ongoing == ongoing
        assert said in found.told_ongoing

    def test_without_one_on_what_was_measured(self) -> None:
        found = scaling_of(champion())
        assert found.ttft_seconds == pytest.approx(2 * champion().ttft_seconds[8], abs=0.001)
        assert "8 requests at a time" in found.told[1]

    def test_without_a_load_test_it_says_so(self) -> None:
        found = scaling_of(champion(serving={"load_points": []}))
        assert (found.ttft_seconds, found.ongoing) == (2.0, 16)
        assert "no load test" in found.told[1]

    def test_what_is_set_goes_before(self) -> None:
        scale = {"waiting": 9, "ttft_seconds": 3, "percentile": 99, "most": 7}
        triggers = documents_of("kserve", scale=scale)["scaled-object.yaml"]["spec"]
        assert triggers["maxReplicaCount"] == 7
        waiting, ttft = triggers["triggers"]
        assert (waiting["metadata"]["threshold"], waiting["metricType"]) == ("9", "AverageValue")
        assert (ttft["metadata"]["threshold"], ttft["metricType"]) == ("3", "Value")
        assert "histogram_quantile(0.99" in ttft["metadata"]["query"]
        assert ttft["metadata"]["query"].endswith("or vector(0)")

    def test_a_failed_load_test_is_no_measure(self) -> None:
        points = champion().serving.load_points
        failed = [one.model_copy(update={"failed": 1}) for one in points]
        assert scaling_of(champion(serving={"load_points": failed})).ttft_seconds == 2.0


def test_a_start_that_skipped_the_imports_is_given_the_recipe_s_deadline() -> None:
    assert champion(serving={"start_seconds": 41.2}).startup_seconds == 124
    assert champion(serving={"start_seconds": 8.0, "forked": True}).startup_seconds == 600
    assert champion(serving={"start_seconds": None}).startup_seconds == 600
    container = documents_of("kserve", serving={"start_seconds": 41.2})["kserve.yaml"]["spec"]["predictor"]
    probe = container["containers"][0]["startupProbe"]
    assert probe["failureThreshold"] * probe["periodSeconds"] >= 124


def test_nothing_is_reached_from_elsewhere_and_nobody_is_root() -> None:
    services = documents_of("docker-compose")["compose.yaml"]["services"]
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert not service["user"].startswith("0")
    assert services["model"]["volumes"][0]["read_only"]
    pod = documents_of("llm-d")["servers.yaml"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"]
    (mounted,) = [one for one in pod["containers"][0]["volumeMounts"] if one["name"] == "model"]
    assert mounted["readOnly"]
    service = documents_of("kserve")["kserve.yaml"]
    assert service["metadata"]["labels"] == {"networking.kserve.io/visibility": "cluster-local"}
    unit = files_of("systemd")["quantbench.service"]
    assert "DynamicUser=yes" in unit
    assert '"--host" "127.0.0.1"' in unit
    assert documents_of("ray-serve")["serve.yaml"]["http_options"]["host"] == "127.0.0.1"
    assert documents_of("sagemaker")["create-model.yaml"]["EnableNetworkIsolation"]


def test_a_name_of_the_model_means_itself_everywhere() -> None:
    model = documents_of("docker-compose", model=ODD)["compose.yaml"]["services"]["model"]
    assert ODD in [word.replace("$$", "$") for word in model["command"]]
    words, _ = unit_commands(files_of("systemd", model=ODD)["quantbench.service"])
    assert ODD in words
    container = documents_of("llm-d", model=ODD)["servers.yaml"]["spec"]["template"]["spec"]["containers"][0]
    assert ODD in [word.replace("$$(", "$(") for word in container["args"]]
    assert ODD in documents_of("ray-serve", model=ODD)["serve.yaml"]["applications"][0]["args"]["command"]
    query = documents_of("kserve", model=ODD)["scaled-object.yaml"]["spec"]["triggers"][0]["metadata"]["query"]
    assert json.loads(re.findall(r"model_name=(.*)}\)$", query)[0]) == ODD


def test_the_dashboard_asks_for_what_scales_and_shows_the_limits() -> None:
    one = champion()
    dashboard = documents_of("docker-compose")["grafana/dashboard.json"]
    asked = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    assert one.container.metrics.waiting in asked
    assert f"{one.container.metrics.ttft}_bucket" in asked
    (first,) = [panel for panel in dashboard["panels"] if panel["title"] == "Time to first token"]
    steps = first["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert steps[1]["value"] == scaling_of(one).ttft_seconds
    assert len(panels_of(one)) == len(dashboard["panels"])


PLANTED: dict[str, tuple[str, str | None, Callable[[Any], object], str]] = {
    "compose: a service's key": ("docker-compose", None, lambda one: _model(one).update(comand=[]), "comand"),
    "compose: a limit": ("docker-compose", None, lambda one: _limits(one).update(memry="1g"), "memry"),
    "compose: a healthcheck": (
        "docker-compose",
        None,
        lambda one: _model(one)["healthcheck"].update(evry="1s"),
        "evry",
    ),
    "kserve: a pod's key": (
        "kserve",
        "InferenceService",
        lambda one: _predictor(one).update(minReplica=1),
        "minReplica",
    ),
    "kserve: a probe": ("kserve", "InferenceService", lambda one: _probe(one).update(periodSecond=1), "periodSecond"),
    "kserve: a probe's number": (
        "kserve",
        "InferenceService",
        lambda one: _probe(one).update(periodSeconds="1"),
        "'1'",
    ),
    "keda: a trigger's key": ("kserve", "ScaledObject", lambda one: _trigger(one).update(treshold="1"), "treshold"),
    "keda: a threshold": ("kserve", "ScaledObject", lambda one: _trigger(one).update(threshold=1), "1 is not of type"),
    "keda: a count": ("kserve", "ScaledObject", lambda one: one["spec"].update(maxReplicas=1), "maxReplicas"),
    "llm-d: the pool's key": ("llm-d", "InferencePool", lambda one: one["spec"].update(targetPort=1), "targetPort"),
    "llm-d: a port": ("llm-d", "InferencePool", lambda one: one["spec"]["targetPorts"][0].update(number=0), "minimum"),
    "llm-d: the pod": ("llm-d", "Deployment", lambda one: one["spec"]["template"]["spec"].update(volume=[]), "volume"),
    "llm-d: a route": ("llm-d", "HTTPRoute", lambda one: one["spec"]["rules"][0].update(match=[]), "match"),
    "ray: a replica's key": ("ray-serve", None, lambda one: _replica(one).update(max_ongoing=1), "max_ongoing"),
    "ray: scaling": ("ray-serve", None, lambda one: _replica(one)["autoscaling_config"].update(most=1), "most"),
    "ray: a number": ("ray-serve", None, lambda one: _replica(one).update(max_ongoing_requests=0), "minimum"),
    "aws: a container": ("sagemaker", None, lambda one: one["PrimaryContainer"].update(Env={}), "Env"),
    "aws: a model": ("sagemaker", None, lambda one: one.pop("ModelName"), "ModelName"),
    "vertex: a container": ("vertex", None, lambda one: one["model"]["containerSpec"].update(arg=[]), "arg"),
    "vertex: a port": ("vertex", None, lambda one: one["model"]["containerSpec"].update(ports=["80"]), "'80'"),
    "triton: a group": ("triton", None, lambda one: one["instance_group"][0].update(kind="KIND_TPU"), "KIND_TPU"),
    "triton: a key": ("triton", None, lambda one: one.update(backnd="vllm"), "backnd"),
}
"""Target, kind (None: its first document), what is planted, what is said of it."""


def _model(compose: Any) -> Any:
    return compose["services"]["model"]


def _limits(compose: Any) -> Any:
    return _model(compose)["deploy"]["resources"]["limits"]


def _predictor(service: Any) -> Any:
    return service["spec"]["predictor"]


def _probe(service: Any) -> Any:
    return _predictor(service)["containers"][0]["startupProbe"]


def _trigger(scaled: Any) -> Any:
    return scaled["spec"]["triggers"][0]["metadata"]


def _replica(config: Any) -> Any:
    return config["applications"][0]["deployments"][0]


@pytest.mark.parametrize("name", PLANTED)
def test_a_schema_sees_a_planted_fault(name: str) -> None:
    target, kind, plant, said = PLANTED[name]
    held = render(champion(target), target).documents
    (one,) = [one for one in held if one.document.get("kind") == kind][:1]
    plant(one.document)
    with pytest.raises(StageError) as caught:
        if one.definition is None:
            check_documents([one.document], one.schema_file)
        else:
            check_document(one.document, one.schema_file, one.definition)
    assert said in caught.value.what


@pytest.mark.parametrize(
    ("target", "changed", "said"),
    [
        ("docker-compose", {"storage": "s3://models/a"}, "from a folder"),
        ("systemd", {"storage": "./model"}, "by its whole path"),
        ("ray-serve", {"storage": "model"}, "by its whole path"),
        ("kserve", {"storage": "/srv/model"}, "from an address"),
        ("llm-d", {"storage": "s3://models/a"}, "from a volume"),
        ("llm-d", {"storage": "pvc://models"}, "from a volume"),
        ("triton", {"image": None}, "which of Triton's images"),
        ("triton", {"serving": {"device": "cpu"}}, "is for GPUs"),
        ("sagemaker", {"role": None, "machine": "g5"}, "wants role, machine of you"),
        ("sagemaker", {"storage": "gs://models/a"}, "wants storage of you"),
        ("vertex", {"accelerator": None, "serving": GPU}, "wants accelerator of you"),
        ("docker-compose", {"name": "nf4"}, "which vllm/vllm-openai-cpu:v0.32.0 has not"),
        ("nginx", {}, "no target 'nginx'"),
        ("fastertransformer", {}, "fastertransformer is not rendered for"),
        ("DeepSpeed-MII", {}, "DeepSpeed-MII is not rendered for"),
        ("deepspeed_mii", {}, "is not rendered for"),
    ],
)
def test_what_a_target_lacks_is_refused(target: str, changed: dict[str, Any], said: str) -> None:
    row = {"name": changed.pop("name")} if "name" in changed else {}
    with pytest.raises(RequestError, match=re.escape(said)) as caught:
        render(champion(target, **row, **changed), target)
    assert caught.value.remedy


def test_what_ended_is_named_with_what_took_its_place() -> None:
    for target, place in (("fastertransformer", "TensorRT-LLM"), ("deepspeed-mii", "vLLM")):
        with pytest.raises(RequestError) as caught:
            render(champion(), target)
        assert place in caught.value.remedy
        assert "--target" in caught.value.remedy


@pytest.mark.parametrize(
    ("field", "recipe", "measured"),
    [("max_num_seqs", 16, 32), ("tensor_parallel_size", 1, 2), ("eager", True, False)],
)
def test_a_record_that_says_otherwise_than_its_recipe_is_refused(field: str, recipe: Any, measured: Any) -> None:
    champion(serving={field: recipe})
    with pytest.raises(RequestError, match="was measured with"):
        champion(serving={field: measured})


def test_what_was_not_measured_is_not_deployed() -> None:
    with pytest.raises(RequestError, match="awq was not measured in run run-1: inspect:awq"):
        champion(name="awq", unmeasured=True)


def test_an_image_of_the_user_s_own_serves_what_the_engine_s_cannot() -> None:
    services = documents_of("docker-compose", name="nf4", image="registry/vllm-bnb:1")["compose.yaml"]["services"]
    assert services["model"]["image"] == "registry/vllm-bnb:1"
    assert "vllm-bnb-plugin" in files_of("systemd", name="nf4")["quantbench.service"]


@pytest.mark.parametrize(
    "override",
    [
        "name=Upper",
        "namespace=a.b",
        "image=vllm/vllm-openai",
        "image=vllm/vllm-openai:latest",
        "storage='a b'",
        "storage='pvc://m/{{x}}'",
        "storage='/m\nExecStartPre=evil'",
        "storage='/m:/etc'",
        "python=python3",
        "python='/usr/bin/python3 -c evil'",
        "prometheus='http://a b'",
        "prometheus='http://user:secret@host'",
        "role=arn:aws:iam::1:role/x",
        "headroom=1.5",
        "memory_gib=0",
        "port=0",
        'model="a\\nb"',
        "scale={least: 0}",
        "scale={least: 3, most: 2}",
        "scale={percentile: 42}",
        "scale.waitng=1",
        "nmae=a",
    ],
)
def test_a_setting_that_could_mean_something_else_is_refused(override: str) -> None:
    with pytest.raises(ConfigError) as caught:
        model_of_overrides(DeployConfig, [override])
    assert caught.value.remedy


class TestCommand:
    @pytest.fixture
    def workspace(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[str], str]]:
        """`--workspace DIR`, and the digest of its only artifact, gptq."""
        monkeypatch.chdir(tmp_path)
        workspace, digest = workspace_with(tmp_path, **CONFIG)
        yield ["--workspace", str(workspace.root)], digest

    def test_writes_every_file_of_a_target(
        self, workspace: tuple[list[str], str], capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        options, digest = workspace
        render = ["deploy", "render", "gptq", "--target", "docker-compose", *options]
        assert main([*render, "--output", "out"]) == 0
        written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
        assert written == {
            "compose.yaml",
            "prometheus.yml",
            *(f"grafana/{name}" for name in ("datasource.yaml", "provider.yaml", "dashboard.json")),
        }
        assert digest in (tmp_path / "out" / "compose.yaml").read_text()
        assert "written: out/compose.yaml" in capsys.readouterr().err
        assert main(render) == 0
        assert "==> grafana/dashboard.json <==" in capsys.readouterr().out
        assert main(["deploy", "render", digest[:18], "--target", "docker-compose", *options]) == 0

    def test_takes_what_the_alias_points_at(
        self, workspace: tuple[list[str], str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        options, digest = workspace
        asked = ["deploy", "render", "--target", "systemd", *options]
        assert main(asked) == 2
        assert "nothing of smollm2-135m-demo is champion" in capsys.readouterr().err
        entry = Entry(
            model="smollm2-135m-demo",
            stream="alias:champion",
            sequence=1,
            kind="promote",
            at=datetime(2026, 5, 1, tzinfo=UTC),
            who="alice",
            why="",
            version_to="7",
            artifact=digest,
            name="gptq",
        )
        Ledger(sqlite_uri(Path(options[1]) / "ledger.db")).append(entry, None)
        for named in ([], ["--alias", "champion"]):
            assert main([*asked, *named]) == 0
            assert "gptq (gptq), version 7" in capsys.readouterr().out
        assert main([*asked, "--alias", "production"]) == 2
        assert "no alias 'production'" in capsys.readouterr().err
        assert main(["deploy", "render", "gptq", *asked[2:], "--alias", "champion"]) == 2
        assert "both name a model" in capsys.readouterr().err

    def test_settings_come_from_a_file_and_the_command_line(
        self, workspace: tuple[list[str], str], capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        (tmp_path / "deploy.yaml").write_text("storage: pvc://models/gptq\nscale: {most: 9}\n")
        options = [*workspace[0], "--config", "deploy.yaml", "--set", "namespace=serving"]
        assert main(["deploy", "render", "gptq", "--target", "kserve", *options]) == 0
        printed = capsys.readouterr().out
        assert "maxReplicaCount: 9" in printed
        assert "namespace: serving" in printed

    @pytest.mark.parametrize("target", ["fastertransformer", "helm"])
    def test_a_target_that_is_none_is_told_before_anything_is_read(
        self, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["deploy", "render", "--target", target, "--workspace", str(tmp_path / "none")]) == 2
        assert target in capsys.readouterr().err

    def test_writes_nothing_where_a_file_does_not_fit(
        self, workspace: tuple[list[str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def refuses(*_: object) -> None:
            raise StageError("it does not fit", remedy="none")

        monkeypatch.setattr("pipelines.rendering.deploy.targets.check_document", refuses)
        command = ["deploy", "render", "gptq", "--target", "docker-compose", *workspace[0], "--output", "out"]
        assert main(command) == 3
        assert not (tmp_path / "out").exists()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed here")
@pytest.mark.parametrize("model", ["smollm2", ODD])
def test_systemd_takes_the_unit(model: str, tmp_path: Path) -> None:
    python = shutil.which("python3")
    text = files_of("systemd", model=model, python=python)["quantbench.service"]
    unit = tmp_path / "quantbench.service"

    def verified() -> str:
        command = ["systemd-analyze", "verify", "--man=no", str(unit)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        return "\n".join(line for line in done.stderr.splitlines() if "quantbench.service" in line)

    unit.write_text(text)
    assert verified() == ""
    unit.write_text(text.replace("DynamicUser=", "DynamikUser="))
    assert "DynamikUser" in verified()


def test_every_target_that_wants_something_is_tried() -> None:
    assert set(SETTINGS) < set(TARGETS)
