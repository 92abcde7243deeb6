"""The judge of faults finds what should not be: a planted wrong result, a lost one, a leftover, a bad explanation."""

import copy
import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.faults.judge import explained, finished_stages, leftovers, lost_in, result_of, worst, wrong_in

RECORD: dict[str, Any] = {
    "rows": [
        {
            "name": "int8",
            "artifact": {"digest": "sha256:aa", "duration_seconds": 3.0},
            "measurement": {
                "evaluation": {"categories": [{"category": "grammar", "value": 0.5}], "requests_sent": 9},
                "serving": {"model_digest": "sha256:aa", "start_seconds": 7.5},
            },
        }
    ],
    "outcomes": [{"name": "measure:int8", "how": "done", "result": {"record": {"value": 0.5, "seconds": 7.5}}}],
}
GOLDEN = result_of(RECORD)


def changed(*path: str | int, value: Any, how: str = "done") -> dict[str, Any]:
    record = copy.deepcopy(RECORD)
    record["outcomes"][0]["how"] = how
    node: Any = record
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return record


def test_other_times_are_the_same_result() -> None:
    record = changed("rows", 0, "artifact", "duration_seconds", value=9.0)
    record["rows"][0]["measurement"]["serving"]["start_seconds"] = 1.0
    record["rows"][0]["measurement"]["evaluation"]["requests_sent"] = 0
    record["outcomes"][0]["result"]["record"]["seconds"] = 1.0
    assert wrong_in(result_of(record), GOLDEN, [GOLDEN]) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("rows", 0, "artifact", "digest"), "sha256:bb"),
        (("rows", 0, "measurement", "evaluation", "categories", 0, "value"), 0.51),
        (("rows", 0, "measurement", "serving", "model_digest"), "sha256:bb"),
        (("rows", 0, "name"), "other"),
    ],
)
def test_another_score_or_digest_is_wrong(path: tuple[str | int, ...], value: Any) -> None:
    found = wrong_in(result_of(changed(*path, value=value)), GOLDEN, [GOLDEN])
    assert worst(found) == "wrong"


def test_what_is_reused_is_the_same_to_the_letter() -> None:
    path = ("outcomes", 0, "result", "record", "seconds")
    assert wrong_in(result_of(changed(*path, value=7.5, how="reused")), GOLDEN, [GOLDEN]) == []
    found = wrong_in(result_of(changed(*path, value=7.6, how="reused")), GOLDEN, [GOLDEN])
    assert [one.kind for one in found] == ["wrong"]
    assert "record.seconds" in found[0].what
    assert result_of(changed(*path, value=7.6, how="reused")).made.stages == {}


def test_a_result_that_nobody_saw_made_has_its_own_times_and_no_other_scores() -> None:
    golden = result_of(
        changed("outcomes", 0, "result", value={"record": {"value": 0.5}, "timings_seconds": {"load": 1.0}})
    )
    again = {"record": {"value": 0.5}, "timings_seconds": {"load": 2.0}, "object": {"digest": "of files with times"}}
    other = {"record": {"value": 0.6}, "timings_seconds": {"load": 1.0}}
    for result, unseen, wrong in ((again, True, False), (again, False, True), (other, True, True)):
        told = result_of(changed("outcomes", 0, "result", value=result, how="reused"))
        assert bool(wrong_in(told, golden, [golden], unseen=unseen)) == wrong


def test_a_finished_stage_that_is_made_again_was_lost() -> None:
    assert worst(lost_in(GOLDEN, {"measure:int8": "it was finished"})) == "lost"
    assert lost_in(GOLDEN, {"quantize:int8": "it was finished"}) == []


def test_finished_stages_are_those_of_this_faults_runs(tmp_path: Path) -> None:
    for name, events in {
        "1-before": [("prepare", "done")],
        "2-now": [("measure:baseline", "done"), ("quantize:int8", "failed"), ("inspect:int8", "done")],
        "3-now": [("inspect:int8", "failed")],
    }.items():
        (tmp_path / "runs" / name).mkdir(parents=True)
        lines = [json.dumps({"name": stage, "how": how}) for stage, how in events]
        (tmp_path / "runs" / name / "events.jsonl").write_text("\n".join([*lines, '{"name": "half']))
    assert set(finished_stages(tmp_path, before=["1-before"])) == {"measure:baseline"}


@pytest.mark.parametrize(
    ("text", "code", "blame"),
    [
        ("error: x\n  remedy: y\nTraceback (most recent call last):\n  File", 3, None),
        ("error: OSError: x\n  remedy: this failure is not an explained one; run again", 3, None),
        ("error: KeyError: 'a'\n  remedy: run again", 3, None),
        ("error: the artifact is broken\n  remedy: look", 3, "No space"),
        ("error: something", 2, None),
        ("error: x\n  remedy: y", -11, None),
    ],
)
def test_what_explains_nothing_is_found(text: str, code: int, blame: str | None) -> None:
    assert worst(explained(text, code, blame)) == "unexplained"


def test_an_explanation_may_quote_a_log() -> None:
    text = (
        "error: quantize was killed by signal 9; the end of x.log:\n"
        "    Traceback (most recent call last):\n    KeyError: 3\n  remedy: run the same command again"
    )
    assert explained(text, 3, "signal 9") == []


def test_leftovers_are_found(tmp_path: Path) -> None:
    workspace, tmp, shared = tmp_path / "workspace", tmp_path / "tmp", tmp_path / "shm"
    for folder in (workspace / "store" / "objects", tmp, shared):
        folder.mkdir(parents=True)
    (workspace / "store" / "objects" / "kept").write_text("kept")
    (workspace / "machine.lock").write_text("1")
    of_runs = tmp / f"qb-{os.getuid()}"
    of_runs.mkdir()
    assert leftovers(workspace, tmp, shared) == []
    planted = [
        workspace / "store" / "staging" / "1-abc" / "half",
        workspace / "cache" / "measure" / ".ab.json.x7",
        tmp / "tmp_x" / "socket",
        of_runs / "ab12.lock",
        shared / "psm_1",
    ]
    for path in planted:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    with closing(sqlite3.connect(workspace / "mlflow.db")) as database, database:
        database.execute("CREATE TABLE runs (name TEXT, status TEXT)")
        database.execute("INSERT INTO runs VALUES ('half', 'RUNNING')")
    found = leftovers(workspace, tmp, shared)
    assert {one.kind for one in found} == {"left behind"}
    assert len(found) == len(planted) + 1
