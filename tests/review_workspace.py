"""Workspaces with finished runs, for tests of the review page."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pipelines.decision.recommend import recommend
from pipelines.execution.workspace import Workspace
from pipelines.recipe.policy import Policy, RecommendConfig
from pipelines.records.run_record import RESULT_FILE, RunRecord
from pipelines.review.collect import Collector
from pipelines.review.page_data import PageData
from registry.sealed import write_sealed
from tests.unit.pipelines.report_records import report_record

FIRST = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


def put_run(root: Path, name: str, began: datetime = FIRST, **changes: Any) -> RunRecord:
    """A run that ended when it says, with its record on disk."""
    folder = root / "runs" / name
    folder.mkdir(parents=True)
    record = report_record(folder, run_id=name, started_at=began, **changes)
    found = recommend(record.rows, Policy(), RecommendConfig())
    record = record.model_copy(update={"recommendation": found})
    write_sealed(folder / RESULT_FILE, record)
    written_at(folder / RESULT_FILE, began + timedelta(seconds=record.breakdown.wall_seconds))
    return record


def written_at(path: Path, when: datetime) -> None:
    """Set a file's time."""
    os.utime(path, (when.timestamp(), when.timestamp()))


def put_runs(root: Path, count: int) -> list[RunRecord]:
    """Runs `run-0`, `run-1`, an hour apart."""
    return [put_run(root, f"run-{number}", FIRST + timedelta(hours=number)) for number in range(count)]


def collector(root: Path, **settings: Any) -> Collector:
    workspace = Workspace(root)
    return Collector(workspace.root, workspace.store, workspace.cache, **settings)


def collected(root: Path, most_bytes: int = 4_000_000, **asked: Any) -> PageData:
    """All that the page of a workspace shows."""
    return collector(root).collect(most_bytes=most_bytes, **asked)
