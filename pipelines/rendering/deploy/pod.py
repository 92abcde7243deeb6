"""The pod of one server, for whatever starts it in Kubernetes."""

import math
from typing import Any

from configs.errors import RequestError
from pipelines.rendering.deploy.champion import MODELS, Champion
from pipelines.rendering.deploy.resources import SCRATCH_BYTES, Resources

_USER = 65534
_PROBE_SECONDS = 5
_CLAIM = "pvc://"
_SCRATCH, _SHARED, _MODEL = "scratch", "shared-memory", "model"


def server_of(champion: Champion, resources: Resources, name: str, **more: str) -> dict[str, Any]:
    """The container, without the volume of its artifact.

    Args:
        name: Of the container.
        more: Variables beside those that it was measured with.
    """
    memory = f"{resources.memory_mib}Mi"
    asked: dict[str, Any] = {"cpu": str(resources.cpus), "memory": memory}
    limits = {"memory": memory}
    if resources.gpus:
        asked["nvidia.com/gpu"] = limits["nvidia.com/gpu"] = str(resources.gpus)
    health = {"httpGet": {"path": "/health", "port": champion.settings.port}, "timeoutSeconds": _PROBE_SECONDS}
    mounts = [{"name": _SCRATCH, "mountPath": "/tmp"}]  # noqa: S108 - the container's own
    if resources.shared_memory_bytes:
        mounts.append({"name": _SHARED, "mountPath": "/dev/shm"})  # noqa: S108 - the container's own
    return {
        "name": name,
        "image": champion.image,
        # A dollar sign begins a variable there.
        "command": _escaped(champion.container.command),
        "args": _escaped(champion.command(MODELS, "0.0.0.0")[len(champion.container.command) :]),  # noqa: S104
        "env": [
            {"name": one, "value": value.replace("$(", "$$(")}
            for one, value in {**champion.environment, **more}.items()
        ],
        "ports": [{"name": "http", "containerPort": champion.settings.port, "protocol": "TCP"}],
        "resources": {"requests": asked, "limits": limits},
        "startupProbe": {
            **health,
            "periodSeconds": _PROBE_SECONDS,
            "failureThreshold": math.ceil(champion.startup_seconds / _PROBE_SECONDS),
        },
        "readinessProbe": {**health, "periodSeconds": _PROBE_SECONDS, "failureThreshold": 3},
        "livenessProbe": {**health, "periodSeconds": 2 * _PROBE_SECONDS, "failureThreshold": 6},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts,
    }


def around(resources: Resources) -> dict[str, Any]:
    """What a pod says beside its container."""
    volumes: list[dict[str, Any]] = [{"name": _SCRATCH, "emptyDir": {"sizeLimit": f"{SCRATCH_BYTES // 2**20}Mi"}}]
    if resources.shared_memory_bytes:
        size = f"{resources.shared_memory_bytes // 2**20}Mi"
        volumes.append({"name": _SHARED, "emptyDir": {"medium": "Memory", "sizeLimit": size}})
    return {
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        # Answers that are being written are ended first.
        "terminationGracePeriodSeconds": 120,
        "volumes": volumes,
    }


def claimed(champion: Champion) -> tuple[dict[str, Any], dict[str, Any]]:
    """The artifact's volume and its mount. Raises RequestError for an artifact that is on none."""
    storage = champion.settings.storage or ""
    claim, _, folder = storage.removeprefix(_CLAIM).partition("/")
    if not storage.startswith(_CLAIM) or not folder:
        raise RequestError(
            f"a pod takes the artifact from a volume, and storage is {storage or 'not said'}",
            remedy="copy what `quantbench artifacts export` writes to one: --set storage=pvc://CLAIM/FOLDER",
        )
    volume = {"name": _MODEL, "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
    return volume, {"name": _MODEL, "mountPath": MODELS, "subPath": folder, "readOnly": True}


def annotations(champion: Champion) -> dict[str, str]:
    """By which a pod is known again, and found by a Prometheus that looks for such."""
    scraped = {"scrape": "true", "port": str(champion.settings.port), "path": "/metrics"}
    return {**champion.metadata(), **{f"prometheus.io/{name}": value for name, value in scraped.items()}}


def pod_checks(champion: Champion, resources: Resources) -> list[str]:
    """What to look at in any cluster."""
    settings = champion.settings
    gpu = f"on {champion.serving.device_name}"
    return [
        f"The image {champion.image} has {champion.serving.engine} {champion.serving.engine_version}.",
        "It runs as user 65534 and may write to /tmp alone; the artifact's files may be read by that user.",
        f"Prometheus at {settings.prometheus} scrapes pods by the annotation prometheus.io/scrape, and no other"
        f" server calls its model {champion.model}: the queries add up all that do.",
        *(
            [f"Nodes have GPUs of the measured kind ({gpu}); add a nodeSelector where there are several."]
            * (resources.gpus > 0)
        ),
    ]


def _escaped(words: list[str]) -> list[str]:
    return [word.replace("$(", "$$(") for word in words]
