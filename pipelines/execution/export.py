"""An artifact as a folder that is handed on: the object's files, a model card, a bill of materials and the signature.

Whoever edits an export must not edit the store, so files are copied and never linked. Each is held against its digest
while it is copied. The folder is made beside its place and renamed there at the end: who is killed leaves nothing
under the name, and what was half-made goes with the next export to it.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from configs.errors import RequestError, UnreadableError
from configs.reading.json_text import read_json
from pipelines.execution.finished_runs import artifact_of_run
from pipelines.execution.workspace import Workspace
from pipelines.report.bill_of_materials import bill_of_materials
from pipelines.report.model_card import model_card
from registry.explain import explanation_of
from registry.files import fsync, fsync_tree, write_text_atomically
from registry.hashing import FileEntry, Manifest, differing, strangers_below
from registry.owned_folders import owned_folder, sweep_abandoned
from registry.signing import BILL_FILE, CARD_FILE, MANIFEST_FILE, SIGNATURE_FILE, UNSIGNED
from registry.store import DamagedObject, Store
from registry.verified_files import look_at

_CHUNK_BYTES = 1 << 20
_OF_GIT = (".git", ".github", ".gitattributes", ".gitignore")
"""What a clone adds; upstream's verifier of signatures passes it over too."""


class Exported(NamedTuple):
    """A folder that was written."""

    digest: str
    """Of the artifact."""
    run_id: str
    """The run that the card tells of."""
    folder: Path
    signed: bool


def export(
    workspace: Workspace, wanted: str, run: str | None, target: Path, on_progress: Callable[[int, int], None]
) -> Exported:
    """Write an artifact into `target`, a folder that is new or empty.

    Args:
        wanted: Its name in the run, or the beginning of its digest.
        run: An id or its beginning; the last run for None.
        on_progress: Called with the bytes that were copied so far and those of all files.

    Raises:
        RequestError: There is no such artifact, or the folder is not empty or in the workspace.
        DamagedObject: The artifact's bytes are not those of its digest.
        StageError: The machine refused to write.
    """
    target = target.resolve()
    _check_target(target, workspace)
    found = artifact_of_run(workspace, wanted, run)
    store, digest = workspace.store, found.artifact.digest
    with _explained(target), _unfinished(target) as folder:
        _copy(store, digest, folder, on_progress)
        write_text_atomically(folder / CARD_FILE, model_card(found))
        write_text_atomically(folder / BILL_FILE, bill_of_materials(found))
        write_text_atomically(folder / MANIFEST_FILE, store.manifest(digest).model_dump_json(indent=2))
        signed = store.signature_file(digest).is_file()
        if signed:
            shutil.copyfile(store.signature_file(digest), folder / SIGNATURE_FILE)
        fsync_tree(folder)
        # Once more, for what has come to be there meanwhile: rename(2) replaces an empty folder only, in fewer words.
        _check_target(target, workspace)
        folder.rename(target)
        fsync(target.parent)
    return Exported(digest, found.run.run_id, target, signed)


def exported_digest(folder: Path) -> str:
    """Of the artifact that an exported folder says it is.

    Raises:
        RequestError: It is no exported folder.
    """
    return _promised(folder).digest


def differences_of_export(folder: Path) -> list[str]:
    """What differs from what an exported folder's own list of files says, one sentence a file; reads every byte.

    The card is the export's own and not the artifact's, so it is not held against the list.

    Raises:
        RequestError: It is no exported folder.
    """
    promised = _promised(folder)
    # What lies behind a link to a folder is not among the files that are looked at, and may be loaded all the same.
    links = [path for path in sorted(folder.rglob("*")) if path.is_symlink() and path.is_dir()]
    strangers = [path.relative_to(folder).as_posix() for path in (*strangers_below(folder), *links)]
    actual = look_at(folder, {}).manifest.files
    return [f"{name}: no file" for name in strangers] + differing(_of_model(promised.files), _of_model(actual))


def _promised(folder: Path) -> Manifest:
    try:
        return Manifest.model_validate(read_json(folder / MANIFEST_FILE))
    except (UnreadableError, ValidationError) as error:
        why = error.what if isinstance(error, UnreadableError) else f"{folder / MANIFEST_FILE} is no list of files"
        raise RequestError(
            f"{folder} is no exported artifact: {why}", remedy="name a folder that `quantbench artifacts export` wrote"
        ) from None


def _of_model(files: Mapping[str, FileEntry]) -> dict[str, FileEntry]:
    return {
        name: entry for name, entry in files.items() if name not in UNSIGNED and name.partition("/")[0] not in _OF_GIT
    }


def _check_target(target: Path, workspace: Workspace) -> None:
    if target.is_relative_to(workspace.root):
        raise RequestError(
            f"{target} is in the workspace", remedy="name a folder elsewhere: its files are Quantbench's"
        )
    if target.is_dir() and any(target.iterdir()):
        raise RequestError(f"the folder {target} is not empty", remedy="name a new or an empty one")
    if target.exists() and not target.is_dir():
        raise RequestError(f"{target} is a file", remedy="name a new or an empty folder")


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    """What the machine refuses is told of the export's disk; the store's own advice is about a workspace."""
    try:
        yield
    except OSError as error:
        told = explanation_of(error, f"cannot export to {target}", target.parent)
        if "--workspace" in told.remedy:
            told.remedy = "free space there, or name a folder on another disk; nothing was left there"
        raise told from error


@contextmanager
def _unfinished(target: Path) -> Iterator[Path]:
    """A folder of this process beside `target`, on the same file system; it goes with the block."""
    area = target.with_name(f".{target.name}.unfinished")
    if area.is_dir():
        sweep_abandoned(area)
    try:
        with owned_folder(area) as folder:
            yield folder
    finally:
        with suppress(OSError):  # another export to the same place is at work in it
            area.rmdir()


def _copy(store: Store, digest: str, folder: Path, on_progress: Callable[[int, int], None]) -> None:
    source, manifest = store.open(digest), store.manifest(digest)
    done = 0
    for name, entry in manifest.files.items():
        hasher = hashlib.sha256()
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with (source / name).open("rb") as read, (folder / name).open("wb") as written:
            while chunk := read.read(_CHUNK_BYTES):
                hasher.update(chunk)
                written.write(chunk)
                done += len(chunk)
                on_progress(done, manifest.size_bytes)
        if f"sha256:{hasher.hexdigest()}" != entry.digest:
            raise DamagedObject(digest, source, [f"{name}: changed while it was copied"])
