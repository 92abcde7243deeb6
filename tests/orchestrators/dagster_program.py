"""In Dagster's environment: materializes what a rendered file defines and prints, as one line, what came of it.

    python dagster_program.py RUN FILE...

`RUN` is how many of the files are run, the first ones; the others tell their times only.
"""

import importlib.util
import itertools
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import dagster
from dagster._utils.schedules import schedule_execution_time_iterator

BEGIN = datetime(2027, 3, 1, tzinfo=UTC)


def module_of(file):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    dagster.Definitions.validate_loadable(module.defs)
    return module


def times_of(schedule):
    asked = (BEGIN.timestamp(), schedule.cron_schedule, schedule.execution_timezone)
    return [one.isoformat() for one in itertools.islice(schedule_execution_time_iterator(*asked), 20)]


def outcome_of(module):
    with dagster.DagsterInstance.ephemeral() as instance:
        result = dagster.materialize(
            [module.stages], resources=module.defs.resources, instance=instance, raise_on_error=False
        )
        events = result.get_asset_materialization_events()
        errors = [one.step_failure_data.error.to_string() for one in result.all_events if one.is_step_failure]
        retries = sum(one.event_type == dagster.DagsterEventType.STEP_UP_FOR_RETRY for one in result.all_events)
        return {
            "success": result.success,
            "retries": retries,
            "errors": errors,
            "assets": {
                one.asset_key.to_user_string(): {
                    name: value.value for name, value in one.materialization.metadata.items()
                }
                for one in events
            },
            "versions": {
                one.asset_key.to_user_string(): one.materialization.tags["dagster/data_version"] for one in events
            },
            "checks": {
                one.asset_key.to_user_string(): [one.check_name, one.passed, one.severity.value]
                for one in result.get_asset_check_evaluations()
            },
        }


def main():
    runs, *files = sys.argv[1:]
    told = []
    for number, file in enumerate(files):
        module = module_of(Path(file))
        told.append({"times": times_of(module.schedule)} | (outcome_of(module) if number < int(runs) else {}))
    print(json.dumps(told))


main()
