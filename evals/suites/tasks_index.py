"""Which tasks, groups and tags lm-eval has, and where: its own index takes half a minute, this one is kept in a file.

The rules are those of lm_eval/tasks/_index.py (0.4.13): files in the order of their paths, the first of a name wins,
and a file that cannot be read is passed over.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from configs.errors import UnreadableError
from configs.reading.json_text import read_json_object
from evals.suites.task_files import read_task_file, tasks_root
from registry.files import write_text_atomically
from registry.os_faults import check_not_refused

_FORMAT = 1
_IGNORED_FOLDERS = {"__pycache__", ".ipynb_checkpoints"}
_Kind = Literal["task", "group", "tag"]


@dataclass(frozen=True)
class Entry:
    """A name of lm-eval's."""

    kind: _Kind
    path: str | None
    """Of its file below lm-eval's folder of tasks; a tag has none."""
    tasks: tuple[str, ...] = ()
    """A tag's tasks, sorted."""


def standard_tasks() -> dict[str, Entry]:
    """Every name that the installed lm-eval knows; read from this user's cache where it is there.

    Raises:
        RequestError: lm-eval is not installed.
    """
    return _from_cache() or rescan()


def rescan() -> dict[str, Entry]:
    """Read lm-eval's task files (seconds) and keep what was found for the next time."""
    found = scan(tasks_root())
    # A cache that cannot be written costs seconds the next time, no more.
    with contextlib.suppress(OSError):
        cache_file().parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(cache_file(), json.dumps({name: asdict(entry) for name, entry in found.items()}))
    _from_cache.cache_clear()
    return found


def cache_file() -> Path:
    """One for each version and place of lm-eval."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = tasks_root()
    # An upgrade in place changes the folder's time even where the version stays (an editable installation).
    stamp = f"{importlib.metadata.version('lm-eval')}-{root.stat().st_mtime_ns:x}-{_FORMAT}"
    return home / "quantbench" / f"lm-eval-tasks-{stamp}.json"


@functools.cache
def _from_cache() -> dict[str, Entry] | None:
    try:
        raw = read_json_object(cache_file())
        return {name: Entry(value["kind"], value["path"], tuple(value["tasks"])) for name, value in raw.items()}
    except (UnreadableError, TypeError, KeyError):
        return None


def scan(root: Path) -> dict[str, Entry]:
    """Index the task files below `root`."""
    entries: dict[str, Entry] = {}
    tags: dict[str, set[str]] = {}
    known: dict[Path, dict[str, Any]] = {}
    for path in sorted(_yaml_files(root), key=Path.as_posix):
        try:
            _add(read_task_file(path, known), path.relative_to(root).as_posix(), entries, tags)
        except (UnreadableError, OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
            # lm-eval passes over what it cannot read. An index without what the machine refused once would be kept.
            check_not_refused(error, "reading lm-eval's task files", path)
    for tag, tasks in tags.items():
        if entries[tag].kind == "tag":
            entries[tag] = Entry("tag", None, tuple(sorted(tasks)))
    return entries


def _yaml_files(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(root):
        if not _IGNORED_FOLDERS & set(Path(folder).parts):
            yield from (Path(folder, name) for name in names if name.endswith(".yaml"))


def _add(config: dict[str, Any], path: str, entries: dict[str, Entry], tags: dict[str, set[str]]) -> None:
    kind: _Kind = "group" if "group" in config and "class" not in config else "task"
    name = config.get(kind)
    if not isinstance(name, str) or name in entries:
        return
    entries[name] = Entry(kind, path)
    if kind == "task":
        tag = config.get("tag") or []
        for one in [tag] if isinstance(tag, str) else tag:
            entries.setdefault(one, Entry("tag", None))
            tags.setdefault(one, set()).add(name)
