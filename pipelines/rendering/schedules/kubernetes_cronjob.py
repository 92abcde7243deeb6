"""Kubernetes: a CronJob with its volume, and the recipe as a ConfigMap."""

from datetime import UTC, datetime
from itertools import islice, pairwise
from typing import Any

import yaml

from configs.errors import RequestError
from pipelines.recipe.schedule_config import ScheduleConfig
from pipelines.rendering.schedules.rendered import Files, ScheduledRun, header
from pipelines.rendering.validation import check_documents

_WORKSPACE, _RECIPE = "/workspace", "/recipe/recipe.yaml"
_LONGEST_NAME = 52
"""Of a CronJob: the names of its jobs are 11 characters longer, and end at 63."""
_A_DAY = 86_400
_MOST_MISSED = 50
"""Times that may lie within the deadline; where they are more than 100, the controller starts none at all."""


def render_kubernetes_cronjob(run: ScheduledRun) -> Files:
    """One file, for Kubernetes 1.31 or later.

    Raises:
        RequestError: No image is named, or the recipe's name is too long.
        StageError: What was rendered is not what Kubernetes' schemas take.
    """
    if run.image is None:
        raise RequestError(
            "a CronJob runs a container", remedy="name its image with --image, such as registry/quantbench:1"
        )
    if len(run.unit) > _LONGEST_NAME:
        raise RequestError(
            f"a CronJob's name has {_LONGEST_NAME} characters at most, and {run.unit} has {len(run.unit)}",
            remedy="give the recipe a shorter `name`",
        )
    cannot = [
        "The recipe is inside, with all that it includes; files and folders that it names have to be in the image or on"
        f" the volume, which is {_WORKSPACE} in the container.",
        "A run that was missed is caught up once, within startingDeadlineSeconds. While one goes on, no other begins.",
        "A run that failed (3) is tried again twice; one that was refused (2) is not.",
        f"Secrets of the recipe, such as tokens, are variables of the Secret {run.unit}, where there is one.",
        "Memory and CPUs are not limited: what a model needs is known once it was measured.",
    ]
    commands = [
        f"kubectl apply --server-side -f {run.unit}.yaml",
        f"kubectl create job --from=cronjob/{run.unit} {run.unit}-now -n {run.namespace}",
    ]
    documents = [_config_map(run), _volume(run), _cron_job(run)]
    check_documents(documents, "kubernetes_batch.json")
    head = header(f"Kubernetes: {run.config.name}.", cannot, commands, run.recipe)
    written = "---\n".join(yaml.dump(one, Dumper=_Readable, sort_keys=False, width=100) for one in documents)
    return {f"{run.unit}.yaml": head + written}


def _metadata(run: ScheduledRun) -> dict[str, Any]:
    labels = {"app.kubernetes.io/name": "quantbench", "app.kubernetes.io/instance": run.unit}
    return {"name": run.unit, "namespace": run.namespace, "labels": labels}


def _config_map(run: ScheduledRun) -> dict[str, Any]:
    asked = run.config.model_dump(mode="json", exclude_unset=True)
    recipe = yaml.dump(asked, Dumper=_Readable, sort_keys=False, width=100)
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _metadata(run), "data": {"recipe.yaml": recipe}}


def _volume(run: ScheduledRun) -> dict[str, Any]:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": run.storage}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": _metadata(run), "spec": spec}


def _cron_job(run: ScheduledRun) -> dict[str, Any]:
    refused = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2]}}
    job = {"backoffLimit": 2, "podFailurePolicy": {"rules": [refused]}, "template": {"spec": _pod(run)}}
    spec = {
        "schedule": _schedule(run.schedule),
        "timeZone": run.schedule.timezone,
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": _deadline(run.schedule),
        "successfulJobsHistoryLimit": 3,
        "failedJobsHistoryLimit": 3,
        "jobTemplate": {"spec": job},
    }
    return {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": _metadata(run), "spec": spec}


def _pod(run: ScheduledRun) -> dict[str, Any]:
    mounts = {"workspace": _WORKSPACE, "recipe": "/recipe", "shared-memory": "/dev/shm"}  # noqa: S108 - of the container
    container: dict[str, Any] = {
        "name": "quantbench",
        "image": run.image,
        "command": ["quantbench"],
        "args": ["run", _RECIPE, "--workspace", _WORKSPACE, *run.manner],
        "workingDir": _WORKSPACE,
        "env": [{"name": "HF_HOME", "value": f"{_WORKSPACE}/huggingface"}],
        "envFrom": [{"secretRef": {"name": run.unit, "optional": True}}],
        "volumeMounts": [{"name": name, "mountPath": path} for name, path in mounts.items()],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    if run.config.device == "cuda":
        ranks = getattr(run.config.serving, "tensor_parallel_size", 1)
        container["resources"] = {"limits": {"nvidia.com/gpu": str(ranks)}}
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 120,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [
            {"name": "workspace", "persistentVolumeClaim": {"claimName": run.unit}},
            {"name": "recipe", "configMap": {"name": run.unit}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
        ],
    }


def _schedule(schedule: ScheduleConfig) -> str:
    """Kubernetes knows no day 7: a Sunday is 0 there."""
    *fields, weekdays = schedule.cron.split()
    if not weekdays.startswith("*"):
        weekdays = ",".join(str(day) for day in sorted({int(str(day)) % 7 for day in schedule.values().weekdays}))
    return " ".join([*fields, weekdays])


def _deadline(schedule: ScheduleConfig) -> int:
    """Seconds: a day, or less where many times would lie in it."""
    times = list(islice(schedule.times(datetime.now(UTC)), 20))
    shortest = min(((later - one).total_seconds() for one, later in pairwise(times)), default=_A_DAY)
    return int(min(_A_DAY, _MOST_MISSED * shortest))


class _Readable(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        """What stands twice is written twice: people read these files."""
        return True


def _block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Readable.add_representer(str, _block)
