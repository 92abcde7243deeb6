"""Kubernetes: a CronJob with its volume, and the recipe as a ConfigMap."""

from datetime import UTC, datetime
from itertools import islice, pairwise
from typing import Any

from pipelines.recipe.schedule_config import ScheduleConfig
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
from pipelines.rendering.schedules.rendered import Files, ScheduledRun
from pipelines.rendering.validation import check_documents

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
    check_object(run, "CronJob", _LONGEST_NAME)
    cannot = [
        "The recipe is inside, with all that it includes; files and folders that it names have to be in the image or on"
        f" the volume, which is {WORKSPACE} in the container.",
        "A run that was missed is caught up once, within startingDeadlineSeconds. While one goes on, no other begins.",
        "A run that failed (3) is tried again twice; one that was refused (2) is not.",
        f"Secrets of the recipe, such as tokens, are variables of the Secret {run.unit}, where there is one.",
        "Memory and CPUs are not limited: what a model needs is known once it was measured.",
    ]
    commands = [
        f"kubectl apply --server-side -f {run.unit}.yaml",
        f"kubectl create job --from=cronjob/{run.unit} {run.unit}-now -n {run.namespace}",
    ]
    documents = [config_map(run), volume(run, "ReadWriteOnce"), _cron_job(run)]
    check_documents(documents, "kubernetes_batch.json")
    return kubernetes_file(run, f"Kubernetes: {run.config.name}.", cannot, commands, documents)


def _cron_job(run: ScheduledRun) -> dict[str, Any]:
    refused = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2]}}
    container = {"command": ["quantbench"], "args": [*ARGUMENTS, *run.manner]}
    template = {"restartPolicy": "Never", **pod(run, "quantbench", container)}
    job = {"backoffLimit": 2, "podFailurePolicy": {"rules": [refused]}, "template": {"spec": template}}
    spec = {
        "schedule": cron_fields(run.schedule),
        "timeZone": run.schedule.timezone,
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": _deadline(run.schedule),
        "successfulJobsHistoryLimit": 3,
        "failedJobsHistoryLimit": 3,
        "jobTemplate": {"spec": job},
    }
    return {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": metadata(run), "spec": spec}


def _deadline(schedule: ScheduleConfig) -> int:
    """Seconds: a day, or less where many times would lie in it."""
    times = list(islice(schedule.times(datetime.now(UTC)), 20))
    shortest = min(((later - one).total_seconds() for one, later in pairwise(times)), default=_A_DAY)
    return int(min(_A_DAY, _MOST_MISSED * shortest))
