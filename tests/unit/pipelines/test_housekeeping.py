"""`workspace size|gc` on real stores: what is needed stays, whoever names it and whatever goes wrong."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from configs.errors import RequestError, StageError
from pipelines.cli import main
from pipelines.execution.housekeeping import Wish, collect, planned
from pipelines.execution.workspace_size import workspace_size
from pipelines.planning.garbage import Asked
from registry.tracking.address import sqlite_uri
from tests.unit.registry.test_in_use import beside
from tests.used_workspace import LAST, UsedWorkspace, gc, tree, whole


def test_a_dry_run_tells_what_would_go_and_removes_nothing(used: UsedWorkspace) -> None:
    before = tree(used.workspace.root)
    told = planned(used.workspace, LAST)
    assert tree(used.workspace.root) == before
    assert not told.done
    assert {one.kind for one in told.removed} == {
        "calibration",
        "artifacts",
        "measurements",
        "cache",
        "answers",
        "runs",
    }
    assert told.bytes == sum(one.bytes for one in told.removed) > 0
    done = collect(used.workspace, LAST, lambda _: None)
    assert done.removed == told.removed
    assert done.kept == told.kept


def test_the_last_run_keeps_what_it_needs_and_the_rest_goes(used: UsedWorkspace) -> None:
    gc(used)
    store = used.workspace.store
    assert [whole(used, digest) for digest in used.artifacts] == [False, False, True]
    assert whole(used, used.checkpoint)
    assert len(store.digests()) == 4
    assert not store.withdrawn()
    assert sorted(entry.key.stage for entry in used.workspace.cache.entries()) == [
        *("calibrate", "inspect", "measure", "prepare", "quantize"),
    ]
    assert [path.name for path in used.workspace.answers_dir.iterdir()] == [f"{used.artifacts[2][7:]}.sqlite"]
    runs = used.workspace.root / "runs"
    for run in used.runs[:2]:
        assert sorted(path.name for path in (runs / run).iterdir()) == ["config.json", "report.html", "result.json"]
    assert (runs / used.runs[2] / "logs" / "quantize.log").exists()
    assert gc(used) == set()


def test_records_of_runs_go_where_asked_and_where_they_are_recorded_stays(used: UsedWorkspace) -> None:
    gc(used, Wish(Asked(keep_runs=1), drop_runs=True))
    assert [path.name for path in (used.workspace.root / "runs" / used.runs[0]).iterdir()] == ["config.json"]
    assert gc(used, Wish(Asked(keep_runs=1), drop_runs=True)) == set()


def test_each_recipe_has_its_last_runs(used: UsedWorkspace) -> None:
    used.run(3, name="other")
    gc(used)
    assert [whole(used, digest) for digest in used.artifacts] == [False, False, True, True]


def test_a_run_without_an_end_counts(used: UsedWorkspace) -> None:
    used.run(3, finished=False)
    gc(used)
    assert [whole(used, digest) for digest in used.artifacts] == [False, False, False, True]


def test_a_folder_that_no_run_has_made_keeps_what_it_names(used: UsedWorkspace) -> None:
    folder = used.workspace.root / "runs" / "kept by hand"
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps({"config": {"name": "demo"}, "wanted": used.artifacts[0]}))
    gc(used)
    assert whole(used, used.artifacts[0])


def test_aliases_in_the_ledger_and_what_they_are_rolled_back_to_stay(used: UsedWorkspace) -> None:
    first, second, _ = used.artifacts
    for version, digest in enumerate(used.artifacts, start=1):
        used.version(version, digest)
    used.row("alias:champion", "promote", version_to="1", artifact=first)
    used.row("alias:champion", "promote", version_from="1", version_to="2", artifact=second)
    told = planned(used.workspace, LAST)
    assert {"champion of demo", "rollback of champion of demo", "measured of a model in production"} <= {
        one.why for one in told.kept
    }
    gc(used)
    assert all(whole(used, digest) for digest in used.artifacts)
    used.row("alias:champion", "promote", version_from="2", version_to="3", artifact=used.artifacts[2])
    gc(used)
    assert [whole(used, digest) for digest in used.artifacts] == [False, True, True]


@pytest.mark.parametrize("tagged", [True, False])
def test_an_alias_that_the_ledger_does_not_know_counts(used: UsedWorkspace, tagged: bool) -> None:
    used.version(1, used.artifacts[0], alias="somebody-s", tagged=tagged)
    # One digest may be two versions.
    used.version(2, used.artifacts[0])
    gc(used)
    assert [whole(used, digest) for digest in used.artifacts] == [True, False, True]


@pytest.mark.parametrize(
    ("stream", "kinds", "stays"),
    [
        ("approval", ["request"], True),
        ("approval", ["request", "approve"], True),
        ("approval", ["approve", "reject"], False),
        ("ramp", ["begin", "advance"], True),
        ("ramp", ["begin", "hold"], True),
        ("ramp", ["begin", "fail"], False),
    ],
)
def test_approvals_and_ramps_count_by_their_last_word(
    used: UsedWorkspace, stream: str, kinds: list[Any], stays: bool
) -> None:
    artifact = used.artifacts[0]
    used.version(1, artifact)
    for kind in kinds:
        used.row(f"approval:{artifact}" if stream == "approval" else "ramp:shadow", kind, artifact=artifact)
    gc(used)
    assert whole(used, artifact) is stays


def _gone_mlflow(used: UsedWorkspace) -> None:
    (used.workspace.root / "mlflow.db").unlink()


def _broken_mlflow(used: UsedWorkspace) -> None:
    (used.workspace.root / "mlflow.db").write_bytes(b"no database" * 1000)


def _empty_ledger(used: UsedWorkspace) -> None:
    used.workspace.ledger_file.write_bytes(b"")


def _broken_ledger(used: UsedWorkspace) -> None:
    used.workspace.ledger_file.write_bytes(b"no database" * 1000)


def _emptied_ledger(used: UsedWorkspace) -> None:
    with used.ledger._engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM quantbench_ledger")


def _edited_ledger(used: UsedWorkspace) -> None:
    with used.ledger._engine.begin() as connection:
        connection.exec_driver_sql("UPDATE quantbench_ledger SET artifact = 'sha256:other'")


def _server_down(used: UsedWorkspace) -> None:
    used.run(3, tracking={"uri": "http://127.0.0.1:9"})


def _ledger_down(used: UsedWorkspace) -> None:
    used.run(3, registry={"ledger": "postgresql://nobody@127.0.0.1:9/none"})


def _broken_config(used: UsedWorkspace) -> None:
    (used.workspace.root / "runs" / used.runs[0] / "config.json").write_text("{")


def _unreadable_record(used: UsedWorkspace) -> None:
    record = used.workspace.root / "runs" / used.runs[2] / "result.json"
    record.unlink()
    record.mkdir()


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (_gone_mlflow, "mlflow.db does not tell what production needs: it is gone"),
        (_broken_mlflow, "file is not a database"),
        (_empty_ledger, "ledger.db does not tell what production needs: it is empty"),
        (_broken_ledger, "file is not a database"),
        (_emptied_ledger, "its rows are gone"),
        (_edited_ledger, "it was changed after it was written"),
        (_server_down, "MLflow at http://127.0.0.1:9"),
        (_ledger_down, "127.0.0.1"),
        (_broken_config, "does not say where its run was recorded"),
        (_unreadable_record, "may name what is needed"),
    ],
)
def test_nothing_is_deleted_where_what_is_needed_cannot_be_read(used: UsedWorkspace, harm: Any, told: str) -> None:
    used.version(1, used.artifacts[0])
    used.row("alias:champion", "promote", version_to="1", artifact=used.artifacts[0])
    harm(used)
    used.ledger._engine.dispose()
    before = tree(used.workspace.root)
    for do in (lambda: planned(used.workspace, LAST), lambda: collect(used.workspace, LAST, lambda _: None)):
        with pytest.raises(StageError, match=told) as caught:
            do()
        assert "nothing was deleted" in caught.value.remedy
    assert tree(used.workspace.root) == before


def test_a_hidden_password_is_asked_for(used: UsedWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD", raising=False)
    used.run(3, tracking={"uri": "http://me:***@127.0.0.1:9"})
    with pytest.raises(RequestError, match="without its password"):
        collect(used.workspace, LAST, lambda _: None)
    assert all(whole(used, digest) for digest in used.artifacts)


def test_a_workspace_that_records_elsewhere_needs_no_database_of_its_own(used: UsedWorkspace) -> None:
    used.version(1, used.artifacts[0], alias="champion")
    elsewhere = used.workspace.root.parent / "team.db"
    (used.workspace.root / "mlflow.db").rename(elsewhere)
    used.row("alias:champion", "promote", version_to="1", artifact=used.artifacts[0])
    used.run(3, tracking={"uri": sqlite_uri(elsewhere), "registered_model": "demo"})
    for run in used.runs[:3]:
        shutil.rmtree(used.workspace.root / "runs" / run)
    gc(used)
    assert [whole(used, digest) for digest in used.artifacts] == [True, False, False, True]


USER = """
import sys
from pathlib import Path
from pipelines.execution.workspace import Workspace
workspace = Workspace(Path(sys.argv[1]))
folder = workspace.new_run_dir("demo")
workspace.store.open(sys.argv[2])
print("held", flush=True)
sys.stdin.read()
"""


def test_what_a_run_that_goes_on_uses_stays(used: UsedWorkspace) -> None:
    with beside(USER, str(used.workspace.root), used.artifacts[0]):
        (going,) = {path.name for path in (used.workspace.root / "runs").iterdir()} - set(used.runs)
        used.run(5)
        removed = gc(used)
        assert whole(used, used.artifacts[0])
        assert f"runs/{going}" not in removed
        assert (used.workspace.root / "runs" / going / "logs").is_dir()
    gc(used)
    assert not whole(used, used.artifacts[0])


def test_a_promotion_between_look_and_removal_finds_the_object_gone_or_keeps_it(used: UsedWorkspace) -> None:
    """Who has proved the bytes before the gate was shut, holds them: his row may come when he likes."""
    with beside(USER, str(used.workspace.root), used.artifacts[0]):
        assert used.artifacts[0] not in gc(used)
        used.version(1, used.artifacts[0], alias="champion")
    assert used.artifacts[0] not in gc(used)


def test_damaged_objects_stay_where_they_are_needed_and_go_where_not(used: UsedWorkspace) -> None:
    store = used.workspace.store
    for digest in used.artifacts:
        (store.path(digest) / "content.txt").write_text("other bytes")
    shutil.rmtree(store.path(used.checkpoint))
    removed = gc(used)
    assert removed >= set(used.artifacts[:2])
    assert store.path(used.artifacts[2]).is_dir()
    assert store.manifest_file(used.checkpoint).exists()


def test_signatures_stay_with_what_is_needed_even_where_it_is_not_there(used: UsedWorkspace) -> None:
    signatures = [used.sign(digest) for digest in used.artifacts]
    used.workspace.store.discard(used.artifacts[2])
    gc(used)
    assert [path.exists() for path in signatures] == [False, False, True]


def test_answers_have_a_limit(used: UsedWorkspace) -> None:
    kept = used.workspace.answers_dir / f"{used.artifacts[2][7:]}.sqlite"
    damaged = kept.with_name("damaged.sqlite.damaged")
    damaged.write_text("moved aside")
    gc(used)
    assert kept.exists()
    assert not damaged.exists()
    gc(used, Wish(Asked(keep_runs=1, answers_bytes=0)))
    assert not kept.exists()


def test_left_overs_of_the_dead_go_and_those_of_the_living_stay(used: UsedWorkspace) -> None:
    store = used.workspace.store
    dead = used.workspace.root / "store" / "staging" / "0badc0de"
    dead.mkdir()
    (dead / "weights").write_bytes(b"0" * 5000)
    withdrawn = store.withdraw(used.artifacts[0])
    assert withdrawn is not None
    with store.staging() as mine:
        (mine / "weights").write_bytes(b"0" * 5000)
        told = planned(used.workspace, LAST)
        names = {one.name for one in told.removed if one.kind == "left-overs"}
        assert names == {f"store/staging/{dead.name}", str(withdrawn.relative_to(used.workspace.root))}
        gc(used)
        assert (mine / "weights").exists()
    assert not dead.exists()
    assert not withdrawn.exists()


def test_shadow_folders_stay_unless_they_are_asked_for(used: UsedWorkspace) -> None:
    folder = used.workspace.replay_dir("demo")
    (folder / "replay.json").write_text(json.dumps({"finished_at": None, "champion": used.artifacts[0]}))
    gc(used)
    assert whole(used, used.artifacts[0])
    long_ago = (1_700_000_000, 1_700_000_000)
    os.utime(folder / "replay.json", long_ago)
    gc(used)
    assert folder.exists()
    gc(used, Wish(Asked(keep_runs=1, shadow_older_than_ns=24 * 3600 * 10**9)))
    assert not folder.exists()
    gc(used)
    assert not whole(used, used.artifacts[0])


def test_the_command_tells_size_and_what_goes(used: UsedWorkspace, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--workspace", str(used.workspace.root)]
    assert main(["workspace", "size", "--json", *place]) == 0
    size = json.loads(capsys.readouterr().out)
    counts = {one["kind"]: one["count"] for one in size["kinds"]}
    assert counts["artifacts"] == counts["measurements"] == counts["runs"] == counts["answers"] == 3
    assert counts["checkpoints"] == 1
    assert size["bytes"] == sum(one["bytes"] for one in size["kinds"])
    assert size["frees_bytes"] == 0
    assert main(["workspace", "gc", *place]) == 0
    assert "nothing is to be removed" in capsys.readouterr().out
    assert main(["workspace", "gc", "--keep-runs", "1", *place]) == 0
    assert "quantbench workspace gc --yes removes it" in capsys.readouterr().out
    used.workspace.ledger_file.write_bytes(b"")
    assert main(["workspace", "size", *place]) == 0
    assert "is not known" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["size", "--yes"],
        ["size", "--drop-runs"],
        ["gc", "--workspace", "nowhere"],
    ],
)
def test_a_wrong_request_is_refused(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "workspace").mkdir()
    assert main(["workspace", *arguments]) == 2


@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5"])
def test_a_number_of_runs_is_one_or_more(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["workspace", "gc", "--keep-runs", value])
    assert "not a number of runs" in capsys.readouterr().err or "--keep-runs" in capsys.readouterr().err


def test_what_a_killed_stage_kept_stays_while_its_run_does(used: UsedWorkspace) -> None:
    root = used.workspace.root
    for run, key in zip(used.runs[1:], ("a" * 64, "b" * 64), strict=True):
        (root / "rounded" / key / "2-threads").mkdir(parents=True)
        (root / "rounded" / key / "2-threads" / "model.layers.0.mlp.up_proj.rounded").write_bytes(b"x" * 5000)
        (root / "trials").mkdir(exist_ok=True)
        (root / "trials" / f"{key}.jsonl").write_text("a trial\n")
        stages = root / "runs" / run / "stages"
        stages.mkdir()
        for place, name in ((f"trials/{key}.jsonl", "sensitivity"), (f"rounded/{key}", "quantize")):
            (stages / f"{name}.job.json").write_text(json.dumps({"kept": str(root / place)}))
    taken = {one.kind: one.bytes for one in workspace_size(used.workspace).kinds}
    assert taken["rounded modules"] >= 10_000
    told = planned(used.workspace, LAST)
    going = {one.name: one.bytes for one in told.removed if one.kind == "unfinished"}
    assert set(going) == {f"rounded/{'a' * 64}", f"trials/{'a' * 64}.jsonl"}
    assert going[f"rounded/{'a' * 64}"] >= 5000
    gc(used)
    assert [path.name for path in (root / "rounded").iterdir()] == ["b" * 64]
    assert [path.name for path in (root / "trials").iterdir()] == [f"{'b' * 64}.jsonl"]
    assert gc(used) == set()
