"""llm-d: servers in a Deployment, the InferencePool that its router picks from, and the route to the pool."""

from typing import Any

from pipelines.rendering.deploy.champion import Champion
from pipelines.rendering.deploy.files import Deployment, json_body, of_kinds, yaml_body
from pipelines.rendering.deploy.monitoring import dashboard_of
from pipelines.rendering.deploy.pod import annotations, around, claimed, pod_checks, server_of
from pipelines.rendering.deploy.resources import Resources, resources_of
from pipelines.rendering.deploy.scaling import scaled_object, scaling_of

_POOL_GROUP = "inference.networking.k8s.io"
_PICKER_PORT = 9002


def render(champion: Champion) -> Deployment:
    """For Gateway API Inference Extension 1.6 and KEDA 2.20. Raises RequestError for an artifact on no volume."""
    settings, resources, scaling = champion.settings, resources_of(champion), scaling_of(champion)
    picker = f"{settings.name}-epp"
    servers, pool, route = _servers(champion, resources), _pool(champion, picker), _route(champion)
    scaled = scaled_object(champion, settings.name)
    check = [
        *pod_checks(champion, resources),
        f"llm-d's router (github.com/llm-d/llm-d-router) runs as Service {picker} at port {_PICKER_PORT}, installed by"
        " its own chart for this pool; without it the gateway answers with an error (failureMode FailClose).",
        f"The Gateway {settings.parent_gateway} is one that knows InferencePools.",
    ]
    every = "-f servers.yaml -f inference-pool.yaml -f route.yaml -f scaled-object.yaml"
    commands = [
        f"quantbench artifacts export {champion.name} FOLDER --run {champion.run_id}   # then copy it to"
        f" {settings.storage}",
        f"kubectl apply --server-side --dry-run=server {every}",
        f"kubectl apply --server-side {every}",
    ]
    bodies = [
        yaml_body("servers.yaml", servers),
        yaml_body("inference-pool.yaml", pool),
        yaml_body("route.yaml", route),
        yaml_body("scaled-object.yaml", scaled),
        json_body("grafana-dashboard.json", dashboard_of(champion)),
    ]
    held = [
        *of_kinds("kubernetes.json", [servers]),
        *of_kinds("inference_pool.json", [pool]),
        *of_kinds("gateway_api.json", [route]),
        *of_kinds("keda.json", [scaled]),
    ]
    rests_on = [*resources.told, *scaling.told]
    return Deployment(f"llm-d: {champion.model}.", bodies, held, rests_on, check, commands)


def _servers(champion: Champion, resources: Resources) -> dict[str, Any]:
    settings = champion.settings
    volume, mount = claimed(champion)
    pod, container = around(resources), server_of(champion, resources, "server")
    pod["volumes"] = [*pod["volumes"], volume]
    pod["containers"] = [{**container, "volumeMounts": [*container["volumeMounts"], mount]}]
    labels = {"app": settings.name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": settings.name, "namespace": settings.namespace, "annotations": champion.metadata()},
        # How many there are is KEDA's affair.
        "spec": {
            "selector": {"matchLabels": labels},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {"metadata": {"labels": labels, "annotations": annotations(champion)}, "spec": pod},
        },
    }


def _pool(champion: Champion, picker: str) -> dict[str, Any]:
    settings = champion.settings
    return {
        "apiVersion": f"{_POOL_GROUP}/v1",
        "kind": "InferencePool",
        "metadata": {"name": settings.name, "namespace": settings.namespace},
        "spec": {
            "selector": {"matchLabels": {"app": settings.name}},
            "targetPorts": [{"number": settings.port}],
            "endpointPickerRef": {"name": picker, "port": {"number": _PICKER_PORT}, "failureMode": "FailClose"},
        },
    }


def _route(champion: Champion) -> dict[str, Any]:
    settings = champion.settings
    backend = {"group": _POOL_GROUP, "kind": "InferencePool", "name": settings.name}
    rule = {"matches": [{"path": {"type": "PathPrefix", "value": "/v1"}}], "backendRefs": [backend]}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": settings.name, "namespace": settings.namespace},
        "spec": {"parentRefs": [{"name": settings.parent_gateway}], "rules": [rule]},
    }
