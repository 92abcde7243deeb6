"""An export is whole or not there, its own and not the store's, and tells of the run that measured the artifact."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from configs.errors import RequestError, StageError
from pipelines.execution import export as module
from pipelines.execution.export import Exported, differences_of_export, export, exported_digest
from pipelines.execution.finished_runs import digest_named
from pipelines.execution.workspace import Workspace
from registry.sealed import write_sealed
from registry.signing import sign
from registry.store import DamagedObject
from tests.full_disk import full_disk
from tests.unit.pipelines.export_records import CHECKPOINT, FILES, handed_on, workspace_with, write_keys
from tests.unit.pipelines.test_runner import ROOT

ADDED = {"bom.cdx.json", "quantbench-manifest.json"}


@pytest.fixture
def made(tmp_path: Path) -> tuple[Workspace, str]:
    return workspace_with(tmp_path)


def exported(workspace: Workspace, target: Path, wanted: str = "gptq", run: str | None = None) -> Exported:
    return export(workspace, wanted, run, target, lambda done, whole: None)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_an_export_is_the_object_with_a_card_and_a_bill(made: tuple[Workspace, str], tmp_path: Path) -> None:
    workspace, digest = made
    told: list[tuple[int, int]] = []
    found = export(workspace, "gptq", None, tmp_path / "new" / "out", lambda *step: told.append(step))
    out = tmp_path / "new" / "out"
    assert found == (digest, "20260501T120000-demo-1a2b3c", out, False)
    assert names(out) == set(FILES) | ADDED
    assert names(out.parent) == {"out"}
    for name in set(FILES) - {"README.md"}:
        assert (out / name).read_text() == FILES[name]
        assert not (out / name).samefile(workspace.store.path(digest) / name)
    assert (out / "README.md").read_text().startswith("---\nlibrary_name: transformers\n")
    assert (workspace.store.path(digest) / "README.md").read_text() == FILES["README.md"]
    assert told[-1] == (sum(map(len, FILES.values())),) * 2
    assert exported_digest(out) == digest
    assert differences_of_export(out) == []
    assert workspace.store.verify(digest) == []


def test_a_second_export_has_the_same_bytes(made: tuple[Workspace, str], tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()  # an empty folder may be there
        exported(made[0], tmp_path / name)
    for name in names(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_signature_comes_along(made: tuple[Workspace, str], tmp_path: Path) -> None:
    workspace, digest = made
    sign(workspace.store, digest, write_keys(tmp_path)[0])
    assert exported(workspace, tmp_path / "out", digest[:20]).signed
    assert (tmp_path / "out" / "model.sig").read_bytes() == workspace.store.signature_file(digest).read_bytes()


@pytest.mark.parametrize("what", ["a file in it", "a file", "a link to a folder that is not empty"])
def test_no_place_is_written_over(made: tuple[Workspace, str], tmp_path: Path, what: str) -> None:
    target = tmp_path / "out"
    if what == "a file":
        target.write_text("mine")
    else:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / ".hidden").touch()
        (tmp_path / "mine").rename(target) if what == "a file in it" else target.symlink_to(tmp_path / "mine")
    with pytest.raises(RequestError, match=r"not empty|is a file"):
        exported(made[0], target)


def test_no_object_of_the_store_gets_a_file(made: tuple[Workspace, str]) -> None:
    for place in (made[0].store.path(made[1]) / "out", made[0].root / "out"):
        with pytest.raises(RequestError, match="is in the workspace"):
            exported(made[0], place)
    assert made[0].store.verify(made[1]) == []


def test_a_folder_that_fills_meanwhile_is_left_alone(
    made: tuple[Workspace, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def filled(*_: object) -> str:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine").touch()
        return ""

    monkeypatch.setattr(module, "model_card", filled)
    with pytest.raises(RequestError, match="is not empty"):
        exported(made[0], tmp_path / "out")
    assert names(tmp_path / "out") == {"mine"}
    assert names(tmp_path) == {"out", "workspace"}


def test_what_differs_in_an_exported_folder_is_named(made: tuple[Workspace, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    exported(made[0], out)
    (out / ".gitattributes").touch()
    (out / ".git").mkdir()
    (out / ".git" / "HEAD").touch()
    (out / "README.md").write_text("another card")
    assert differences_of_export(out) == []
    (out / "model.safetensors").write_text("others")
    (out / "config.json").unlink()
    (out / "evil.py").touch()
    os.mkfifo(out / "pipe")
    (out / "more").symlink_to(tmp_path)
    assert differences_of_export(out) == [
        "pipe: no file",
        "more: no file",
        "config.json: missing",
        "evil.py: added",
        "model.safetensors: changed",
    ]


@pytest.mark.parametrize("text", [None, "", "[]", '{"files": {"a": 1}}', '{"files": {}, "files": {}}'])
def test_what_is_no_exported_folder(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "quantbench-manifest.json").write_text(text)
    with pytest.raises(RequestError, match="is no exported artifact") as caught:
        differences_of_export(tmp_path)
    assert "quantbench artifacts export" in caught.value.remedy


def test_a_damaged_object_is_not_handed_on(
    made: tuple[Workspace, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, digest = made
    weights = workspace.store.path(digest) / "model.safetensors"
    weights.write_text("WEIGHTS" * 1000)
    with pytest.raises(DamagedObject, match=r"model\.safetensors: changed"):
        exported(workspace, tmp_path / "out")
    # Between the look and the copy.
    monkeypatch.setattr(type(workspace.store), "open", lambda self, wanted: self.path(wanted))
    with pytest.raises(DamagedObject, match="changed while it was copied"):
        exported(workspace, tmp_path / "out")
    assert names(tmp_path) == {"workspace"}


def test_a_full_disk_leaves_nothing_and_is_told_as_the_export_s(made: tuple[Workspace, str], tmp_path: Path) -> None:
    (tmp_path / "exports").mkdir()
    with full_disk(tmp_path / "exports") as disk:
        exported(made[0], tmp_path / "exports" / "first")
    for room in range(disk.writes):
        with full_disk(tmp_path / "exports", room), pytest.raises(StageError, match="cannot export to") as caught:
            exported(made[0], tmp_path / "exports" / "out")
        assert "name a folder on another disk" in caught.value.remedy
        assert "--workspace" not in caught.value.remedy
        assert names(tmp_path / "exports") == {"first"}


def test_rights_that_are_missing_are_told(made: tuple[Workspace, str], tmp_path: Path) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path / "out"))

    with pytest.MonkeyPatch.context() as monkeypatch, pytest.raises(StageError, match="has no right to use"):
        monkeypatch.setattr(module, "_copy", refused)
        exported(made[0], tmp_path / "out")


KILLED = """
import os, signal, sys
from pathlib import Path
from pipelines.execution import export as module
from pipelines.execution.workspace import Workspace
def killed(found):
    os.kill(os.getpid(), signal.SIGKILL)
module.bill_of_materials = killed
module.export(Workspace(Path(sys.argv[1])), "gptq", None, Path(sys.argv[2]), lambda *step: None)
"""


@pytest.mark.slow
def test_who_is_killed_leaves_nothing_under_the_name(made: tuple[Workspace, str], tmp_path: Path) -> None:
    out = tmp_path / "exports" / "out"
    argv = [sys.executable, "-P", "-c", KILLED, str(made[0].root), str(out)]
    assert subprocess.run(argv, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)}).returncode == -9
    assert not out.exists()
    assert names(out.parent) == {".out.unfinished"}
    exported(made[0], out)
    assert names(out.parent) == {"out"}


def test_names_are_those_of_a_run(made: tuple[Workspace, str]) -> None:
    workspace, digest = made
    assert digest_named(workspace, "gptq") == digest
    assert digest_named(workspace, "baseline") == CHECKPOINT
    assert digest_named(workspace, digest[:12]) == digest_named(workspace, digest[7:12]) == digest
    with pytest.raises(RequestError, match="no model is called 'gtpq' in 20260501") as caught:
        digest_named(workspace, "gtpq")
    assert caught.value.remedy == "name gptq, or the beginning of a digest"
    other = workspace.root / "runs" / "20260601T120000-demo-0000ff"
    record = handed_on(digest, other)
    write_sealed(other / "result.json", record.model_copy(update={"rows": record.rows[:3]}))
    with pytest.raises(RequestError, match="no model is called 'gptq' in 20260601"):
        digest_named(workspace, "gptq")
    assert digest_named(workspace, "gptq", "20260501") == digest


def test_a_model_that_was_not_made_says_why(made: tuple[Workspace, str]) -> None:
    workspace, digest = made
    run = workspace.root / "runs" / "20260601T120000-demo-0000ff"
    record = handed_on(digest, run)
    awq = record.rows[-1].model_copy(update={"artifact": None, "failure": "quantize:awq: the engine gave up"})
    write_sealed(run / "result.json", record.model_copy(update={"rows": [*record.rows[:-1], awq]}))
    with pytest.raises(RequestError, match="awq was not made in that run: quantize:awq: the engine gave up"):
        digest_named(workspace, "awq")


def test_without_a_run_there_are_digests_only(made: tuple[Workspace, str], tmp_path: Path) -> None:
    workspace, digest = made
    next(workspace.root.glob("runs/*/result.json")).unlink()
    assert digest_named(workspace, digest) == digest
    with pytest.raises(RequestError, match="in any run, and it is no digest"):
        digest_named(workspace, "gptq")
    with pytest.raises(RequestError, match="no artifact of any finished run"):
        exported(workspace, tmp_path / "out", digest)


def test_the_card_tells_of_the_newest_run_that_measured_it(made: tuple[Workspace, str], tmp_path: Path) -> None:
    workspace, digest = made
    run = workspace.root / "runs" / "20260601T120000-demo-0000ff"
    record = handed_on(digest, run)
    lost = {"measurement": None, "retention": None}
    rows = [row.model_copy(update=lost) if row.name == "gptq" else row for row in record.rows]
    write_sealed(run / "result.json", record.model_copy(update={"rows": rows}))
    assert exported(workspace, tmp_path / "out").run_id == "20260501T120000-demo-1a2b3c"
    assert exported(workspace, tmp_path / "named", run="20260601").run_id == run.name
    assert "It was not measured." in (tmp_path / "named" / "README.md").read_text()


def test_the_manifest_is_what_the_digest_is_the_digest_of(made: tuple[Workspace, str], tmp_path: Path) -> None:
    exported(made[0], tmp_path / "out")
    told = json.loads((tmp_path / "out" / "quantbench-manifest.json").read_text())
    assert set(told["files"]) == set(FILES)
    assert made[0].store.manifest(made[1]).model_dump(mode="json") == told
