"""Runs of a workspace that came to their end."""

import difflib
import logging
from collections.abc import Iterator
from pathlib import Path

from configs.errors import RequestError
from pipelines.execution.workspace import Workspace
from pipelines.records.run_record import RunRecord
from registry.sealed import DamagedFile, read_sealed

logger = logging.getLogger(__name__)


def last_run(workspace: Workspace) -> RunRecord | None:
    """The newest run whose record is whole; None where there is none."""
    for path in _records(workspace):
        try:
            return read_sealed(path, RunRecord)
        except (FileNotFoundError, DamagedFile) as error:
            logger.warning("%s; names are those of the run before it", error)
    return None


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
    known = {path.parent.name: path for path in _records(workspace)}
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


def _records(workspace: Workspace) -> Iterator[Path]:
    """Newest first."""
    yield from sorted(workspace.root.glob("runs/*/result.json"), key=lambda path: path.stat().st_mtime, reverse=True)
