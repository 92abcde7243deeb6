"""Ray Serve: a configuration, and the application that it imports."""

from importlib.resources import files
from typing import Any

from configs.errors import RequestError
from pipelines.rendering.deploy.champion import Champion
from pipelines.rendering.deploy.files import Body, Deployment, Held, yaml_body
from pipelines.rendering.deploy.resources import Resources, resources_of
from pipelines.rendering.deploy.scaling import Scaling, scaling_of

_APPLICATION = "serve_application"
_UPSCALE_SECONDS = 15


def render(champion: Champion) -> Deployment:
    """For Ray 2.40 or later. Raises RequestError for an artifact that is not in a folder of the nodes."""
    settings, resources, scaling = champion.settings, resources_of(champion), scaling_of(champion)
    folder = settings.storage or f"/srv/models/{settings.name}"
    if not folder.startswith("/"):
        raise RequestError(
            f"nodes of Ray take the artifact from a folder by its whole path, and storage is {folder}",
            remedy=f"copy it to each node, or to a shared disk: --set storage=/srv/models/{settings.name}",
        )
    config: dict[str, Any] = {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": settings.port},
        "applications": [
            {
                "name": settings.name,
                "route_prefix": "/",
                "import_path": f"{_APPLICATION}:build",
                "args": {
                    "command": [settings.python, *champion.container.module, folder, *champion.container.arguments],
                    "env": champion.container.env,
                    "health": getattr(champion.engine, "health_path", "/health"),
                    "startup_seconds": champion.startup_seconds,
                },
                "deployments": [_deployment(champion, resources, scaling)],
            }
        ],
    }
    commands = [
        f"quantbench artifacts export {champion.name} {folder} --run {champion.run_id}",
        "serve run serve.yaml",
        f"curl -s http://127.0.0.1:{settings.port}/v1/models",
    ]
    rests_on = [*resources.told, f"{scaling.told_ongoing} Ray Serve counts requests and asks for no times."]
    application = files("pipelines.rendering.deploy").joinpath(f"{_APPLICATION}.py").read_text(encoding="utf-8")
    bodies = [yaml_body("serve.yaml", config), Body(f"{_APPLICATION}.py", application)]
    held = [Held("ray_serve.json", "ServeDeploySchema", config)]
    return Deployment(f"Ray Serve: {champion.model}.", bodies, held, rests_on, _checks(champion, folder), commands)


def _deployment(champion: Champion, resources: Resources, scaling: Scaling) -> dict[str, Any]:
    return {
        "name": "Model",
        # More would wait inside the server, where Ray does not see them.
        "max_ongoing_requests": champion.most_at_once + scaling.waiting,
        "autoscaling_config": {
            "min_replicas": scaling.least,
            "max_replicas": scaling.most,
            "target_ongoing_requests": scaling.ongoing,
            "upscale_delay_s": _UPSCALE_SECONDS,
            "downscale_delay_s": scaling.rest_seconds,
        },
        "health_check_period_s": 10,
        "health_check_timeout_s": 30,
        "graceful_shutdown_timeout_s": 120,
        "ray_actor_options": {
            "num_cpus": resources.cpus,
            "num_gpus": resources.gpus,
            "memory": resources.memory_bytes,
        },
    }


def _checks(champion: Champion, folder: str) -> list[str]:
    plugin = f" and {champion.plugin}" if champion.plugin else ""
    return [
        f"On each node {champion.settings.python} is of an environment with {champion.serving.engine}"
        f" {champion.serving.engine_version}{plugin}, and {folder} is what `quantbench artifacts export` wrote. Ray's"
        " own environment needs no engine.",
        "The proxy runs on the head node and listens on 127.0.0.1: what others reach stands before it.",
        f"For a cluster, {_APPLICATION}.py is in a working_dir that its nodes fetch (runtime_env).",
        "GET /metrics is answered by one replica at a time; the sums over all are in Ray's own metrics.",
        *(["All ranks of a replica are on one node: their GPUs are asked for at once."] if champion.ranks > 1 else []),
    ]
