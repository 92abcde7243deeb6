"""What a tracking store says of experiments and runs, asked without importing MLflow, which takes seconds.

Databases are read (tables of MLflow 3), servers asked over their REST API; of other stores nothing is known.
"""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from typing import Any, Literal

from registry.tracking.address import is_server, sqlite_file
from registry.tracking.rest import NoAnswerError, ask


def experiment_stage(uri: str, name: str) -> Literal["active", "deleted", "missing"] | None:
    """Whether an experiment is there; None where the store is not asked.

    Raises:
        NoAnswerError: A server did not answer. A local file that is not there has no experiment.
    """
    found: str | None
    if sqlite_file(uri) is not None:
        found = _read(uri, "SELECT lifecycle_stage FROM experiments WHERE name = ?", name)
    elif is_server(uri):
        answer = ask(uri, "experiments/get-by-name", {"experiment_name": name})
        found = _part(answer, "experiment").get("lifecycle_stage") if answer else None
    else:
        return None
    return "missing" if found is None else "deleted" if found == "deleted" else "active"


def holds_run(uri: str, run_id: str) -> bool | None:
    """Whether a store still has a run that was finished; None where that cannot be known."""
    if sqlite_file(uri) is not None:
        try:
            query = "SELECT status FROM runs WHERE lifecycle_stage = 'active' AND run_uuid = ?"
            return _read(uri, query, run_id) == "FINISHED"
        except NoAnswerError:
            return False  # it is damaged; recording finds out and says it
    if not is_server(uri):
        return None
    try:
        info = _part(_part(answer, "run"), "info") if (answer := ask(uri, "runs/get", {"run_id": run_id})) else {}
    except NoAnswerError:
        return None
    return info.get("status") == "FINISHED" and info.get("lifecycle_stage") == "active"


def _read(uri: str, query: str, value: str) -> str | None:
    """The first column of the first row; None where there is none, or no file."""
    path = sqlite_file(uri)
    assert path is not None  # noqa: S101 - the callers look
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            row = connection.execute(query, (value,)).fetchone()
    except (sqlite3.Error, ValueError) as error:
        raise NoAnswerError(str(error)) from error
    return None if row is None else str(row[0])


def _part(answer: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of a server's answer.

    Raises:
        NoAnswerError: It has none: something else answers there.
    """
    part = answer.get(name)
    if not isinstance(part, dict):
        raise NoAnswerError("it does not answer as an MLflow server does")
    return part
