"""KubeRay: a RayCronJob, which makes a Ray cluster for each run and removes it afterwards."""

import shlex
from typing import Any

from configs.errors import RequestError
from pipelines.rendering.schedules.kubernetes import (
    ARGUMENTS,
    WORKSPACE,
    check_object,
    config_map,
    cron_fields,
    kubernetes_file,
    metadata,
    pod,
    volume,
)
from pipelines.rendering.schedules.python_file import RETRIES, TIMEOUT_HOURS
from pipelines.rendering.schedules.rendered import Files, ScheduledRun
from pipelines.rendering.validation import check_documents

_LONGEST_NAME = 36
"""Of a RayCronJob, for KubeRay itself: its jobs', clusters' and services' names are longer."""
_MOST_WORKERS = 1000
_KEPT_SECONDS = 60
"""How long the cluster stays after a run."""


def render_ray_cronjob(run: ScheduledRun) -> Files:
    """One file, for KubeRay 1.7 or later.

    Raises:
        RequestError: No image is named, the recipe's name is too long, or there are to be no workers.
        StageError: What was rendered is not what KubeRay's and Kubernetes' schemas take.
    """
    check_object(run, "RayCronJob", _LONGEST_NAME)
    if not 1 <= run.workers <= _MOST_WORKERS:
        raise RequestError(f"--workers {run.workers}", remedy=f"name a number from 1 to {_MOST_WORKERS}")
    cannot = [
        "KubeRay 1.7 has RayCronJob as alpha: start its operator with the feature gate RayCronJob=true.",
        "The image holds Quantbench and Ray. Stages go to the cluster's nodes where the recipe says so; else all run on"
        " its head.",
        "The recipe is inside, with all that it includes; files and folders that it names have to be in the image or on"
        f" the volume, which is {WORKSPACE} on every node, so its storage class has to offer ReadWriteMany.",
        "KubeRay knows no overlap and no deadline for a start: each time that was missed starts a cluster, and all runs"
        " but one end at once, as does one beside another (--overlap leave).",
        f"A run that failed is tried again {RETRIES} times, each on a new cluster; a refused one too, in vain.",
        f"Secrets of the recipe, such as tokens, are variables of the Secret {run.unit}, where there is one.",
    ]
    commands = [
        f"kubectl apply --server-side -f {run.unit}.yaml",
        f"kubectl get rayjobs -n {run.namespace} -l ray.io/cronjob-name={run.unit}",
    ]
    documents = [config_map(run), volume(run, "ReadWriteMany"), _ray_cron_job(run)]
    check_documents(documents, "kuberay.json")
    return kubernetes_file(run, f"KubeRay: {run.config.name}.", cannot, commands, documents)


def _ray_cron_job(run: ScheduledRun) -> dict[str, Any]:
    # A job's command begins in a folder of Ray's own, and no shell reads it before the one that starts it.
    entrypoint = shlex.join(["env", "--chdir", WORKSPACE, "quantbench", *ARGUMENTS, *run.manner])
    workers = {
        "groupName": "workers",
        "replicas": run.workers,
        "minReplicas": run.workers,
        "maxReplicas": run.workers,
        "rayStartParams": {},
        "template": {"spec": pod(run, "ray-worker", {})},
    }
    cluster = {
        "headGroupSpec": {"rayStartParams": {}, "template": {"spec": pod(run, "ray-head", {})}},
        "workerGroupSpecs": [workers],
    }
    job = {
        "entrypoint": entrypoint,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": _KEPT_SECONDS,
        "activeDeadlineSeconds": TIMEOUT_HOURS * 3600,
        "backoffLimit": RETRIES,
        "rayClusterSpec": cluster,
    }
    spec = {"schedule": cron_fields(run.schedule), "timeZone": run.schedule.timezone, "jobTemplate": job}
    return {"apiVersion": "ray.io/v1", "kind": "RayCronJob", "metadata": metadata(run), "spec": spec}
