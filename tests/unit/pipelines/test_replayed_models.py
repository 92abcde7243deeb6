"""Which model a side of a replay is."""

from pathlib import Path
from typing import Any

import pytest

from configs.errors import RequestError, StageError
from pipelines.execution.replayed_models import ServedModel, served_model
from pipelines.execution.workspace import Workspace
from pipelines.planning.device import MachineRecord
from pipelines.recipe.replay_config import ReplayConfig, ReplayedModelConfig
from pipelines.records.run_record import RunRecord
from registry.sealed import write_sealed
from tests.unit.pipelines.report_records import report_record
from tests.unit.pipelines.test_recommend import asked, three
from tests.unit.pipelines.test_replay import model_folder
from tests.unit.pipelines.test_runner import MACHINE

CPU: MachineRecord = MACHINE.model_copy(update={"memory_bytes": 8 << 30})


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path / "workspace")
    made.create()
    return made


def stored(workspace: Workspace, **files: Any) -> str:
    """A model in the store."""
    with workspace.store.staging() as folder:
        return workspace.store.put(model_folder(folder / "model", **files)).digest


def found(side: dict[str, Any], workspace: Workspace) -> ServedModel:
    address = {"engine": "openai", "base_url": "http://127.0.0.1:9", "served_model_name": "m"}
    config = ReplayConfig.model_validate(
        {
            "version": 1,
            "name": "mine",
            "prompts": {"file": "log.jsonl"},
            "champion": side,
            "candidate": {"serving": address},
        }
    )
    return served_model(ReplayedModelConfig.model_validate(side), config, workspace, CPU, chats=False)


def run_of(workspace: Workspace, **changes: Any) -> RunRecord:
    directory = workspace.new_run_dir("demo")
    record = report_record(directory, run_id=directory.name, **changes)
    write_sealed(directory / "result.json", record)
    return record


def test_a_folder_is_known_by_its_bytes(workspace: Workspace, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    one = found({"model": str(folder)}, workspace)
    assert (one.folder, one.runs_already) == (folder.resolve(), False)
    then = one.record().digest
    (folder / "model.safetensors").write_bytes(b"other weights")
    assert one.record().digest != then


def test_an_object_is_found_by_the_beginning_of_its_digest(workspace: Workspace) -> None:
    digest = stored(workspace, model={"weights": 1})
    one = found({"artifact": digest.removeprefix("sha256:")[:12]}, workspace)
    assert one.record().digest == digest
    (one.folder / "model.json").write_text("damaged")
    with pytest.raises(StageError, match="damaged"):
        one.record()


def test_a_server_that_runs_already_has_no_digest(workspace: Workspace) -> None:
    address = {"engine": "openai", "base_url": "http://127.0.0.1:9", "served_model_name": "m"}
    one = found({"serving": address}, workspace)
    assert one.runs_already and one.name == "http://127.0.0.1:9"
    assert (one.record().digest, one.record().engine_version) == (None, "unknown")


def test_a_run_s_models_are_found_by_their_rows(workspace: Workspace) -> None:
    baseline, made = stored(workspace, model={"weights": 1}), stored(workspace, model={"weights": 2})
    rows = three()
    rows = [
        row.model_copy(
            update={
                "checkpoint": row.checkpoint.model_copy(update={"digest": baseline}) if row.checkpoint else None,
                "artifact": row.artifact.model_copy(update={"digest": made}) if row.artifact else None,
            }
        )
        for row in rows
    ]
    recommendation = asked(rows).model_copy(update={"digest": made})
    run = run_of(workspace, rows=rows, recommendation=recommendation)
    artifact = next(row.name for row in rows if row.artifact)
    for side, digest in (
        ({"run": "last", "name": "baseline"}, baseline),
        ({"run": run.run_id[:-2], "name": artifact}, made),
        ({"run": "last", "name": "recommended"}, made),
    ):
        one = found(side, workspace)
        assert one.record().digest == digest
        assert one.name == f"{side['name']} of run {run.run_id}"


@pytest.mark.parametrize(
    ("changes", "name", "says"),
    [
        ({}, "gtpq", "has no model gtpq"),
        ({"recommendation": None}, "recommended", "recommends no artifact"),
        ({"rows": "unmade"}, "gptq", "gptq of run .* was not made"),
    ],
)
def test_what_a_run_does_not_have_is_told(workspace: Workspace, changes: dict[str, Any], name: str, says: str) -> None:
    if changes.get("rows") == "unmade":
        rows = report_record(workspace.root).rows
        changes = {"rows": [row.model_copy(update={"artifact": None}) for row in rows]}
    run_of(workspace, **changes)
    with pytest.raises(RequestError, match=says) as caught:
        found({"run": "last", "name": name}, workspace)
    assert caught.value.remedy
