"""Runs of a workspace that came to their end."""

import difflib
import logging
import re
from collections.abc import Iterator

from configs.errors import RequestError
from pipelines.execution.workspace import Workspace
from pipelines.records.artifact_of_run import ArtifactOfRun
from pipelines.records.run_record import RunRecord, result_files
from registry.sealed import DamagedFile, read_sealed

logger = logging.getLogger(__name__)

_DIGEST = re.compile(r"(sha256:)?[0-9a-f]*")
"""Or its beginning."""


def last_run(workspace: Workspace) -> RunRecord | None:
    """The newest run whose record is whole; None where there is none."""
    return next(_whole_records(workspace), None)


def last_run_of(workspace: Workspace, recipe: str) -> RunRecord | None:
    """The newest run of a recipe, by its name, whose record is whole; None where there is none."""
    # A run's id holds its recipe's name: records of others, which take a while to read, are left closed.
    of_recipe = (record for record in _whole_records(workspace, f"-{recipe}-") if record.config.get("name") == recipe)
    return next(of_recipe, None)


def run_named(workspace: Workspace, wanted: str | None) -> RunRecord:
    """The run with an id, or the one whose id begins so; the last one for None.

    Raises:
        RequestError: There is none, or several are.
    """
    workspace.check_exists()
    if wanted is None:
        found = last_run(workspace)
        if found is None:
            raise RequestError(f"no run of {workspace.root} came to its end", remedy="run a recipe first")
        return found
    known = {file.run_id: file.path for file in result_files(workspace.root)}
    matching = [name for name in known if name == wanted] or [name for name in known if name.startswith(wanted)]
    if len(matching) != 1:
        near = difflib.get_close_matches(wanted, known, n=1)
        several = f"{len(matching)} runs of {workspace.root} are called {wanted}..."
        raise RequestError(
            several if matching else f"no finished run of {workspace.root} is called {wanted}",
            remedy="give more of its id" if matching else f"did you mean {near[0]}?" if near else "see `runs/` there",
        )
    try:
        return read_sealed(known[matching[0]], RunRecord)
    except DamagedFile as error:
        raise RequestError(str(error), remedy="run its recipe again: what was measured is kept") from error


def digest_named(workspace: Workspace, wanted: str, run: str | None = None) -> str:
    """The object that is meant: a model of a run (the last one for None) by its name, any other by its digest.

    Args:
        wanted: A row's name, or the beginning of a digest; what is both is the row's name.
        run: An id or its beginning.

    Raises:
        RequestError: There is no such object, or several are, or the run did not make it.
    """
    record = last_run(workspace) if run is None else run_named(workspace, run)
    rows = {row.name: row for row in record.rows} if record else {}
    if wanted in rows:
        digest = rows[wanted].digest
        if digest is None:
            why = rows[wanted].failure or rows[wanted].blocked_by
            raise RequestError(
                f"{wanted} was not made in that run{f': {why}' if why else ''}",
                remedy="mend that and run its recipe again, or name another model",
            )
        return digest
    if wanted and _DIGEST.fullmatch(wanted):
        return workspace.store.resolve(wanted)
    near = difflib.get_close_matches(wanted, rows, n=3, cutoff=0.4) or list(rows)
    raise RequestError(
        f"no model is called {wanted!r} in {record.run_id if record else 'any run'}, and it is no digest",
        remedy=f"name {' or '.join(near)}, or the beginning of a digest" if near else "see `quantbench artifacts list`",
    )


def artifact_of_run(workspace: Workspace, wanted: str, run: str | None = None) -> ArtifactOfRun:
    """An artifact with the run that tells of it: the run that is named, else the newest that measured it.

    Raises:
        RequestError: There is no such artifact (see `digest_named`), it is none, or no run is left that tells of it.
        DamagedObject: Its bytes are not those of its digest.
    """
    digest = digest_named(workspace, wanted, run)
    telling = _whole_records(workspace) if run is None else [run_named(workspace, run)]
    found = [
        (record, row, row.artifact)
        for record in telling
        for row in record.rows
        if row.artifact and row.artifact.digest == digest
    ]
    if not found:
        raise RequestError(
            f"{digest} is no artifact of {'that run' if run else f'any finished run of {workspace.root}'}",
            remedy="name one of `quantbench artifacts list`, or run its recipe again: what was measured is kept",
        )
    # Two entries of a recipe may have made the same bytes; of equals the first is taken, which is the newest run's.
    record, row, artifact = max(found, key=lambda one: (one[1].measurement is not None, one[1].name == wanted))
    workspace.store.open(digest)
    return ArtifactOfRun(record, row, artifact, workspace.store.manifest(digest).files)


def _whole_records(workspace: Workspace, called: str = "") -> Iterator[RunRecord]:
    """Newest first, of runs whose id holds `called`; those that are damaged are left out."""
    for file in result_files(workspace.root):
        if called not in file.run_id:
            continue
        try:
            yield read_sealed(file.path, RunRecord)
        except (FileNotFoundError, DamagedFile) as error:
            logger.warning("%s; names are those of the run before it", error)
