"""What a tracking store says of experiments and runs, asked without importing MLflow, which takes seconds.

Databases are read (tables of MLflow 3), servers asked over their REST API; of other stores nothing is known.
"""

import base64
import os
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import closing
from http.client import HTTPException
from typing import Any, Literal
from urllib.parse import quote, urlencode

from configs.reading.json_text import parse_json
from registry.tracking.address import PASSWORD_VARIABLE, credentials_apart, is_server, sqlite_file

_PATIENCE_SECONDS = 10.0
_MOST_BYTES = 8 << 20


class NoAnswerError(Exception):
    """The store cannot be reached, or does not answer as MLflow does."""


def experiment_stage(uri: str, name: str) -> Literal["active", "deleted", "missing"] | None:
    """Whether an experiment is there; None where the store is not asked.

    Raises:
        NoAnswerError: A server did not answer. A local file that is not there has no experiment.
    """
    found: str | None
    if sqlite_file(uri) is not None:
        found = _read(uri, "SELECT lifecycle_stage FROM experiments WHERE name = ?", name)
    elif is_server(uri):
        answer = _ask(uri, "experiments/get-by-name", {"experiment_name": name})
        found = answer["experiment"]["lifecycle_stage"] if answer else None
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
        answer = _ask(uri, "runs/get", {"run_id": run_id})
    except NoAnswerError:
        return None
    info: Mapping[str, Any] = answer["run"]["info"] if answer else {}
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


def _ask(uri: str, path: str, parameters: Mapping[str, str]) -> dict[str, Any] | None:
    """A server's answer; None where it says that there is no such thing."""
    bare, variables = credentials_apart(uri)
    place = f"{bare.rstrip('/')}/api/2.0/mlflow/{path}?{urlencode(parameters, quote_via=quote)}"
    request = urllib.request.Request(place, headers=_who(os.environ | variables))  # noqa: S310 - http or https
    try:
        with urllib.request.urlopen(request, timeout=_PATIENCE_SECONDS) as response:  # noqa: S310 - http or https
            answer = parse_json(response.read(_MOST_BYTES))
    except urllib.error.HTTPError as error:
        if error.code == 404 and b"RESOURCE_DOES_NOT_EXIST" in error.read():
            return None
        raise NoAnswerError(f"it answered {error.code} {error.reason}") from error
    except (OSError, ValueError, HTTPException) as error:
        raise NoAnswerError(str(getattr(error, "reason", error))) from error
    if not isinstance(answer, dict) or not answer.keys() & {"experiment", "run"}:
        raise NoAnswerError("it does not answer as an MLflow server does")
    return answer


def _who(variables: Mapping[str, str]) -> dict[str, str]:
    """The header that says who asks, from MLflow's variables for it."""
    name, token = variables.get("MLFLOW_TRACKING_USERNAME"), variables.get("MLFLOW_TRACKING_TOKEN")
    if name:
        written = f"{name}:{variables.get(PASSWORD_VARIABLE, '')}"
        return {"Authorization": "Basic " + base64.b64encode(written.encode()).decode()}
    return {"Authorization": f"Bearer {token}"} if token else {}
