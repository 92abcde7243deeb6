"""What a schedule's files for Kubernetes have in common: the recipe, its volume, a container that mounts both."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import yaml

from configs.errors import RequestError
from pipelines.recipe.schedule_config import ScheduleConfig
from pipelines.rendering.document import Readable, yaml_text
from pipelines.rendering.schedules.rendered import Files, ScheduledRun, header

ARGUMENTS = ("run", "/recipe/recipe.yaml", "--workspace", "/workspace")
"""Of `quantbench`, in the container."""
WORKSPACE = "/workspace"


def check_object(run: ScheduledRun, kind: str, longest_name: int) -> None:
    """Refuse what an object of this kind cannot be made of.

    Raises:
        RequestError: No image is named, or the recipe's name is too long.
    """
    if run.image is None:
        raise RequestError(
            f"a {kind} runs a container", remedy="name its image with --image, such as registry/quantbench:1"
        )
    if len(run.unit) > longest_name:
        raise RequestError(
            f"a {kind}'s name has {longest_name} characters at most, and {run.unit} has {len(run.unit)}",
            remedy="give the recipe a shorter `name`",
        )


def kubernetes_file(
    run: ScheduledRun, purpose: str, cannot: Sequence[str], commands: Sequence[str], documents: Sequence[Any]
) -> Files:
    """One file; see `header`."""
    return {f"{run.unit}.yaml": header(purpose, cannot, commands, run.recipe) + yaml_text(documents, _InBlocks)}


def metadata(run: ScheduledRun) -> dict[str, Any]:
    """Of every object."""
    labels = {"app.kubernetes.io/name": "quantbench", "app.kubernetes.io/instance": run.unit}
    return {"name": run.unit, "namespace": run.namespace, "labels": labels}


def config_map(run: ScheduledRun) -> dict[str, Any]:
    """The recipe, with all that it includes."""
    asked = run.config.model_dump(mode="json", exclude_unset=True)
    recipe = yaml_text([asked], _InBlocks)
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(run), "data": {"recipe.yaml": recipe}}


def volume(run: ScheduledRun, access: Literal["ReadWriteOnce", "ReadWriteMany"]) -> dict[str, Any]:
    """The workspace's."""
    spec = {"accessModes": [access], "resources": {"requests": {"storage": run.storage}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata(run), "spec": spec}


def pod(run: ScheduledRun, name: str, container: Mapping[str, Any]) -> dict[str, Any]:
    """A pod's spec.

    Args:
        name: The container's.
        container: What it has beside image, volumes and surroundings, such as its command.
    """
    mounts = {"workspace": WORKSPACE, "recipe": "/recipe", "shared-memory": "/dev/shm"}  # noqa: S108 - of the container
    whole: dict[str, Any] = {
        "name": name,
        "image": run.image,
        **container,
        "workingDir": WORKSPACE,
        "env": [{"name": "HF_HOME", "value": f"{WORKSPACE}/huggingface"}],
        "envFrom": [{"secretRef": {"name": run.unit, "optional": True}}],
        "volumeMounts": [{"name": name, "mountPath": path} for name, path in mounts.items()],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    if run.config.device == "cuda":
        whole["resources"] = {"limits": {"nvidia.com/gpu": str(run.config.serving.ranks)}}
    return {
        "terminationGracePeriodSeconds": 120,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [whole],
        "volumes": [
            {"name": "workspace", "persistentVolumeClaim": {"claimName": run.unit}},
            {"name": "recipe", "configMap": {"name": run.unit}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
        ],
    }


def cron_fields(schedule: ScheduleConfig) -> str:
    """The schedule; Kubernetes knows no day 7: a Sunday is 0 there."""
    *fields, weekdays = schedule.cron.split()
    if not weekdays.startswith("*"):
        weekdays = ",".join(str(day) for day in sorted({int(str(day)) % 7 for day in schedule.values().weekdays}))
    return " ".join([*fields, weekdays])


class _InBlocks(Readable):
    """Text of several lines stands as such, for the recipe in it."""


def _block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_InBlocks.add_representer(str, _block)
