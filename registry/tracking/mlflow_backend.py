"""The only importer of mlflow. Metrics, parameters, small files and pointers go there; weights stay in the store.

What is written here may be written again: a run has a key, and one whose writer was killed is gone on with, so that
equal work is recorded once however often it is tried.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO, TypeVar
from urllib.parse import urlsplit

from configs.errors import StageError
from registry.os_faults import check_not_refused
from registry.tracking.address import (
    credentials_apart,
    is_server,
    scrubbed,
    sqlite_file,
    with_password,
    without_password,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

_LONGEST_PARAM = 6000
_MOST_METRICS = 1000
"""MLflow takes no more in one batch."""
_MOST_PARAMS = 100
_LONGEST_TEXT = 5000
"""Of a description (mlflow/store/model_registry/dbmodels/models.py). SQLite takes longer ones, others do not."""
_KEY = "quantbench.key"
"""Tag: what a run is about. There is one run of a key."""
_OWNER = "quantbench.recorder"
"""Tag: the file that a run's recorder keeps locked."""
_DIGEST = "quantbench.digest"
_NOTE = "mlflow.note.content"
"""Tag that MLflow's page shows as a description, in Markdown."""
_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
"""With one request. MLflow's own, 120 s and seven times, are longer than anybody waits for a record."""

_HOSTED = ("databricks", "databricks-uc", "uc")
_PAUSES_SECONDS = (2.0, 5.0)
_PASSING = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED")
"""What another try may mend: a connection that broke off, too, is told as the first."""
_T = TypeVar("_T")

_Ends = Literal["FINISHED", "FAILED", "KILLED"]


class MlflowBackend:
    """One experiment of one tracking server.

    Args:
        tracking_uri: Always given: MLflow's own default depends on the working directory. A hidden password is read
            from the variable MLFLOW_TRACKING_PASSWORD.
        experiment: Made when it is not there.
        artifact_root: Where a new experiment keeps small files when the tracking store is a database; a server decides
            for itself.
        owner_file: Is made and locked (flock(2)) for as long as this process lives. Its runs name it, so that whoever
            comes next knows of a run that is RUNNING whether somebody still writes it; those of the dead are ended.

    Raises:
        StageError: The store does not answer, or the experiment was deleted.
    """

    def __init__(self, tracking_uri: str, experiment: str, artifact_root: Path, owner_file: Path) -> None:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        for name, value in _PATIENCE.items():
            os.environ.setdefault(name, value)
        whole = with_password(tracking_uri)
        self.tracking_uri = without_password(whole)
        uri, variables = credentials_apart(whole)
        os.environ.update(variables)
        self._owner = _locked(owner_file)
        self._owner_tag = {_OWNER: str(owner_file)}
        file = sqlite_file(uri)
        self.takes_local_paths = not is_server(uri) and urlsplit(uri).scheme not in _HOSTED
        """Whether a version may point at a folder of this machine."""
        try:
            if file and file.parent == artifact_root.parent and file.exists():
                _move_with_its_workspace(file, artifact_root)
            self._client: MlflowClient = MlflowClient(tracking_uri=uri, registry_uri=uri)
            found = self._client.get_experiment_by_name(experiment)
            location = {"artifact_location": artifact_root.as_uri()} if self.takes_local_paths else {}
            self._experiment_id = (
                found.experiment_id if found else self._client.create_experiment(experiment, **location)
            )
        except (MlflowException, SQLAlchemyError, sqlite3.Error, ImportError) as error:
            check_not_refused(error, f"opening the MLflow tracking store {self.tracking_uri}", artifact_root)
            # A damaged database is told by the layer below MLflow.
            why = scrubbed(str(error).partition("\n")[0], whole)
            raise StageError(
                f"the MLflow tracking store {self.tracking_uri} does not answer: {why}",
                remedy="start or mend it, or name another by `tracking.uri`, then run the same command again; all"
                " measurements are kept",
            ) from error
        if found and found.lifecycle_stage == "deleted":
            raise deleted_experiment(experiment, self.tracking_uri)
        self._end_abandoned_runs()

    @contextmanager
    def run(
        self,
        name: str,
        key: str,
        tags: Mapping[str, str],
        *,
        began: datetime,
        ended: datetime,
        parent_run_id: str | None = None,
    ) -> Iterator[RunWriter]:
        """A run that is FINISHED when the block ends, FAILED when it raises, and KILLED when the process is to end.

        Args:
            key: The run that has it is gone on with; where it is finished already, `RunWriter.finished` says so.
            began: When what it tells of began, and when it ended: recording is quick, and later.
        """
        nesting = {"mlflow.parentRunId": parent_run_id} if parent_run_id else {}
        known = self._client.search_runs([self._experiment_id], f"tags.`{_KEY}` = '{key}'", max_results=1)
        if known:
            run_id, finished = known[0].info.run_id, known[0].info.status == "FINISHED"
            if not finished:
                self._client.update_run(run_id, status="RUNNING")
                for tag, value in {**tags, **self._owner_tag}.items():
                    self._client.set_tag(run_id, tag, value)
        else:
            made = self._client.create_run(
                self._experiment_id,
                start_time=_milliseconds(began),
                tags={**tags, **nesting, **self._owner_tag, _KEY: key},
                run_name=name,
            )
            run_id, finished = made.info.run_id, False
        if finished:
            yield RunWriter(self._client, run_id, ended, finished)
            return
        try:
            yield RunWriter(self._client, run_id, ended, finished)
        except BaseException as error:
            self._end(run_id, "FAILED" if isinstance(error, Exception) else "KILLED", ended)
            raise
        self._end(run_id, "FINISHED", ended)

    def _end(self, run_id: str, status: _Ends, ended: datetime) -> None:
        self._client.set_terminated(run_id, status, end_time=_milliseconds(ended))

    def _end_abandoned_runs(self) -> None:
        for run in self._client.search_runs([self._experiment_id], "attributes.status = 'RUNNING'"):
            owner_file = run.data.tags.get(_OWNER)
            if owner_file and _is_abandoned(Path(owner_file)):
                self._client.set_terminated(run.info.run_id, "KILLED")

    def register_version(
        self, model: str, source: str, run_id: str, digest: str, tags: Mapping[str, str], description: str
    ) -> str:
        """A version of the registered model, with its source; found again when the digest has one already.

        Returns:
            The version's number.
        """
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        for version in self._client.search_model_versions(f"name = '{model}' AND tags.`{_DIGEST}` = '{digest}'"):
            for key, value in tags.items():
                self._client.set_model_version_tag(model, version.version, key, value)
            self._client.update_model_version(model, version.version, shortened(description))
            return str(version.version)
        made = self._client.create_model_version(
            model, source, run_id=run_id, tags={**tags, _DIGEST: digest}, description=shortened(description)
        )
        return str(made.version)

    def describe_model(self, model: str, description: str) -> None:
        """What a registered model's page says of it, in Markdown."""
        self._client.update_registered_model(model, shortened(description))


def persistently(work: Callable[[], _T], tracking_uri: str) -> _T:
    """What `work` gives, begun anew a few times where the store does not answer.

    Raises:
        StageError: It did not, or refuses what is asked.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    for pause in (*_PAUSES_SECONDS, None):
        try:
            return work()
        except (MlflowException, SQLAlchemyError, OSError) as error:
            check_not_refused(error, f"writing into the MLflow tracking store {tracking_uri}", Path.cwd())
            why = scrubbed(str(error).partition("\n")[0], with_password(tracking_uri))
            passing = not isinstance(error, MlflowException) or error.error_code in _PASSING
            if pause is None or not passing:
                raise StageError(
                    f"the MLflow tracking store {tracking_uri} {'did not answer' if passing else 'refused'}: {why}",
                    remedy="see that it runs, then run the same command again: it goes on where this stopped, and all"
                    " measurements are kept"
                    if passing
                    else "change what it names under `tracking`, then run the same command again; all measurements are"
                    " kept",
                ) from error
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def shortened(markdown: str) -> str:
    """A text of whole lines that MLflow's databases take."""
    if len(markdown) <= _LONGEST_TEXT:
        return markdown
    ending = "\n\n(The rest is on the run's page.)"
    begin = markdown[: _LONGEST_TEXT - len(ending)]
    return (begin.rpartition("\n")[0] or begin) + ending


def deleted_experiment(experiment: str, tracking_uri: str) -> StageError:
    """MLflow keeps the name of an experiment that was deleted, and takes no run for it."""
    return StageError(
        f"the experiment {experiment} of {tracking_uri} was deleted",
        remedy="restore it with `mlflow experiments restore`, or name another by `tracking.experiment`",
        blame="recipe",
    )


def _move_with_its_workspace(database: Path, artifact_root: Path) -> None:
    """Let a workspace's own database name the places where its files are now.

    MLflow keeps absolute places. In a workspace that was moved or copied it would look, and write, where that one was.
    """
    columns = {
        "experiments": ["artifact_location"],
        "runs": ["artifact_uri"],
        "model_versions": ["source", "storage_location"],
    }
    now = artifact_root.parent.as_uri() + "/"
    with closing(sqlite3.connect(database)) as connection, connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not columns.keys() <= tables:
            return  # not yet MLflow's
        ending = f"/{artifact_root.name}"
        places = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        for (place,) in places:
            if not str(place).endswith(ending) or place == artifact_root.as_uri():
                continue
            was = str(place).removesuffix(ending.lstrip("/"))
            for table, names in columns.items():
                for name in names:
                    connection.execute(
                        f"UPDATE {table} SET {name} = ? || substr({name}, ?)"  # noqa: S608 - names from above
                        f" WHERE substr({name}, 1, ?) = ?",
                        (now, len(was) + 1, len(was), was),
                    )


def _milliseconds(when: datetime) -> int:
    return int(when.timestamp() * 1000)


def _locked(path: Path) -> TextIO:
    """`path`, made where it is not there, and locked until the process ends or the file is closed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a", encoding="utf-8")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def _is_abandoned(path: Path) -> bool:
    """Whether the process that had locked `path` is gone; of a file that is not on this machine that is not known."""
    try:
        with path.open("r+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


class RunWriter:
    """Writes into one open run; what is written twice is there once.

    Args:
        client: MLflow's.
        run_id: The run's.
        when: The time of its metrics.
        finished: It was written whole before.
    """

    def __init__(self, client: MlflowClient, run_id: str, when: datetime, finished: bool) -> None:
        self._client, self._when = client, when
        self.run_id, self.finished = run_id, finished

    @property
    def artifact_uri(self) -> str:
        """Where the run's files are."""
        return str(self._client.get_run(self.run_id).info.artifact_uri)

    def note(self, markdown: str) -> None:
        """What the run's page says of it."""
        self._client.set_tag(self.run_id, _NOTE, shortened(markdown))

    def params(self, values: Mapping[str, object]) -> None:
        """Log parameters; values are cut at MLflow's limit."""
        from mlflow.entities import Param

        params = [Param(key, str(value)[:_LONGEST_PARAM]) for key, value in values.items()]
        for start in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(self.run_id, params=params[start : start + _MOST_PARAMS])

    def metrics(self, values: Mapping[str, float | int | None]) -> None:
        """Log metrics; what is not known is left out. Units stand in the names."""
        from mlflow.entities import Metric

        known = {key: float(value) for key, value in values.items() if value is not None}
        # At one time always: MLflow keeps a value that is the same at the same time once.
        metrics = [Metric(key, value, _milliseconds(self._when), 0) for key, value in known.items()]
        for start in range(0, len(metrics), _MOST_METRICS):
            self._client.log_batch(self.run_id, metrics=metrics[start : start + _MOST_METRICS])

    def dataset(self, name: str, digest: str, context: str, source: str) -> None:
        """Log a data set as an input by name and digest, without its rows."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        # MLflow keeps 36 characters of a digest; the source holds all of it.
        whole = json.dumps({"uri": source, "digest": digest})
        dataset = Dataset(name, digest.removeprefix("sha256:")[:36], "local", whole)
        self._client.log_inputs(
            self.run_id, datasets=[DatasetInput(dataset, [InputTag("mlflow.data.context", context)])]
        )

    def file(self, path: Path, folder: str | None = None) -> None:
        """Log a small file as an artifact."""
        self._client.log_artifact(self.run_id, str(path), folder)

    def folder(self, path: Path, folder: str) -> None:
        """Upload all files of a folder; those of a large model take long."""
        self._client.log_artifacts(self.run_id, str(path), folder)
