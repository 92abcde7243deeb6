"""What lies in a workspace, and the collection of what nobody needs: look, plan, and remove as planned.

Removed in an order in which each step leaves what is whole or what nobody takes for whole: entries of the cache first,
which would name objects that are gone, then objects by a rename, and their bytes last. So a collection that was killed
has done a part, and the next does the rest.
"""

import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from configs.errors import QuantbenchError, StageError
from configs.reading.json_text import read_json_object
from evals.asking.request_cache import model_of
from pipelines.execution.production import RegisteredModel, in_production
from pipelines.execution.workspace import Workspace
from pipelines.planning.garbage import (
    AnswersFile,
    Asked,
    Found,
    Marked,
    Plan,
    RunFolder,
    ShadowFolder,
    StoredObject,
    Unfinished,
    kept_runs,
    kinds_of,
    plan_of,
)
from pipelines.records.housekeeping import Collection, Kept, Removed
from pipelines.records.run_record import CONFIG_FILE, EVENTS_FILE, RESULT_FILE
from pipelines.records.tune_record import TABLE_FILE, WINNER_FILE
from pipelines.review.summaries import SUMMARY_FILE
from pipelines.review.workspace_runs import REPORT_FILE
from registry.contracts.gateway import ADDRESS_FILE
from registry.contracts.replay import REPLAY_FILE
from registry.held_file import read_held
from registry.in_use import InUse
from registry.tracking.address import sqlite_uri

_DIGEST = re.compile(rb"sha256:[0-9a-f]{64}")
_MOST_BYTES = 1 << 28
"""Of a run's record."""
_RUN_ID = re.compile(r"\d{8}T\d{6}-(.+)-[0-9a-f]{6}")
_RECORDS = (RESULT_FILE, TABLE_FILE, EVENTS_FILE)
"""Of a run, that name what it made."""
_STAYING = (RESULT_FILE, REPORT_FILE, SUMMARY_FILE, CONFIG_FILE, TABLE_FILE, WINNER_FILE)
"""Of a run that is beyond the last ones: what it found, in a few MiB."""
_UNFINISHED = re.compile(rb'"finished_at":\s*null')
_UNFINISHED_PLACE = re.compile(rb"/(?:trials|rounded)/([0-9a-f]{64})")


class Wish(NamedTuple):
    """What `gc` was asked for."""

    asked: Asked
    drop_runs: bool = False
    """Records and pages of runs go too; what says where a recipe is recorded stays."""


class _Look(NamedTuple):
    plan: Plan
    told: Collection


def planned(workspace: Workspace, wish: Wish) -> Collection:
    """What a collection would do now.

    Raises:
        StageError: What production or the runs need cannot be read; the text says that nothing was deleted.
        RequestError: The hidden password of an address is not set.
    """
    return _look(workspace, wish).told


def collect(workspace: Workspace, wish: Wish, on_wait: Callable[[str], None]) -> Collection:
    """Remove what nobody needs.

    Nobody begins to use an object between the look and the removal: what was promoted before is seen, and what is to be
    promoted after is looked for when it is gone. The machine is held all the while, so no measurement is disturbed.

    Args:
        on_wait: Told the process id of the run whose stage is waited for.

    Raises:
        StageError: As `planned`.
    """
    with workspace.machine_lock(on_wait):
        # A store that does not answer is found out before anybody has to wait at the gate.
        in_production(_registered_models(workspace))
        with workspace.store.in_use.closed():
            look = _look(workspace, wish)
            problems = list(_withdraw(workspace, look.plan))
        for run in look.plan.runs:
            problems += _removed(_parts_of(workspace.root / "runs" / run.run_id, wish.drop_runs))
        problems += _removed(one.path for one in look.plan.shadow)
        problems += _removed(one.path for one in look.plan.unfinished)
        workspace.store.sweep()
    return look.told.model_copy(update={"done": True, "problems": problems})


def _look(workspace: Workspace, wish: Wish) -> _Look:
    now_ns = time.time_ns()
    try:
        found = inventory(workspace, wish)
        of_runs: dict[str, str] = {}
        begun: set[str] = set()
        for run in kept_runs(found.runs, wish.asked, now_ns):
            begun |= _keys_of_jobs(workspace.root / "runs" / run.run_id)
            why = "the last runs" if run.recipe else f"runs/{run.run_id}, which no run has made"
            of_runs |= dict.fromkeys(_digests_in_run(workspace.root / "runs" / run.run_id), why)
        of_runs |= dict.fromkeys(_digests_of_replays(workspace.root), "a replay that is not complete")
    except OSError as error:
        raise StageError(
            f"{error.filename} cannot be read, and may name what is needed: {error.strerror}",
            remedy="nothing was deleted; mend its rights or the disk, or remove it, then give the same command again",
            blame="machine",
        ) from error
    marked = Marked(in_production(_registered_models(workspace)), of_runs, begun)
    used = {one.digest for one in found.objects if workspace.store.in_use.is_used(one.digest)}
    plan = plan_of(found, marked, used, wish.asked, now_ns)
    return _Look(plan, _told(workspace, found, plan))


def inventory(workspace: Workspace, wish: Wish) -> Found:
    """What lies in a workspace.

    Raises:
        OSError: Something there cannot be read.
    """
    store = workspace.store
    runs = [path for path in sorted(workspace.root.glob("runs/*")) if path.is_dir() and not path.is_symlink()]
    return Found(
        objects=[StoredObject(digest, freed_bytes(store.path(digest))) for digest in store.digests()],
        results=workspace.cache.outlines(),
        answers=[_answers(path) for path in sorted(workspace.answers_dir.glob("*.sqlite*")) if _is_answers(path)],
        runs=[_run(path, wish.drop_runs, store.in_use) for path in runs],
        signatures=store.signatures(),
        shadow=[_shadow(path) for path in sorted(workspace.root.glob("shadow/*")) if path.is_dir()],
        unfinished=[
            Unfinished(path, path.name.removesuffix(".jsonl"))
            for part in ("trials", "rounded")
            for path in sorted(workspace.root.glob(f"{part}/*"))
        ],
    )


def freed_bytes(path: Path) -> int:
    """What removing a file or a folder frees: links out of it are not followed, and what has a second name stays."""
    total = 0
    for status in _below(path):
        total += 512 * status.st_blocks if status.st_nlink == 1 else 0
    return total


def _below(path: str | Path) -> Iterator[os.stat_result]:
    """Of each file there. By names and one call to the system each: a workspace has tens of thousands."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode):
        yield status
        return
    with os.scandir(path) as entries:
        for entry in entries:
            yield from _below(entry.path)


def _is_answers(path: Path) -> bool:
    return not path.name.endswith(("-wal", "-shm"))


def _answers(path: Path) -> AnswersFile:
    beside = [path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))]
    model = model_of(path) if path.suffix == ".sqlite" else None  # else it was moved aside as damaged
    used_ns = max(one.stat().st_mtime_ns for one in beside if one.exists())
    return AnswersFile(path, model, sum(freed_bytes(one) for one in beside), used_ns)


def _run(folder: Path, drop_runs: bool, in_use: InUse) -> RunFolder:
    made = _RUN_ID.fullmatch(folder.name)
    ends = [path for path in (folder / RESULT_FILE, folder / TABLE_FILE, folder / CONFIG_FILE, folder) if path.exists()]
    size = sum(freed_bytes(path) for path in _parts_of(folder, drop_runs))
    recipe = made[1] if made else None
    return RunFolder(folder.name, recipe, ends[0].stat().st_mtime_ns, size, in_use.is_used(folder.name))


def _parts_of(folder: Path, drop_runs: bool) -> list[Path]:
    """What goes of a run."""
    staying = (CONFIG_FILE,) if drop_runs else _STAYING
    return [path for path in sorted(folder.glob("*")) if path.name not in staying]


def _shadow(folder: Path) -> ShadowFolder:
    used_ns = max((status.st_mtime_ns for status in _below(folder)), default=folder.stat().st_mtime_ns)
    return ShadowFolder(folder, used_ns, freed_bytes(folder), read_held(folder / ADDRESS_FILE) is not None)


def _digests_in_run(folder: Path) -> Iterator[str]:
    for name in _RECORDS:
        with suppress(FileNotFoundError):
            yield from (digest.decode() for digest in _DIGEST.findall((folder / name).read_bytes()))


def _keys_of_jobs(folder: Path) -> set[str]:
    """Of the stages whose jobs name a place for what they keep."""
    jobs = [path.read_bytes() for path in sorted(folder.glob("stages/*.job.json"))]
    return {key.decode() for job in jobs for key in _UNFINISHED_PLACE.findall(job)}


def _digests_of_replays(root: Path) -> Iterator[str]:
    for path in sorted(root.glob(f"shadow/*/{REPLAY_FILE}")):
        content = path.read_bytes()
        if _UNFINISHED.search(content):
            yield from (digest.decode() for digest in _DIGEST.findall(content))


def _registered_models(workspace: Workspace) -> Iterator[RegisteredModel]:
    """Where the runs of a workspace are recorded, and its own places, which outlive its runs."""
    own = RegisteredModel(workspace.default_tracking_uri, "", sqlite_uri(workspace.ledger_file))
    for folder in sorted(workspace.root.glob("runs/*/")):
        places = [path for path in (folder / CONFIG_FILE, folder / RESULT_FILE) if path.exists()]
        try:
            config = _config_in(places[0]) if places else None
            if config is not None:
                tracking, registry = _section(config, "tracking"), _section(config, "registry")
                name = str(tracking.get("registered_model") or config["name"])
                yield RegisteredModel(tracking.get("uri") or own.tracking, name, registry.get("ledger") or own.ledger)
        except (QuantbenchError, LookupError, TypeError, ValueError) as error:
            raise StageError(
                f"{places[0]} does not say where its run was recorded: {error}",
                remedy=f"nothing was deleted; if no alias and no ledger knows that run, remove {folder}",
                blame="machine",
            ) from error
    yield own


def _config_in(path: Path) -> dict[str, Any]:
    told = read_json_object(path, _MOST_BYTES)
    return told if path.name == CONFIG_FILE else _section(told, "config")


def _section(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    return dict(config.get(name) or {})


def _withdraw(workspace: Workspace, plan: Plan) -> Iterator[str]:
    """What could not be, each with why."""
    yield from _removed(one.path for one in plan.results)
    for one in plan.objects:
        try:
            workspace.store.withdraw(one.digest)
        except OSError as error:
            yield f"{one.digest}: {error.strerror}"
    yield from _removed(plan.signatures)
    for answers in plan.answers:
        yield from _removed(
            [answers.path, *(answers.path.with_name(answers.path.name + end) for end in ("-wal", "-shm"))]
        )


def _removed(paths: Any) -> list[str]:
    problems = []
    for path in paths:
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            problems.append(f"{error.filename or path}: {error.strerror}")
    return problems


def _told(workspace: Workspace, found: Found, plan: Plan) -> Collection:
    kinds, store, root = kinds_of(found.results), workspace.store, workspace.root
    removed = [
        *((kinds.get(one.digest, "other objects"), one.digest, one.size_bytes) for one in plan.objects),
        *(("cache", str(one.path.relative_to(root)), freed_bytes(one.path)) for one in plan.results),
        *(("answers", str(one.path.relative_to(root)), one.size_bytes) for one in plan.answers),
        *(("runs", f"runs/{one.run_id}", one.size_bytes) for one in plan.runs if one.size_bytes),
        *(("shadow", str(one.path.relative_to(root)), one.size_bytes) for one in plan.shadow),
        *(("unfinished", str(one.path.relative_to(root)), freed_bytes(one.path)) for one in plan.unfinished),
        *(("signatures", str(path.relative_to(root)), freed_bytes(path)) for path in plan.signatures),
        *(
            ("left-overs", str(path.relative_to(root)), freed_bytes(path))
            for path in (*store.withdrawn(), *store.abandoned())
        ),
    ]
    reasons: dict[str, list[int]] = {}
    for one in found.objects:
        if one.digest in plan.kept:
            reasons.setdefault(plan.kept[one.digest], []).append(one.size_bytes)
    return Collection(
        workspace=str(root),
        done=False,
        removed=[Removed(kind=kind, name=name, bytes=size) for kind, name, size in removed],
        kept=[Kept(why=why, objects=len(sizes), bytes=sum(sizes)) for why, sizes in sorted(reasons.items())],
        bytes=sum(size for _, _, size in removed),
    )
