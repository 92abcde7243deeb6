"""Vertex AI: requests for a model and its deployment, as the REST API takes them."""

import math
from typing import Any

from configs.errors import RequestError
from pipelines.rendering.deploy.champion import Champion
from pipelines.rendering.deploy.files import Body, Deployment, Held, json_body
from pipelines.rendering.deploy.monitoring import dashboard_of
from pipelines.rendering.deploy.resources import Resources, resources_of

_ACCELERATOR_DUTY = "aiplatform.googleapis.com/prediction/online/accelerator/duty_cycle"
_CPU = "aiplatform.googleapis.com/prediction/online/cpu/utilization"
_BUSY_PERCENT = 70
_PROBE_SECONDS = 10


def render(champion: Champion) -> Deployment:
    """Two requests. Raises RequestError where bucket, image, machine or accelerator are not said."""
    resources = resources_of(champion)
    _check(champion, resources.gpus)
    upload, deploy = _upload(champion, resources), _deploy(champion, resources)
    bodies = [
        # What other files have in their heads: JSON has no comments.
        Body("README.txt", ""),
        json_body("upload-model.json", upload),
        json_body("deploy-model.json", deploy),
        json_body("grafana-dashboard.json", dashboard_of(champion)),
    ]
    held = [
        Held("vertex.json", "GoogleCloudAiplatformV1UploadModelRequest", upload),
        Held("vertex.json", "GoogleCloudAiplatformV1DeployModelRequest", deploy),
    ]
    commands = _commands(champion)
    return Deployment(f"Vertex AI: {champion.model}.", bodies, held, resources.told, _checks(champion), commands)


def _upload(champion: Champion, resources: Resources) -> dict[str, Any]:
    settings, folder = champion.settings, champion.settings.storage or ""
    about = f"{champion.name} of run {champion.run_id}, {champion.digest}. By `quantbench deploy render`."
    health = {
        "httpGet": {"path": "/health", "port": settings.port},
        "periodSeconds": _PROBE_SECONDS,
        "timeoutSeconds": 5,
    }
    command = champion.command(folder, "0.0.0.0")  # noqa: S104
    container: dict[str, Any] = {
        "imageUri": settings.image,
        "command": champion.container.command,
        "args": command[len(champion.container.command) :],
        "env": [{"name": name, "value": value} for name, value in champion.environment.items()],
        "ports": [{"containerPort": settings.port}],
        "healthRoute": "/health",
        "predictRoute": "/v1/completions",
        "startupProbe": {**health, "failureThreshold": math.ceil(champion.startup_seconds / _PROBE_SECONDS)},
        "healthProbe": health,
        "deploymentTimeout": f"{champion.startup_seconds + 600}s",
    }
    if resources.shared_memory_bytes:
        container["sharedMemorySizeMb"] = str(resources.shared_memory_bytes // 2**20)
    model = {
        "displayName": settings.name,
        "description": about,
        "versionDescription": about,
        "artifactUri": folder,
        "containerSpec": container,
        "labels": {"quantbench-digest": champion.digest.removeprefix("sha256:")[:63]},
    }
    return {"model": model}


def _deploy(champion: Champion, resources: Resources) -> dict[str, Any]:
    settings = champion.settings
    machine: dict[str, Any] = {"machineType": settings.machine}
    if resources.gpus:
        machine |= {"acceleratorType": settings.accelerator, "acceleratorCount": resources.gpus}
    metric = {"metricName": _ACCELERATOR_DUTY if resources.gpus else _CPU, "target": _BUSY_PERCENT}
    return {
        "deployedModel": {
            "displayName": settings.name,
            "model": "projects/PROJECT/locations/REGION/models/MODEL",
            "dedicatedResources": {
                "machineSpec": machine,
                "minReplicaCount": settings.scale.least,
                "maxReplicaCount": settings.scale.most,
                "autoscalingMetricSpecs": [metric],
            },
        },
        "trafficSplit": {"0": 100},
    }


def _check(champion: Champion, gpus: int) -> None:
    settings = champion.settings
    missing = {
        "storage": not (settings.storage or "").startswith("gs://") and "gs://BUCKET/FOLDER",
        "image": settings.image is None and "REGION-docker.pkg.dev/PROJECT/REPOSITORY/NAME:TAG",
        "machine": settings.machine is None and ("g2-standard-12" if gpus else "c3-standard-8"),
        "accelerator": bool(gpus) and settings.accelerator is None and "NVIDIA_L4",
    }
    if wanted := [f"--set {name}={example}" for name, example in missing.items() if example]:
        raise RequestError(
            f"Vertex AI wants {', '.join(name for name, example in missing.items() if example)} of you",
            remedy=" ".join(wanted),
        )


def _checks(champion: Champion) -> list[str]:
    settings = champion.settings
    return [
        f"{settings.image} has {champion.serving.engine} {champion.serving.engine_version}, which was measured, and"
        " loads a model from gs://, as Google's own images do.",
        f"{settings.storage} is what `quantbench artifacts export` wrote.",
        "Clients speak OpenAI's API through :rawPredict, whose body reaches /v1/completions as it is.",
        "Vertex AI scales by how busy the device is: it takes no metric of the engine's, neither what waits nor the"
        " time to the first token.",
    ]


def _commands(champion: Champion) -> list[str]:
    api = "https://REGION-aiplatform.googleapis.com/v1/projects/PROJECT/locations/REGION"
    post = 'curl -s -H "Authorization: Bearer $(gcloud auth print-access-token)" --json'
    return [
        f"quantbench artifacts export {champion.name} model --run {champion.run_id}",
        f"gcloud storage rsync -r model {champion.settings.storage}",
        f"{post} @upload-model.json {api}/models:upload",
        "# put the model that it names into deploy-model.json, then:",
        f"{post} @deploy-model.json {api}/endpoints/ENDPOINT:deployModel",
    ]
