"""Which schedulers files are rendered for."""

import importlib
from collections.abc import Mapping
from datetime import UTC, datetime

from configs.errors import RequestError
from pipelines.rendering.schedules.clock_changes import check_clock_changes
from pipelines.rendering.schedules.rendered import Files, ScheduledRun

TARGETS: Mapping[str, str] = {
    "cron": "pipelines.rendering.schedules.cron:render_cron",
    "systemd": "pipelines.rendering.schedules.systemd:render_systemd",
    "kubernetes-cronjob": "pipelines.rendering.schedules.kubernetes_cronjob:render_kubernetes_cronjob",
    "ray-cronjob": "pipelines.rendering.schedules.ray_cronjob:render_ray_cronjob",
    "airflow": "pipelines.rendering.schedules.airflow:render_airflow",
    "dagster": "pipelines.rendering.schedules.dagster:render_dagster",
}
"""Target -> "module:function", which takes a ScheduledRun."""


def render_schedule(run: ScheduledRun, target: str) -> Files:
    """One target's files.

    Raises:
        RequestError: There is no such target, its times are not the same to all schedulers, a path holds a line's end,
            or the target needs what is not there.
        StageError: What was rendered is not what the target's schema takes.
    """
    if target not in TARGETS:
        raise RequestError(f"there is no target {target!r}", remedy=f"known: {', '.join(TARGETS)}")
    if not all(part.isprintable() for part in (*run.command, str(run.folder), run.user)):
        raise RequestError(
            "a path, or a change with --set, holds a line's end or a control character", remedy="rename it"
        )
    check_clock_changes(run.schedule, datetime.now(UTC))
    module, _, function = TARGETS[target].partition(":")
    rendered: Files = getattr(importlib.import_module(module), function)(run)
    return rendered
