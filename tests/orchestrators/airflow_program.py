"""In Airflow's environment: runs rendered DAGs by `dag.test()` and prints, as one line, what came of each.

    python airflow_program.py DAGS RUN...

`DAGS` is the folder of DAGs, `RUN` the names of the files in it that are run; the others tell their times only.
"""

import importlib.util
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.models.xcom import XComModel
from airflow.serialization.serialized_objects import DagSerialization
from airflow.timetables.base import DataInterval, TimeRestriction
from airflow.utils.db import initdb
from airflow.utils.session import create_session
from pendulum import instance
from sqlalchemy import select

BEGIN = datetime(2027, 3, 1, tzinfo=UTC)


def dag_of(file):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.dag


def times_of(timetable, last, catchup, until):
    """When it would be run after the last run, until a time or 20 of them."""
    restriction = TimeRestriction(earliest=None, latest=None, catchup=catchup)
    found = []
    while len(found) < 20 and (not found or found[-1] < until):
        interval = DataInterval.exact(instance(last))
        info = timetable.next_dagrun_info(last_automated_data_interval=interval, restriction=restriction)
        found.append(last := info.run_after)
    return [one.isoformat() for one in found]


def outcome_of(dag):
    run = dag.test()
    (task,) = run.get_task_instances()
    with create_session() as session:
        asked = select(XComModel).where(XComModel.run_id == run.run_id, XComModel.dag_id == dag.dag_id)
        returned = [one.value for one in session.scalars(asked) if one.key == "return_value"]
    return {"run": run.state, "task": task.state, "tries": task.try_number, "returned": returned}


def main():
    dags, *names = sys.argv[1:]
    initdb()
    told = {}
    for file in sorted(Path(dags).glob("*.py")):
        dag = dag_of(file)
        kept = DagSerialization.from_dict(DagSerialization.to_dict(dag))
        now = datetime.now(UTC)
        told[file.name] = {
            "id": dag.dag_id,
            "active": kept.max_active_runs,
            "times": times_of(kept.timetable, BEGIN, True, datetime.max.replace(tzinfo=UTC)),
            "missed": times_of(kept.timetable, now - timedelta(days=70), kept.catchup, now),
            "now": now.isoformat(),
        } | (outcome_of(dag) if file.name in names else {})
    print(json.dumps(told))


main()
