"""The only importer of mlflow. Metrics, parameters, small files and pointers go there; weights stay in the store."""

from __future__ import annotations

import fcntl
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO
from urllib.parse import unquote

from configs.errors import StageError
from registry.os_faults import check_not_refused

if TYPE_CHECKING:
    from mlflow import MlflowClient

_LONGEST_PARAM = 6000
_MOST_METRICS = 1000
"""MLflow takes no more in one batch."""
_OWNER = "quantbench.recorder"
"""Tag: the file that a run's recorder keeps locked."""


def sqlite_uri(path: Path) -> str:
    """The tracking address of a local file, whatever characters its path has."""
    quoted = str(path).replace("%", "%25").replace("?", "%3F")
    # MLflow makes the folders of a plain address, and would make those of the quoted path.
    return f"{'sqlite' if quoted == str(path) else 'sqlite+pysqlite'}:///{quoted}"


def sqlite_file(tracking_uri: str) -> Path | None:
    """The file of a tracking address; None where it is no local file."""
    kind, _, path = tracking_uri.partition(":///")
    return Path(unquote(path)) if kind in ("sqlite", "sqlite+pysqlite") else None


def holds_run(tracking_uri: str, run_id: str) -> bool:
    """Whether a tracking store still has a run; a server, which is not asked, has."""
    path = sqlite_file(tracking_uri)
    if path is None:
        return True
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            found = connection.execute("SELECT 1 FROM runs WHERE run_uuid = ?", (run_id,)).fetchone()
    except (sqlite3.Error, ValueError):
        return False  # it is gone or damaged; recording finds out and says it
    return found is not None


class MlflowBackend:
    """One experiment of one tracking server.

    Args:
        tracking_uri: Always given: MLflow's own default depends on the working directory.
        experiment: Made when it is not there.
        artifact_root: Where a new experiment keeps small files when the tracking store is a local file; a server
            decides for itself.
        owner_file: Is made and locked (flock(2)) for as long as this process lives. Its runs name it, so that whoever
            comes next knows of a run that is RUNNING whether somebody still writes it; those of the dead are ended.
    """

    def __init__(self, tracking_uri: str, experiment: str, artifact_root: Path, owner_file: Path) -> None:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        self.tracking_uri = tracking_uri
        self._owner = _locked(owner_file)
        self._owner_tag = {_OWNER: str(owner_file)}
        try:
            self._client: MlflowClient = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
            found = self._client.get_experiment_by_name(experiment)
            file = sqlite_file(tracking_uri)
            location = {"artifact_location": artifact_root.as_uri()} if file else {}
            self._experiment_id = (
                found.experiment_id if found else self._client.create_experiment(experiment, **location)
            )
        except (MlflowException, SQLAlchemyError) as error:
            check_not_refused(error, f"opening the MLflow tracking store {tracking_uri}", artifact_root)
            # A damaged database is told by the layer below MLflow.
            why = str(error).partition("\n")[0]
            raise StageError(
                f"the MLflow tracking store {tracking_uri} does not answer: {why}",
                remedy="start or mend it, or name another by `tracking.uri`, then run the same command again; all"
                " measurements are kept",
            ) from error
        # MLflow keeps absolute places. In a workspace that was moved or copied it would write into the other one.
        if found and file and file.parent == artifact_root.parent and found.artifact_location != artifact_root.as_uri():
            raise StageError(
                f"experiment {experiment} of {tracking_uri} keeps its files in {found.artifact_location}: the workspace"
                " was moved or copied since",
                remedy="name another experiment by `tracking.experiment`, then run the same command again; all"
                " measurements are kept",
            )
        self._end_abandoned_runs()

    @contextmanager
    def run(self, name: str, tags: Mapping[str, str], parent_run_id: str | None = None) -> Iterator[RunWriter]:
        """A run that is FINISHED when the block ends, FAILED when it raises, and KILLED when the process is to end."""
        nesting = {"mlflow.parentRunId": parent_run_id} if parent_run_id else {}
        run_id = self._client.create_run(
            self._experiment_id, tags={**tags, **nesting, **self._owner_tag}, run_name=name
        ).info.run_id
        try:
            yield RunWriter(self._client, run_id)
        except BaseException as error:
            self._client.set_terminated(run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
            raise
        self._client.set_terminated(run_id, "FINISHED")

    def _end_abandoned_runs(self) -> None:
        for run in self._client.search_runs([self._experiment_id], "attributes.status = 'RUNNING'"):
            owner_file = run.data.tags.get(_OWNER)
            if owner_file and _is_abandoned(Path(owner_file)):
                self._client.set_terminated(run.info.run_id, "KILLED")

    def register_version(self, model: str, source: Path, run_id: str, digest: str, tags: Mapping[str, str]) -> str:
        """A version of the registered model that points at `source`; found again when the digest has one already.

        Returns:
            The version's number.
        """
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        for version in self._client.search_model_versions(f"name = '{model}'"):
            if version.tags.get("quantbench.digest") == digest:
                for key, value in tags.items():
                    self._client.set_model_version_tag(model, version.version, key, value)
                return str(version.version)
        made = self._client.create_model_version(
            model, source.as_uri(), run_id=run_id, tags={**tags, "quantbench.digest": digest}
        )
        return str(made.version)

    def set_alias(self, model: str, alias: str, version: str) -> None:
        """Point `models:/<model>@<alias>` at a version."""
        self._client.set_registered_model_alias(model, alias, version)


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
    """Writes into one open run."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client = client
        self.run_id = run_id

    def params(self, values: Mapping[str, object]) -> None:
        """Log parameters; values are cut at MLflow's limit."""
        from mlflow.entities import Param

        self._client.log_batch(
            self.run_id, params=[Param(key, str(value)[:_LONGEST_PARAM]) for key, value in values.items()]
        )

    def metrics(self, values: Mapping[str, float | int | None]) -> None:
        """Log metrics; what is not known is left out. Units stand in the names."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        known = {key: float(value) for key, value in values.items() if value is not None}
        metrics = [Metric(key, value, now, 0) for key, value in known.items()]
        for start in range(0, len(metrics), _MOST_METRICS):
            self._client.log_batch(self.run_id, metrics=metrics[start : start + _MOST_METRICS])

    def dataset(self, name: str, digest: str, context: str, source: str) -> None:
        """Log a data set as an input by name and digest, without its rows."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        # MLflow keeps 36 characters of a digest; the source holds all of it.
        dataset = Dataset(
            name, digest.removeprefix("sha256:")[:36], "local", f'{{"uri": "{source}", "digest": "{digest}"}}'
        )
        self._client.log_inputs(
            self.run_id, datasets=[DatasetInput(dataset, [InputTag("mlflow.data.context", context)])]
        )

    def file(self, path: Path, folder: str | None = None) -> None:
        """Log a small file as an artifact."""
        self._client.log_artifact(self.run_id, str(path), folder)
