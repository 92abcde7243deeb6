"""Triton: a model repository for its backend of the measured engine."""

import json
from typing import Any

from configs.errors import RequestError
from pipelines.rendering.deploy.champion import MODELS, Champion
from pipelines.rendering.deploy.engine_arguments import fields_of
from pipelines.rendering.deploy.files import Body, Deployment, Held, json_body
from pipelines.rendering.deploy.resources import resources_of


def render(champion: Champion) -> Deployment:
    """For Triton's image with the engine. Raises RequestError where the image is not named, or for another engine."""
    settings, resources = champion.settings, resources_of(champion)
    backend, engine_name = champion.container.triton_backend, champion.serving.engine
    if backend is None:
        raise RequestError(
            f"Triton has no backend for {engine_name}, on which {champion.name} was measured",
            remedy="take another target",
        )
    if champion.serving.device != "cuda":
        raise RequestError(
            f"Triton's image with {engine_name} is for GPUs, and {champion.name} was measured on a CPU",
            remedy="run its recipe on a GPU, or take another target",
        )
    if settings.image is None:
        raise RequestError(
            "which of Triton's images it is for is not said",
            remedy=f"name one whose {engine_name} is the measured {champion.serving.engine_version}:"
            f" --set image=nvcr.io/nvidia/tritonserver:YY.MM-{backend}-python-py3",
        )
    config: dict[str, Any] = {
        "name": settings.name,
        "backend": backend,
        # The engine sees to its GPUs itself.
        "instance_group": [{"count": 1, "kind": "KIND_MODEL"}],
        "parameters": {"REPORT_CUSTOM_METRICS": {"string_value": "true"}},
    }
    engine = {"model": MODELS, **fields_of(champion.container.arguments)}
    check = [
        f"{settings.image} has {engine_name} {champion.serving.engine_version}, which was measured.",
        "Triton answers by its own protocol (/v2/models/.../generate); its OpenAI frontend is a program of its own.",
        "Triton adds no servers. Whoever runs its container does, by nv_inference_pending_request_count and"
        f" {champion.container.metrics.ttft} on its metrics page (port 8002).",
    ]
    folder = settings.storage or "./model"
    gpus = f"--gpus {resources.gpus} --shm-size {max(resources.shared_memory_bytes // 2**20, 1024)}m"
    commands = [
        f"quantbench artifacts export {champion.name} model --run {champion.run_id}",
        f"docker run --rm {gpus} -p 127.0.0.1:8000:8000 -v ./model_repository:/models:ro -v {folder}:{MODELS}:ro \\",
        f"  {settings.image} tritonserver --model-repository /models --model-control-mode none",
    ]
    place = f"model_repository/{settings.name}"
    bodies = [Body(f"{place}/config.pbtxt", _text_of(config)), json_body(f"{place}/1/model.json", engine)]
    held = [Held("triton.json", "ModelConfig", config)]
    return Deployment(f"Triton: {champion.model}.", bodies, held, resources.told, check, commands)


def _text_of(config: dict[str, Any]) -> str:
    """As protobuf's text format has a model's configuration."""
    (group,) = config["instance_group"]
    lines = [
        f"name: {json.dumps(config['name'])}",
        f"backend: {json.dumps(config['backend'])}",
        f"instance_group [ {{ count: {group['count']} kind: {group['kind']} }} ]",
        *(
            f"parameters {{ key: {json.dumps(key)} value: {{ string_value: {json.dumps(value['string_value'])} }} }}"
            for key, value in config["parameters"].items()
        ),
    ]
    return "\n".join(lines) + "\n"
