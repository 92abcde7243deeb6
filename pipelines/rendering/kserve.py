"""KServe: an InferenceService with the champion as its predictor and the candidate as its canary."""

from typing import Any

from pipelines.recipe.gateway_config import GatewayConfig
from pipelines.recipe.render_config import SideConfig
from pipelines.rendering.document import Rendered, whole_percent
from pipelines.rendering.sides import check_two_services, container_of, storage_of


def render_kserve(config: GatewayConfig) -> Rendered:
    """The service, for KServe 0.21 or later.

    Raises:
        RequestError: KServe's webhook would refuse it, or an artifact's place is missing.
    """
    cannot = [
        "Nothing is mirrored: a canary of 0 % is deployed and sees no traffic, so there are no pairs and no verdict"
        " unless Envoy with the observer, or `quantbench shadow up`, stands before both predictors.",
        "A client is not kept by the same model, and traffic is split in whole percents.",
        "API keys, the body's size and the patience with a server are left to KServe's gateway.",
        "It does not follow the ledger. To promote, give the canary's name to the predictor and take the canary out.",
        "No GPU is asked for: add `resources` to both models where they need one.",
    ]
    commands = ["kubectl apply --server-side -f kserve.yaml"]
    purpose = f"KServe: {config.model} served by the champion, a share of it by the candidate."
    return Rendered("kserve.yaml", purpose, cannot, commands, [_service(config)])


def _service(config: GatewayConfig) -> dict[str, Any]:
    render = config.render
    # The rules of a canary are in KServe's webhook alone (inference_service_validation.go, validateCanarySpecs).
    check_two_services(config)
    canary = {
        "predictor": _predictor(config, "candidate"),
        "trafficPercent": whole_percent(config.split.share, "split.share"),
    }
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": render.name,
            "namespace": render.namespace,
            "annotations": {"serving.kserve.io/deploymentMode": "Standard"},
        },
        "spec": {"predictor": _predictor(config, "champion"), "canary": [canary]},
    }


def _predictor(config: GatewayConfig, name: str) -> dict[str, Any]:
    side: SideConfig = getattr(config.render, name)
    container = container_of(config)
    model = {
        "name": "kserve-container",
        "modelFormat": {"name": container.model_format},
        "storageUri": storage_of(config, name),
        "args": container.arguments,
    }
    # A canary may not have more replicas than the predictor, and does not scale.
    return {"name": side.service, "minReplicas": 1, "model": model}
