"""What a run has lost since the version that was accepted last, and what kept that from being known."""

from datetime import timedelta
from pathlib import Path

from pipelines.execution.regressed import regressed
from pipelines.execution.workspace import Workspace
from pipelines.records.run_record import RunRecord
from tests.review_workspace import FIRST, put_run
from tests.unit.pipelines.test_review_regressions import approve, rows_with, scored

HOUR = timedelta(hours=1)
DEMO = "smollm2-135m-demo"


def run(root: Path, number: int, score: float, digest: str) -> RunRecord:
    rows = rows_with([scored("knowledge", score), scored("reasoning", 0.5)], digest=digest)
    return put_run(root, f"20260501T12000{number}-{DEMO}-{number}", FIRST + number * HOUR, rows=rows)


def test_a_loss_since_the_accepted_version_is_told(tmp_path: Path) -> None:
    accepted = run(tmp_path, 0, 0.80, "sha256:" + "a" * 64)
    approve(tmp_path, accepted.rows[1], 0.5)
    run(tmp_path, 1, 0.60, "sha256:" + "b" * 64)
    last = run(tmp_path, 2, 0.61, "sha256:" + "c" * 64)
    found, unknown = regressed(last, Workspace(tmp_path))
    (one,) = found
    assert (one.artifact, one.quantity) == ("int8", "knowledge")
    assert "61.0 % after 80.0 % of version 7, approved last" in one.text
    assert unknown == []


def test_no_loss_and_nothing_to_compare_with(tmp_path: Path) -> None:
    first = run(tmp_path, 0, 0.80, "sha256:" + "a" * 64)
    assert regressed(first, Workspace(tmp_path)) == ([], [])
    second = run(tmp_path, 1, 0.79, "sha256:" + "b" * 64)
    assert regressed(second, Workspace(tmp_path)) == ([], [])


def test_a_run_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    first = run(tmp_path, 0, 0.80, "sha256:" + "a" * 64)
    last = run(tmp_path, 1, 0.60, "sha256:" + "b" * 64)
    (first.run_dir / "result.json").write_text("{")
    found, unknown = regressed(last, Workspace(tmp_path))
    assert found == []
    assert len(unknown) == 1 and first.run_id in unknown[0] and "nothing is compared with that run" in unknown[0]
