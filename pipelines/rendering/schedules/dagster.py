"""Dagster: an asset a stage of the plan, all materialized by one run of the command, which reports through Pipes."""

import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from configs.errors import RequestError
from pipelines.planning.open_run import opened
from pipelines.planning.stages import Stage
from pipelines.rendering.schedules.python_file import RETRIES, RETRY_MINUTES, TIMEOUT_HOURS, cron_of, python_file
from pipelines.rendering.schedules.rendered import Files, ScheduledRun

ASSETS_EXTRA = "quantbench_assets"
"""Of what the definitions pass through Pipes: stage -> key of its asset."""
VERDICT_CHECK = "verdict"
"""The asset check of an artifact's measurement."""
_FILE = '''\
"""$told
"""

import dagster as dg

COMMAND = $command
FOLDER = $folder
TIMEOUT_SECONDS = $timeout_seconds
STOP_SECONDS = 120  # that a run has to end its processes when it is terminated

# Stage -> key of its asset.
ASSETS = $assets
# Stage -> stages whose results it reads.
INPUTS = $inputs
# Stages that end with a verdict on an artifact.
JUDGED = $judged


def key_of(stage: str) -> dg.AssetKey:
    return dg.AssetKey(ASSETS[stage].split("/"))


@dg.multi_asset(
    name=$name,
    specs=[
        dg.AssetSpec(key_of(stage), deps=[key_of(one) for one in inputs], group_name=$name)
        for stage, inputs in INPUTS.items()
    ],
    check_specs=[dg.AssetCheckSpec($check, asset=key_of(stage)) for stage in JUDGED],
    can_subset=False,
    retry_policy=dg.RetryPolicy(max_retries=$retries, delay=$retry_seconds),
)
def stages(context: dg.AssetExecutionContext, pipes: dg.PipesSubprocessClient):
    try:
        run = pipes.run(context=context, command=COMMAND, cwd=FOLDER, extras={$extra: ASSETS})
    except Exception as error:
        if str(error).endswith(" failed with code $refused"):  # it would be refused again
            raise dg.Failure(str(error), allow_retries=False) from error
        raise
    # What was not reported was not made; Dagster would take it for materialized.
    return run.get_results(implicit_materializations=False)


job = dg.define_asset_job(
    $job,
    selection=dg.AssetSelection.assets(stages),
    tags={"dagster/max_runtime": TIMEOUT_SECONDS},
)

schedule = dg.ScheduleDefinition(
    name=$job,
    job=job,
    cron_schedule=$cron,
    execution_timezone=$timezone,
    default_status=dg.DefaultScheduleStatus.RUNNING,
)

defs = dg.Definitions(
    assets=[stages],
    jobs=[job],
    schedules=[schedule],
    resources={"pipes": dg.PipesSubprocessClient(termination_timeout_seconds=STOP_SECONDS)},
)
'''


def render_dagster(run: ScheduledRun) -> Files:
    """A code location's file. Its assets are the plan's stages as this machine would run them.

    Raises:
        QuantbenchError: The recipe cannot be planned here, two stages would be one asset, verdicts are to count, or
            Dagster reads its times otherwise than cron.
    """
    if run.require_pass:
        raise RequestError(
            "a run that ends with 1 is a step that failed, and Dagster takes no assets of such a step",
            remedy="leave --require-pass out: verdicts are asset checks there",
        )
    stages = opened(run.config, datetime.now(UTC), time.monotonic()).stages
    name = _identifier(run.unit)
    told = [
        f"Dagster: {run.config.name}.",
        f"dagster dev -f {name}.py",
        "One asset a stage: its metadata are its digest, its verdict and its numbers, and a verdict is an asset check"
        " too. They are the stages that the machine has on which this was rendered; a run of others is refused.",
        "Of the times that were missed while Dagster's daemon was down, the last is caught up. A run waits for another"
        " of the same recipe, so that each has assets to show. TIMEOUT_SECONDS needs run monitoring in dagster.yaml.",
        "Secrets of the recipe, such as tokens, are variables in the code location's environment; none is here.",
    ]
    values = {
        "command": run._replace(overlap="wait").command,
        "folder": str(run.folder),
        "timeout_seconds": TIMEOUT_HOURS * 3600,
        "assets": _assets(run.config.name, stages),
        "inputs": {stage.name: sorted(set(stage.inputs.values())) for stage in stages},
        "judged": [stage.name for stage in stages if stage.kind == "measure" and stage.method],
        "name": name,
        "check": VERDICT_CHECK,
        "retries": RETRIES,
        "retry_seconds": RETRY_MINUTES * 60,
        "extra": ASSETS_EXTRA,
        "refused": RequestError.exit_code,
        "job": f"{name}_job",
        "cron": cron_of(run.schedule, "Dagster"),
        "timezone": run.schedule.timezone,
    }
    return {f"{name}.py": python_file(_FILE, told, run.recipe, values)}


def _assets(recipe: str, stages: Sequence[Stage]) -> Mapping[str, str]:
    """`measure:gptq+2` of recipe `tiny` is `tiny/measure/gptq_2`."""
    keys: dict[str, str] = {}
    taken: dict[str, str] = {}
    for stage in stages:
        parts = [recipe, *stage.name.split(":")]
        keys[stage.name] = "/".join(re.sub(r"[^\w.-]", "_", part, flags=re.ASCII) for part in parts)
        # Dagster makes an identifier of each.
        other = taken.setdefault(_identifier(keys[stage.name]), stage.name)
        if other != stage.name:
            raise RequestError(
                f"{other} and {stage.name} would be one asset: Dagster knows letters, digits and _ only",
                remedy="give one of the two entries another name",
            )
    return keys


def _identifier(text: str) -> str:
    return re.sub(r"\W", "_", text, flags=re.ASCII)
