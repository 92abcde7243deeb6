"""The gateway's policy for other engines: what is written, what is refused, and what a schema sees."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.errors import ConfigError, RequestError, StageError
from configs.loading import load_yaml_model
from pipelines.cli import main
from pipelines.recipe.gateway_config import GatewayConfig
from pipelines.rendering import targets
from pipelines.rendering.targets import TARGETS, render
from pipelines.rendering.validation import check_documents
from tests.architecture.repository import ROOT
from tests.walks import take, walk_of

LEAST = "version: 1\nname: live\nmodel: demo\n"
STORED = (
    "render: {champion: {service: champion, storage: 'pvc://models/champion'},"
    " candidate: {service: candidate, storage: 'pvc://models/candidate'}}\n"
)
CONFIGS = {
    "the least": LEAST,
    "a split": f"{LEAST}split: {{share: 0.05, key_header: x-user}}\nmirror: {{share: 0.125}}\n{STORED}",
    "odd numbers": (
        "version: 1\nname: live\nmodel: 'a \"model\" # of: {odd} names'\nmirror: {share: 0, queue: 1}\n"
        "patience: {connect_seconds: 0.25, silence_seconds: 86400}\nlisten: {port: 65535, body_mib: 0.5}\n"
        "render: {champion: {service: a, address: 10.0.0.7}, candidate: {service: b, address: b.example.org}}\n"
    ),
}
KEY = "sha256:" + "0" * 64


def rendered_file(folder: Path, name: str, target: str) -> Path:
    """What the command writes for one of CONFIGS."""
    config = folder / "gateway.yaml"
    config.write_text(CONFIGS[name])
    assert main(["shadow", "render", str(config), "--target", target, "--output", str(folder)]) == 0
    return folder / f"{target}.yaml"


def config_of(folder: Path, text: str, *overrides: str) -> GatewayConfig:
    file = folder / "gateway.yaml"
    file.write_text(text)
    return load_yaml_model(file, GatewayConfig, overrides)


def documents_of(folder: Path, target: str, *overrides: str) -> dict[str, dict[str, Any]]:
    """By kind; of several the last."""
    rendered = render(config_of(folder, CONFIGS["a split"], *overrides), target)
    read = yaml.safe_load_all(rendered.text("gateway.yaml"))
    return {document.get("kind", "bootstrap"): document for document in read}


@pytest.mark.parametrize("target", TARGETS)
def test_a_file_begins_with_what_it_is_and_what_it_cannot(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = rendered_file(tmp_path, "a split", target).read_text()
    head = text[: text.index("\n", text.rindex("\n# ") + 1)]
    assert all(line.startswith("#") for line in head.splitlines())
    assert "from gateway.yaml" in " ".join(head.replace("#", " ").split())
    assert "What it does not do that `quantbench shadow up` does:" in head
    assert f"{target}.yaml" in head, "the command that applies it"
    assert "&id" not in text
    config = str(tmp_path / "gateway.yaml")
    assert main(["shadow", "render", config, "--target", target]) == 0
    assert capsys.readouterr().out == text


def test_the_walk_prints_what_the_document_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    take(walk_of(ROOT / "docs" / "rendering.md"), capsys)


def test_a_route_has_the_weights_and_the_mirror(tmp_path: Path) -> None:
    asked, models = documents_of(tmp_path, "httproute")["HTTPRoute"]["spec"]["rules"]
    assert [(one["name"], one["weight"]) for one in asked["backendRefs"]] == [("champion", 9500), ("candidate", 500)]
    ((mirror,),) = [[one["requestMirror"] for one in asked["filters"]]]
    assert mirror == {
        "backendRef": {"name": "candidate", "port": 8000},
        "fraction": {"numerator": 1250, "denominator": 10000},
    }
    assert [one["name"] for one in models["backendRefs"]] == ["champion"]
    (asked, _) = documents_of(tmp_path, "httproute", "mirror.share=0", "split.share=0.00001")["HTTPRoute"]["spec"][
        "rules"
    ]
    assert "filters" not in asked
    assert asked["backendRefs"][1]["weight"] == 1, "a share that is asked for is never rounded to none"


def test_argo_takes_pass_and_fail_from_the_verdict_and_waits_else(tmp_path: Path) -> None:
    documents = documents_of(tmp_path, "argo-rollouts", "render.verdict_minutes=90")
    (metric,) = documents["AnalysisTemplate"]["spec"]["metrics"]
    assert metric["provider"]["web"]["url"] == "http://quantbench-gateway.default.svc:8080/verdict"
    assert metric["provider"]["web"]["jsonPath"] == "{$.outcome}"
    assert (metric["successCondition"], metric["failureCondition"]) == ('result == "pass"', 'result == "fail"')
    # Without a `count` it goes on until one of these is reached.
    assert "count" not in metric
    assert (metric["consecutiveSuccessLimit"], metric["failureLimit"], metric["inconclusiveLimit"]) == (1, 0, 90)
    canary = documents["Rollout"]["spec"]["strategy"]["canary"]
    assert [step["setWeight"] for step in canary["steps"] if "setWeight" in step] == [1, 5, 25, 100]
    assert [next(iter(step)) for step in canary["steps"]] == ["setWeight", "pause", "analysis"] * 4
    (container,) = documents["Rollout"]["spec"]["template"]["spec"]["containers"]
    assert container["volumeMounts"][0]["subPath"] == "candidate"
    arguments = container["command"]
    assert arguments[arguments.index("--served-model-name") + 1] == "demo"
    backends = documents["HTTPRoute"]["spec"]["rules"][0]["backendRefs"]
    assert [one["weight"] for one in backends] == [10_000, 0], "Argo moves them"
    mirror = documents["HTTPRoute"]["spec"]["rules"][0]["filters"][0]["requestMirror"]["backendRef"]
    assert mirror == {"name": "quantbench-gateway", "port": 8080}, "which makes the pairs"


def test_argo_asks_with_a_key_that_stands_in_no_file(tmp_path: Path) -> None:
    listen = [f"listen.api_keys=[{KEY}]", "listen.host=0.0.0.0"]
    rendered = render(config_of(tmp_path, CONFIGS["a split"], *listen), "argo-rollouts")
    (analysis,) = [one for one in rendered.documents if one["kind"] == "AnalysisTemplate"]
    secret = {"secretKeyRef": {"name": "quantbench-gateway", "key": "key"}}
    assert analysis["spec"]["args"] == [{"name": "api-key", "valueFrom": secret}]
    headers = analysis["spec"]["metrics"][0]["provider"]["web"]["headers"]
    assert headers == [{"key": "Authorization", "value": "Bearer {{args.api-key}}"}]
    assert any("create secret generic quantbench-gateway" in command for command in rendered.commands)
    assert KEY not in rendered.text("gateway.yaml")


def test_kserve_has_the_candidate_as_its_canary(tmp_path: Path) -> None:
    service = documents_of(tmp_path, "kserve")["InferenceService"]
    assert service["metadata"]["annotations"] == {"serving.kserve.io/deploymentMode": "Standard"}
    ((canary,), predictor) = service["spec"]["canary"], service["spec"]["predictor"]
    assert (canary["trafficPercent"], canary["predictor"]["name"], predictor["name"]) == (5, "candidate", "champion")
    assert canary["predictor"]["model"]["storageUri"] == "pvc://models/candidate"
    # Rules of its webhook: as many replicas as the predictor's at most, none of the keys of scaling.
    assert canary["predictor"].keys() == {"name", "minReplicas", "model"}


def test_envoy_has_the_policy_and_an_observer_that_nobody_waits_for(tmp_path: Path) -> None:
    resources = documents_of(tmp_path, "envoy", "patience.silence_seconds=7")["bootstrap"]["static_resources"]
    (listener,) = resources["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    buffer, observing, _ = (one["typed_config"] for one in manager["http_filters"])
    assert buffer["max_request_bytes"] == 8 << 20
    assert (observing["observability_mode"], observing["failure_mode_allow"]) == (True, True)
    assert "authorization" not in str(observing["forward_rules"])
    (host,) = manager["route_config"]["virtual_hosts"]
    asked = host["routes"][0]["route"]
    assert [one["name"] for one in asked["weighted_clusters"]["clusters"]] == ["candidate", "champion"]
    assert [one["header"]["header_name"] for one in asked["hash_policy"]] == ["x-user", "authorization", "x-request-id"]
    assert (asked["timeout"], asked["idle_timeout"], manager["request_timeout"]) == ("0s", "7.000s", "30.000s")
    addresses = [listener["address"], resources["clusters"][2]["load_assignment"]["endpoints"][0]["lb_endpoints"][0]]
    assert all("127.0.0.1" in str(one) for one in addresses)


PLANTED: dict[str, tuple[str, Callable[[dict[str, Any]], object], str]] = {
    "a mirror's key": ("httproute", lambda one: _at(one, "filters", 0, "requestMirror").update(persent=5), "persent"),
    "a backend's key": ("httproute", lambda one: _at(one, "backendRefs", 0).update(wieght=5), "wieght"),
    "a weight as text": ("httproute", lambda one: _at(one, "backendRefs", 0).update(weight="5"), "'5' is not of type"),
    "a weight in parts": ("httproute", lambda one: _at(one, "backendRefs", 0).update(weight=0.5), "0.5 is not of type"),
    "a weight of millions": ("httproute", lambda one: _at(one, "backendRefs", 0).update(weight=2_000_000), "maximum"),
    "a filter that is none": ("httproute", lambda one: _at(one, "filters", 0).update(type="Mirror"), "'Mirror'"),
    "a limit's name": ("argo-rollouts", lambda one: _metric(one).update(failureLimits=0), "failureLimits"),
    "a condition in a list": ("argo-rollouts", lambda one: _metric(one).update(successCondition=["x"]), "not of type"),
    "a provider": ("argo-rollouts", lambda one: _metric(one)["provider"].update(wep={}), "wep"),
    "no address": ("argo-rollouts", lambda one: _metric(one)["provider"]["web"].pop("url"), "'url' is a required"),
    "a step": ("argo-rollouts", lambda one: _canary(one)["steps"][0].update(setWieght=1), "setWieght"),
    "a weight of a step": ("argo-rollouts", lambda one: _canary(one)["steps"][0].update(setWeight="1"), "not of type"),
    "a container's key": ("argo-rollouts", lambda one: _container(one).update(comand=[]), "comand"),
    "a port's protocol": ("argo-rollouts", lambda one: one["spec"]["ports"][0].update(protocol="QUIC"), "'QUIC'"),
    "traffic": ("kserve", lambda one: one["spec"]["canary"][0].update(traficPercent=5), "traficPercent"),
    "traffic as text": ("kserve", lambda one: one["spec"]["canary"][0].update(trafficPercent="5"), "not of type"),
    "a predictor's key": ("kserve", lambda one: one["spec"]["predictor"].update(minReplica=1), "minReplica"),
    "a format": ("kserve", lambda one: one["spec"]["predictor"]["model"].pop("modelFormat"), "'modelFormat'"),
}


def _at(document: dict[str, Any], *keys: Any) -> Any:
    found: Any = document["spec"]["rules"][0]
    for key in keys:
        found = found[key]
    return found


def _metric(document: dict[str, Any]) -> Any:
    return document["spec"]["metrics"][0]


def _canary(document: dict[str, Any]) -> Any:
    return document["spec"]["strategy"]["canary"]


def _container(document: dict[str, Any]) -> Any:
    return document["spec"]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("name", PLANTED)
def test_a_schema_sees_a_planted_fault(name: str, tmp_path: Path) -> None:
    target, plant, said = PLANTED[name]
    _, *schemas = TARGETS[target]
    planted = 0
    for document in render(config_of(tmp_path, CONFIGS["a split"]), target).documents:
        check_documents([document], *schemas)
        try:
            plant(document)
        except LookupError:
            continue
        planted += 1
        with pytest.raises(StageError) as caught:
            check_documents([document], *schemas)
        assert said in caught.value.what
    assert planted


def test_a_kind_without_a_schema_is_not_waved_through() -> None:
    with pytest.raises(StageError, match="no schema for a ConfigMap"):
        check_documents([{"kind": "ConfigMap"}], "kserve.json", "gateway_api.json")
    with pytest.raises(StageError, match="no schema for a None"):
        check_documents([{}], "kserve.json")


def test_nothing_is_written_where_a_file_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = rendered_file(tmp_path, "the least", "httproute")
    before = file.read_text()

    def refuses(*_: object) -> None:
        raise StageError("it does not fit", remedy="none")

    monkeypatch.setattr(targets, "check_documents", refuses)
    config = str(tmp_path / "gateway.yaml")
    arguments = ["--set", "split.share=1", "--target", "httproute", "--output", str(tmp_path)]
    assert main(["shadow", "render", config, *arguments]) == 3
    assert file.read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gateway.yaml", "httproute.yaml"]


@pytest.mark.parametrize(
    ("target", "overrides", "said"),
    [
        ("kserve", ["render.champion.storage=null"], "where the champion's artifact lies"),
        ("kserve", ["split.share=0.125"], "whole percents"),
        ("kserve", ["render.candidate.service=champion", "render.candidate.port=8001"], "both called champion"),
        ("kserve", ["serving={engine: transformers}"], "no container is known for servers of transformers"),
        ("argo-rollouts", ["render.candidate.storage=s3://models/candidate"], "takes an artifact from a volume"),
        ("argo-rollouts", ["render.candidate.storage=pvc://models"], "takes an artifact from a volume"),
        ("argo-rollouts", ["render.candidate.service=champion", "render.candidate.port=8001"], "both called champion"),
        ("httproute", ["render.candidate.served_model=other"], "the candidate's server calls the model other"),
        ("envoy", ["render.champion.served_model=other"], "the champion's server calls the model other"),
        ("envoy", ["render.candidate.served_model=other"], "the candidate's server calls the model other"),
        ("envoy", [f"listen.api_keys=[{KEY}]"], "cannot check API keys"),
        ("envoy", [f"listen.api_keys=[{KEY}]", "listen.host=0.0.0.0"], "cannot check API keys"),
        ("envoy", ["listen.body_mib=5000"], "holds no body of 5000 MiB"),
        ("envoy", ["render.admin_port=8080"], "8080 is asked for twice"),
        ("envoy", ["render.observer_port=9901"], "9901 is asked for twice"),
        ("nginx", [], "no target 'nginx'"),
    ],
)
def test_what_a_target_cannot_do_is_refused(target: str, overrides: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        render(config_of(tmp_path, CONFIGS["a split"], *overrides), target)
    assert caught.value.remedy


def test_a_candidate_of_another_name_may_be_shadowed_by_envoy(tmp_path: Path) -> None:
    overrides = ["split.share=0", "render.candidate.served_model=other"]
    render(config_of(tmp_path, CONFIGS["a split"], *overrides), "envoy")


@pytest.mark.parametrize(
    "override",
    [
        "render.name=Upper",
        "render.name=under_score",
        "render.name=a.b",
        "render.name=1st",
        "render.name=ends-",
        f"render.name={'a' * 64}",
        "render.namespace=''",
        "render.champion={service: a, address: 'a b'}",
        "render.champion={service: a, address: '-a'}",
        "render.champion={service: a, port: 0}",
        "render.champion={service: a, port: 65536}",
        "render.champion={service: a, storage: '/mnt/models'}",
        "render.champion={service: a, storage: 'pvc://m/{{x}}'}",
        "render.image=vllm/vllm-openai",
        "render.image=vllm/vllm-openai:latest",
        "render.image=registry:5000/vllm",
        "render.nmae=a",
        "render={candidate: {service: champion}}",
        "render={champion: {service: a, address: 10.0.0.1}, candidate: {service: b, address: 10.0.0.1}}",
        "render.verdict_minutes=0",
    ],
)
def test_names_that_kubernetes_would_refuse_are_refused_first(override: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        config_of(tmp_path, LEAST, override)
    assert caught.value.remedy


def test_a_file_s_name_stays_in_its_comment(tmp_path: Path) -> None:
    rendered = render(config_of(tmp_path, LEAST), "httproute")
    text = rendered.text("a\nkind: Secret\x85kind: Secret\u2028kind: Secret.yaml")
    (document,) = yaml.safe_load_all(text)
    assert document["kind"] == "HTTPRoute"
    assert text.partition("\napiVersion")[0].count("\n#") == text.partition("\napiVersion")[0].count("\n")
