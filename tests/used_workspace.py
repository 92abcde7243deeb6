"""Workspaces that were used for a while, made in milliseconds: runs, objects, answers, a ledger, an MLflow's tables."""

import gc as garbage
import json
import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from evals.asking.request_cache import RequestCache
from pipelines.execution.housekeeping import Wish, collect
from pipelines.execution.workspace import Workspace
from pipelines.planning.garbage import Asked
from registry.contracts import StageResult
from registry.contracts.base import Record
from registry.contracts.stage import ObjectRef
from registry.ledger import Entry, Kind, Ledger
from registry.stage_cache import StageKey
from registry.tracking.address import sqlite_uri
from tests.records import (
    artifact_record,
    calibration_record,
    checkpoint_record,
    inspection_record,
    measurement_record,
)

MODEL = "demo"
_TABLES = """
CREATE TABLE registered_models (name TEXT);
CREATE TABLE model_versions (name TEXT, version INTEGER, current_stage TEXT, source TEXT);
CREATE TABLE model_version_tags (name TEXT, version INTEGER, key TEXT, value TEXT);
CREATE TABLE registered_model_aliases (name TEXT, alias TEXT, version INTEGER);
"""
"""As MLflow 3 has them, the columns that are read (store/model_registry/dbmodels/models.py)."""


class UsedWorkspace:
    """A workspace whose runs each made a calibration set, an artifact and a measurement of one checkpoint."""

    def __init__(self, root: Path) -> None:
        self.workspace = Workspace(root)
        self.workspace.create()
        self.checkpoint = self.put("prepare", "checkpoint")
        self.artifacts: list[str] = []
        """Of the runs, the oldest first."""
        self.runs: list[str] = []
        self._ledger: Ledger | None = None

    def put(self, stage: str, content: str, **inputs: str) -> str:
        """An object with its entry in the cache; its digest."""
        store = self.workspace.store
        with store.staging() as staging:
            (staging / "content.txt").write_text(f"{stage} {content}")
            stored = store.put(staging)
        records = {
            "prepare": lambda: checkpoint_record(stored.digest),
            "calibrate": lambda: calibration_record(stored.digest),
            "quantize": lambda: artifact_record(stored.digest),
            "measure": lambda: measurement_record(inputs["model"], 0),
        }
        self.keep(stage, content, records[stage](), stored, **inputs)
        return stored.digest

    def keep(self, stage: str, content: str, record: Record, made: ObjectRef | None = None, **inputs: str) -> None:
        """An entry of the cache."""
        key = StageKey(stage=stage, stage_version=1, config={"of": content}, inputs=inputs, libraries={})
        result = StageResult(stage=stage, record=record.model_dump(mode="json"), object=made)
        self.workspace.cache.put(key, stage, result)

    def run(self, number: int, name: str = MODEL, finished: bool = True, **config: object) -> str:
        """The id of a run that ended so many hours after the first; what it made has its number in it."""
        content = f"{name} {number}"
        calibration = self.put("calibrate", content, checkpoint=self.checkpoint)
        artifact = self.put("quantize", content, checkpoint=self.checkpoint, calibration=calibration)
        self.keep("inspect", content, inspection_record(artifact), artifact=artifact)
        measurement = self.put("measure", content, model=artifact)
        self.answers(artifact)
        folder = self.workspace.root / "runs" / f"202605{number + 1:02d}T120000-{name}-{number:06x}"
        (folder / "logs").mkdir(parents=True)
        (folder / "logs" / "quantize.log").write_text("line\n" * 1000)
        names = json.dumps([self.checkpoint, calibration, artifact, measurement])
        (folder / "config.json").write_text(json.dumps({"name": name, "tracking": {}, "registry": {}} | config))
        (folder / "events.jsonl").write_text(names)
        if finished:
            (folder / "result.json").write_text(names)
            (folder / "report.html").write_text("a page")
        for path in folder.iterdir():
            os.utime(path, (1_780_000_000 + 3600 * number,) * 2)
        self.artifacts.append(artifact)
        self.runs.append(folder.name)
        return folder.name

    def answers(self, model: str) -> Path:
        """The file of what a model answered."""
        path = self.workspace.answers_dir / f"{model[7:]}.sqlite"
        with RequestCache(path, {"model_digest": model}) as cache:
            cache.put([("question", "answer")])
        return path

    def sign(self, digest: str) -> Path:
        """A file in a signature's place."""
        path = self.workspace.store.signature_file(digest)
        path.parent.mkdir(exist_ok=True)
        path.write_text("signed")
        return path

    def version(self, version: int, digest: str, alias: str | None = None, tagged: bool = True) -> None:
        """A version in MLflow's database, and an alias that points at it."""
        database = self.workspace.root / "mlflow.db"
        is_new = not database.exists()
        with closing(sqlite3.connect(database)) as connection, connection:
            if is_new:
                connection.executescript(_TABLES)
                connection.execute("INSERT INTO registered_models VALUES (?)", (MODEL,))
            source = self.workspace.store.path(digest).as_uri()
            connection.execute("INSERT INTO model_versions VALUES (?, ?, 'None', ?)", (MODEL, version, source))
            if tagged:
                tag = (MODEL, version, "quantbench.digest", digest)
                connection.execute("INSERT INTO model_version_tags VALUES (?, ?, ?, ?)", tag)
            if alias:
                connection.execute("INSERT INTO registered_model_aliases VALUES (?, ?, ?)", (MODEL, alias, version))

    @property
    def ledger(self) -> Ledger:
        """The workspace's own."""
        if self._ledger is None:
            self._ledger = Ledger(sqlite_uri(self.workspace.ledger_file))
        return self._ledger

    def row(self, stream: str, kind: Kind, **told: str | None) -> Entry:
        """The next row of a stream."""
        entry = Entry(
            model=MODEL, stream=stream, sequence=0, kind=kind, at=datetime.now(UTC), who="a tester", why="", **told
        )
        written = self.ledger.append(entry, self.ledger.last(MODEL, stream))
        self.ledger.set_projected(written)
        return written


LAST = Wish(Asked(keep_runs=1))
"""Only the last run of each recipe."""


def gc(used: UsedWorkspace, wish: Wish = LAST) -> set[str]:
    """What went."""
    told = collect(used.workspace, wish, lambda _: None)
    assert told.done
    assert told.problems == []
    return {one.name for one in told.removed}


def whole(used: UsedWorkspace, digest: str) -> bool:
    """Every byte is read, by a store of its own."""
    return Workspace(used.workspace.root).store.verify(digest) == []


def left_alone(used: UsedWorkspace) -> Path:
    """The workspace's folder, in which this process uses nothing any more."""
    root = used.workspace.root
    del used.workspace
    garbage.collect()
    return root


def tree(root: Path) -> dict[str, bytes]:
    """All files, but locks and what is remembered of bytes."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.suffix != ".lock" and path.parent.name != "verified"
    }
