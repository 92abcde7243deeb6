"""Runs as a tracking store has them, read without MLflow's import, which takes seconds.

Local databases are read by MLflow 3's tables (store/tracking/dbmodels/models.py), servers asked over their REST API.
Others are not known here.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from configs.errors import UnreadableError
from configs.reading.text import read_bytes
from registry.tracking.address import is_server, sqlite_file
from registry.tracking.rest import NoAnswerError, ask, file_of

_ID_TAG = "quantbench.run_id"
_PARENT_TAG = "mlflow.parentRunId"
_ON_A_PAGE = 100
"""Of a server's answer: a run has some hundred metrics, which are 25 kB."""
_PATIENCE_SECONDS = 10.0


class RecordedRun(NamedTuple):
    """One run of MLflow."""

    id: str
    """MLflow's own."""
    name: str
    started_ms: int
    """Since the epoch."""
    ended_ms: int
    metrics: Mapping[str, float]
    params: Mapping[str, str]
    tags: Mapping[str, str]
    files_at: str
    """Address of its files."""

    @property
    def run_id(self) -> str:
        """Of the recipe's run, where it is one."""
        return self.tags.get(_ID_TAG, "")


class RecordedRuns:
    """One experiment of a store.

    Args:
        uri: Of the store, with its password.
        experiment: Its name.

    What is asked of it raises NoAnswerError where the store does not answer, or is of a kind that is not known here.
    """

    def __init__(self, uri: str, experiment: str) -> None:
        self._uri, self._experiment = uri, experiment

    def newest(self, most: int) -> list[RecordedRun]:
        """Finished runs of recipes, the one that began last first."""
        if is_server(self._uri):
            return list(self._searched(f"tags.`{_ID_TAG}` != '' AND attributes.status = 'FINISHED'", most))
        return self._selected(
            "JOIN tags t ON t.run_uuid = r.run_uuid AND t.key = ? JOIN experiments e USING (experiment_id)"
            " WHERE e.name = ? AND r.status = 'FINISHED' AND r.lifecycle_stage = 'active'"
            " ORDER BY r.start_time DESC LIMIT ?",
            (_ID_TAG, self._experiment, most),
        )

    def models_of(self, run: RecordedRun, most: int = 1000) -> list[RecordedRun]:
        """The runs of its models, the one that began first first."""
        if is_server(self._uri):
            found = self._searched(f"tags.`{_PARENT_TAG}` = '{run.id}'", most)
            return sorted(found, key=lambda one: one.started_ms)
        return self._selected(
            "JOIN tags t ON t.run_uuid = r.run_uuid AND t.key = ?"
            " WHERE t.value = ? AND r.lifecycle_stage = 'active' ORDER BY r.start_time LIMIT ?",
            (_PARENT_TAG, run.id, most),
        )

    def file_of(self, run: RecordedRun, path: str, most_bytes: int) -> bytes | None:
        """A file of a run; None where it has none, or a larger one, or keeps its files where only MLflow reads them."""
        if is_server(self._uri):
            return file_of(self._uri, run.id, path, most_bytes)
        place = urlsplit(run.files_at)
        if place.scheme != "file":
            return None
        try:
            return read_bytes(Path(unquote(place.path)) / path, most_bytes)
        except (UnreadableError, OSError, ValueError):
            return None

    def _searched(self, wanted: str, most: int) -> Iterator[RecordedRun]:
        found = ask(self._uri, "experiments/get-by-name", {"experiment_name": self._experiment})
        if not found:
            return
        question: dict[str, Any] = {
            "experiment_ids": [found["experiment"]["experiment_id"]],
            "filter": wanted,
            "order_by": ["attributes.start_time DESC"],
        }
        while most > 0:
            answer = ask(self._uri, "runs/search", question | {"max_results": min(most, _ON_A_PAGE)}, "POST") or {}
            runs = answer.get("runs", [])
            most -= len(runs)
            yield from map(_of_server, runs)
            if not answer.get("next_page_token"):
                return
            question["page_token"] = answer["next_page_token"]

    def _selected(self, which: str, values: tuple[object, ...]) -> list[RecordedRun]:
        path = sqlite_file(self._uri)
        if path is None:
            raise NoAnswerError("it is neither a server nor a local database")
        if not path.exists():
            return []
        columns = "r.run_uuid, r.name, coalesce(r.start_time, 0), coalesce(r.end_time, r.start_time, 0), r.artifact_uri"
        try:
            place = f"{path.resolve().as_uri()}?mode=ro"
            with closing(sqlite3.connect(place, uri=True, timeout=_PATIENCE_SECONDS)) as connection:
                runs = connection.execute(f"SELECT {columns} FROM runs r {which}", values).fetchall()  # noqa: S608
                return [_of_database(connection, *run) for run in runs]
        except (sqlite3.Error, ValueError) as error:
            raise NoAnswerError(str(error)) from error


def _of_database(
    connection: sqlite3.Connection, run: str, name: str, started: int, ended: int, files_at: str | None
) -> RecordedRun:
    metrics = connection.execute("SELECT key, value FROM latest_metrics WHERE run_uuid = ? AND NOT is_nan", (run,))
    params = connection.execute("SELECT key, value FROM params WHERE run_uuid = ?", (run,))
    tags = connection.execute("SELECT key, value FROM tags WHERE run_uuid = ?", (run,))
    told: list[dict[str, Any]] = [dict(rows.fetchall()) for rows in (metrics, params, tags)]
    return RecordedRun(run, name, started, ended, told[0], told[1], told[2], files_at or "")


def _of_server(run: Mapping[str, Any]) -> RecordedRun:
    try:
        info, data = run["info"], run.get("data", {})
        started = int(info.get("start_time", 0))
        metrics = {one["key"]: float(one["value"]) for one in data.get("metrics", [])}
        params, tags = ({one["key"]: str(one["value"]) for one in data.get(kind, [])} for kind in ("params", "tags"))
        ended = int(info.get("end_time", started))
        name, files_at = info.get("run_name", ""), info.get("artifact_uri", "")
        return RecordedRun(info["run_id"], name, started, ended, metrics, params, tags, files_at)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NoAnswerError(f"it does not answer as an MLflow server does: {error}") from error
