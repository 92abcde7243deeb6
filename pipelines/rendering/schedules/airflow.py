"""Apache Airflow: a DAG of one task, which runs the command in bash and keeps its line of JSON as XCom."""

from configs.errors import RequestError
from pipelines.records.run_outcome import Status
from pipelines.rendering.schedules.python_file import RETRIES, RETRY_MINUTES, TIMEOUT_HOURS, cron_of, python_file
from pipelines.rendering.schedules.rendered import Files, ScheduledRun

_INCONCLUSIVE = 4
_REFUSED: Status = "refused"
_FILE = '''\
"""$told
"""

import json
import shlex
from datetime import timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, CronTriggerTimetable, literal
from airflow.sdk.exceptions import AirflowFailException

COMMAND = $command
RETRIES = $retries
RETRY_DELAY = timedelta(minutes=$retry_minutes)
TIMEOUT = timedelta(hours=$timeout_hours)

# Airflow keeps the last line of both streams: what is on stdout is one line, and is printed last. A run that was
# refused would be refused again: its line is read, and fails the task for good.
SCRIPT = f"""\\
outcome=$$({shlex.join(COMMAND)})
code=$$?
printf '%s\\\\n' "$$outcome"
[ $$code = $refused_code ] && exit 0
exit $$code
"""


def outcome_of(line):
    outcome = json.loads(line)
    if outcome["status"] == $refused:
        raise AirflowFailException(outcome["why"])
    return outcome


with DAG(
    $dag_id,
    description=$description,
    schedule=CronTriggerTimetable($cron, timezone=$timezone),
    catchup=False,
    max_active_runs=1,
    tags=["quantbench"],
) as dag:
    BashOperator(
        task_id="run",
        # Literal: nothing in a path is a template's.
        bash_command=literal(SCRIPT),
        cwd=literal($folder),
        skip_on_exit_code=$skipped,
        retries=RETRIES,
        retry_delay=RETRY_DELAY,
        execution_timeout=TIMEOUT,
        output_processor=outcome_of,
    )
'''


def render_airflow(run: ScheduledRun) -> Files:
    """A file for the folder of DAGs, for Airflow 3.

    Raises:
        RequestError: Airflow reads its times otherwise than cron.
    """
    told = [
        f"Airflow: {run.config.name}.",
        "It runs where its worker runs: the paths below are that machine's. The XCom of its one task is what happened,"
        " as `quantbench run --json-line` says it.",
        "Of the times that were missed while Airflow was down or the DAG was paused, the last is caught up. A run that"
        " failed is tried again as RETRIES says, one that was refused is not. At TIMEOUT it is ended; tried again, it"
        " goes on where it was.",
        "A verdict that is inconclusive (exit code 4) skips the task, one that fails (1) fails it."
        if run.require_pass
        else "Whatever the verdicts are, the task succeeds: `schedule render --require-pass` makes them count.",
        "Secrets of the recipe, such as tokens, are variables in the worker's environment: none is in this file.",
    ]
    values = {
        "command": run.command,
        "retries": RETRIES,
        "retry_minutes": RETRY_MINUTES,
        "timeout_hours": TIMEOUT_HOURS,
        "dag_id": run.unit,
        "description": f"Quantize and measure what {run.recipe.name} asks for",
        "cron": cron_of(run.schedule, "Airflow"),
        "timezone": run.schedule.timezone,
        "folder": str(run.folder),
        "refused": _REFUSED,
        "refused_code": RequestError.exit_code,
        "skipped": _INCONCLUSIVE if run.require_pass else None,
    }
    return {f"{run.unit}.py": python_file(_FILE, told, run.recipe, values)}
