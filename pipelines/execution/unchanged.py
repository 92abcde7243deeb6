"""Whether a run would do anything but repeat the last one. Starts nothing and imports no engine."""

from typing import Any

from configs.names import BASELINE, baseline_in
from pipelines.execution.comparison import is_compared
from pipelines.execution.workspace import Workspace
from pipelines.planning.open_run import OpenRun
from pipelines.planning.plan import plan_stages
from pipelines.records.run_record import RunRecord

_SHAPES_NOTHING = ("notify", "schedule", "deadlines", "fork_servers")
"""Parts of a recipe that change nothing of what a run finds."""


def why_run(run: OpenRun, workspace: Workspace, last: RunRecord | None) -> str | None:
    """What a run has to do, in words; None where it would only repeat `last`.

    Args:
        run: The recipe as it is now.
        workspace: Whose finished stages it would reuse.
        last: The newest run of the recipe there.
    """
    if last is None:
        return "no run of this recipe came to its end here"
    return _unfit(last) or _stage_to_run(run, workspace) or _other_config(run, last)


def _unfit(last: RunRecord) -> str | None:
    """Why a run is not as good as a new one."""
    if last.exit_code != 0:
        return f"its last run, {last.run_id}, failed"
    if not last.recorded:
        return f"its last run, {last.run_id}, is not recorded in MLflow"
    if last.page is None or not last.page.is_file():
        return f"the report of its last run, {last.run_id}, is gone"
    return None


def _other_config(run: OpenRun, last: RunRecord) -> str | None:
    if _shaping(last.config) == _shaping(run.context.config.as_json()) and last.left_out == run.left_out:
        return None
    return "the recipe makes something else of what is measured"


def _stage_to_run(run: OpenRun, workspace: Workspace) -> str | None:
    planned, reused = plan_stages(run.stages, workspace.cache)
    first = next((stage for stage in planned if stage.action == "run"), None)
    if first is not None:
        return f"{first.name} runs: {first.reason}"
    for stage in run.stages:
        if stage.kind == "measure" and stage.subject != BASELINE:
            baselines = [reused[f"measure:{BASELINE}"]]
            if stage.method and (own := reused.get(f"measure:{baseline_in(stage.dtype)}")):
                baselines.append(own)
            if not all(is_compared(one, reused[stage.name], run.context.suite, workspace) for one in baselines):
                return f"{stage.subject} is compared anew: the statistics have changed"
    return None


def _shaping(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in _SHAPES_NOTHING}
