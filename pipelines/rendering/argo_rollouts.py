"""Argo Rollouts: a canary that goes on with a passed verdict of ours, back with a failed one, and waits else.

A measurement for which neither condition holds is inconclusive, and a metric with more of them than `inconclusiveLimit`
pauses the rollout at its step (argo-rollouts, docs/features/analysis.md: Inconclusive Runs). `failureLimit: 0` fails it
at the first failed one; `consecutiveSuccessLimit: 1` (since 1.8) ends it at the first passed one, so that a metric
without a `count` waits for a verdict and no longer.
"""

from typing import Any

from configs.errors import RequestError
from pipelines.recipe.gateway_config import GatewayConfig
from pipelines.recipe.render_config import SideConfig
from pipelines.rendering.document import Rendered, whole_percent
from pipelines.rendering.httproute import mirror_of, route_of
from pipelines.rendering.sides import check_two_services, container_of, storage_of

_STEPS = (0.01, 0.05, 0.25, 1.0)
_MODELS = "/mnt/models"
_PLUGIN = "argoproj-labs/gatewayAPI"
_CLAIM = "pvc://"


def render_argo_rollouts(config: GatewayConfig) -> Rendered:
    """Rollout, Services, route and AnalysisTemplate, for Argo Rollouts 1.8 or later with the Gateway API's plugin.

    Raises:
        RequestError: An artifact is not on a volume, or no container is known for the engine.
    """
    render = config.render
    check_two_services(config)
    url = f"http://{render.verdict_service}.{render.namespace}.svc:{config.listen.port}"
    hidden = f" By this config it listens on {config.listen.host}, which no other pod reaches."
    cannot = [
        f"Pairs and the verdict are those of `quantbench shadow up`, which runs beside it as {render.verdict_service}:"
        " the route sends it a copy of its share of requests, and it asks champion and candidate itself."
        + (hidden if config.listen.is_loopback else ""),
        "Weights are drawn for each request and not by client, in whole percents.",
        "A gateway that does not answer five times on end aborts the rollout: back to the champion.",
        "The ledger is not written. After the last step: quantbench registry promote ... --to champion.",
        "No GPU is asked for: add `resources` to the container where it needs one.",
    ]
    commands = [
        "kubectl apply --server-side -f argo-rollouts.yaml",
        "# The first time there is nothing to compare with and all steps are passed over, so begin with the champion:",
        "# quantbench shadow render ... --set render.candidate.storage=(that of the champion)",
    ]
    if config.listen.api_keys:
        commands.insert(0, f"kubectl -n {render.namespace} create secret generic {_secret(config)} --from-file=key")
    purpose = f"Argo Rollouts: {config.model} from champion to candidate, a step for each passed verdict."
    documents = [
        _service(config, render.champion),
        _service(config, render.candidate),
        route_of(config, weight=0, mirror=mirror_of(config, render.verdict_service, config.listen.port)),
        _analysis(config, f"{url}/verdict"),
        _rollout(config),
    ]
    return Rendered("argo-rollouts.yaml", purpose, cannot, commands, documents)


def _service(config: GatewayConfig, side: SideConfig) -> dict[str, Any]:
    # Argo adds the hash of the stable, or of the new, pods to the selector.
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": side.service, "namespace": config.render.namespace},
        "spec": {
            "selector": {"app": config.render.name},
            "ports": [{"name": "http", "port": side.port, "targetPort": "http"}],
        },
    }


def _analysis(config: GatewayConfig, url: str) -> dict[str, Any]:
    web: dict[str, Any] = {"url": url, "jsonPath": "{$.outcome}", "timeoutSeconds": 10}
    spec: dict[str, Any] = {}
    if config.listen.api_keys:
        secret = {"secretKeyRef": {"name": _secret(config), "key": "key"}}
        spec["args"] = [{"name": "api-key", "valueFrom": secret}]
        web["headers"] = [{"key": "Authorization", "value": "Bearer {{args.api-key}}"}]
    spec["metrics"] = [
        {
            "name": "verdict",
            "interval": "1m",
            "successCondition": 'result == "pass"',
            "failureCondition": 'result == "fail"',
            "consecutiveSuccessLimit": 1,
            "failureLimit": 0,
            "inconclusiveLimit": config.render.verdict_minutes,
            "provider": {"web": web},
        }
    ]
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "AnalysisTemplate",
        "metadata": {"name": config.render.name, "namespace": config.render.namespace},
        "spec": spec,
    }


def _rollout(config: GatewayConfig) -> dict[str, Any]:
    render = config.render
    steps: list[dict[str, Any]] = []
    for share in _STEPS:
        steps.append({"setWeight": whole_percent(share, "a step of the ramp")})
        # The verdict is over pairs, which do not grow with the weight; this is for what load alone shows.
        steps.append({"pause": {"duration": f"{render.step_minutes}m"}})
        steps.append({"analysis": {"templates": [{"templateName": render.name}]}})
    labels = {"app": render.name}
    route = {"httpRoute": render.name, "namespace": render.namespace}
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Rollout",
        "metadata": {"name": render.name, "namespace": render.namespace},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": _pod(config)},
            "strategy": {
                "canary": {
                    "stableService": render.champion.service,
                    "canaryService": render.candidate.service,
                    "trafficRouting": {"plugins": {_PLUGIN: route}},
                    "steps": steps,
                }
            },
        },
    }


def _pod(config: GatewayConfig) -> dict[str, Any]:
    render = config.render
    storage = storage_of(config, "candidate")
    claim, _, folder = storage.removeprefix(_CLAIM).partition("/")
    if not storage.startswith(_CLAIM) or not folder:
        raise RequestError(
            f"a pod takes an artifact from a volume, and render.candidate.storage is {storage}",
            remedy="copy it to one and name it, such as pvc://models/candidate",
        )
    port, known = render.candidate.port, container_of(config)
    container = {
        "name": "server",
        "image": render.image or known.image,
        # To all of its pod's addresses: the Services ask there.
        "command": [*known.command, _MODELS, "--host", "0.0.0.0", "--port", str(port), *known.arguments],  # noqa: S104
        "ports": [{"name": "http", "containerPort": port}],
        "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 5},
        "volumeMounts": [{"name": "models", "mountPath": _MODELS, "subPath": folder, "readOnly": True}],
    }
    volume = {"name": "models", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
    return {"automountServiceAccountToken": False, "containers": [container], "volumes": [volume]}


def _secret(config: GatewayConfig) -> str:
    """Of the key by which the verdict is asked."""
    return config.render.verdict_service
