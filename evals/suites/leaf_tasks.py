"""Task names of a suite to the tasks that lm-eval runs: ours first, then lm-eval's, groups and tags taken apart."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import RequestError
from evals.suites.task_files import Function, read_task_file, tasks_root
from evals.suites.tasks_index import Entry, rescan, standard_tasks

TASKS_DIR = Path(__file__).resolve().parents[1] / "tasks"
_GROUP_KEYS = {"group", "group_alias", "task", "aggregate_metric_list", "metadata"}
"""Of lm_eval/config/group.py; a group file's other keys are set in each of its tasks."""
_LISTING_KEYS = {"tag", "group", "task_list"}
_DEFAULT_METRICS = {
    "loglikelihood": ["perplexity", "acc"],
    "loglikelihood_rolling": ["word_perplexity", "byte_perplexity", "bits_per_byte"],
    "multiple_choice": ["acc", "acc_norm"],
    "generate_until": ["exact_match"],
}
"""Of lm_eval/api/registry.py: a task that lists no metrics gets these."""
_OF_ALL_ITEMS = {"bleu", "brier_score", "chrf", "f1", "matthews_corrcoef", "ter"}
"""Aggregations of lm_eval/api/metrics.py that make one score of all answers; an item has none by itself."""


@dataclass(frozen=True)
class LeafTask:
    """One task with its whole config; `!function` values are not imported yet."""

    name: str
    config: dict[str, Any]
    own_folder: Path | None
    """Where an embedded task's data files lie; None for lm-eval's tasks."""

    @property
    def is_generative(self) -> bool:
        """Whether it wants texts; of a task that is a Python class, only that class knows."""
        return "class" not in self.config and self.config.get("output_type", "generate_until") == "generate_until"

    @property
    def metrics(self) -> list[str] | None:
        """Names of what the task scores an item by; None where only its Python class knows."""
        if "class" in self.config:
            return None
        listed = self.config.get("metric_list")
        if listed is None:
            return _DEFAULT_METRICS[self.config.get("output_type", "generate_until")]
        names = [metric["metric"] for metric in listed]
        return [name.reference.rpartition(".")[2] if isinstance(name, Function) else str(name) for name in names]

    def scores_items(self, metric: str) -> bool:
        """Whether an item has a score by this metric, as far as the file says; without one it cannot be paired."""
        listed = {one["metric"]: one.get("aggregation", one["metric"]) for one in self.config.get("metric_list") or []}
        aggregation = listed.get(metric)
        return not (isinstance(aggregation, str) and aggregation in _OF_ALL_ITEMS)

    @property
    def is_seen_or_heard(self) -> bool:
        """Whether its questions are pictures or sounds."""
        return bool(self.config.get("doc_to_image") or self.config.get("doc_to_audio"))

    @property
    def functions(self) -> list[Function]:
        """Those that stand at the top of its config, as `process_results` does."""
        return [value for value in self.config.values() if isinstance(value, Function)]

    @property
    def filters(self) -> list[str]:
        return [entry["name"] for entry in self.config.get("filter_list") or [{"name": "none"}]]


def leaf_tasks(name: str) -> list[LeafTask]:
    """The task of this name, or the tasks of this group or tag in lm-eval's order.

    Raises:
        RequestError: Neither we nor lm-eval have it; near names are told.
    """
    own = own_task_files()
    if name in own:
        return [LeafTask(name, read_task_file(own[name]), own[name].parent)]
    index = standard_tasks()
    if name not in index:
        # The kept index may be older than the files.
        index = rescan()
    if name not in index:
        raise RequestError(f"there is no evaluation task {name!r}", remedy=near(name, [*own, *index]))
    return list(_Expansion(index).leaves(name, {}))


@functools.cache
def own_task_files() -> dict[str, Path]:
    """Embedded tasks: name -> file."""
    return {read_task_file(path)["task"]: path for path in sorted(TASKS_DIR.rglob("*.yaml"))}


def near(name: str, known: list[str]) -> str:
    """What to tell a user who wrote `name` where only `known` are."""
    found = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    if found:
        return f"did you mean {' or '.join(found)}?"
    return f"known are: {', '.join(known)}" if len(known) < 50 else "list the names with `lm-eval ls tasks`"


class _Expansion:
    """Takes groups and tags apart with lm-eval's precedence of settings (lm_eval/tasks/_factory.py)."""

    def __init__(self, index: dict[str, Entry]) -> None:
        self._index = index
        self._root = tasks_root()
        self._files: dict[Path, dict[str, Any]] = {}

    def leaves(self, name: str, overrides: dict[str, Any]) -> Iterator[LeafTask]:
        entry = self._index[name]
        if entry.path is None:
            for task in entry.tasks:
                yield from self.leaves(task, overrides | {"task": task})
            return
        config = read_task_file(self._root / entry.path, self._files)
        if entry.kind == "group":
            yield from self._members(name, config, overrides)
        else:
            yield _leaf(name, config | overrides)

    def _members(self, group: str, config: dict[str, Any], overrides: dict[str, Any]) -> Iterator[LeafTask]:
        settings = {key: value for key, value in config.items() if key not in _GROUP_KEYS} | overrides
        members = config.get("task")
        for member in members if isinstance(members, list) else []:
            if isinstance(member, str):
                yield from self.leaves(member, {key: value for key, value in settings.items() if key != "task"})
            elif "group" in member and member["group"] not in self._index:
                yield from self._members(f"{group}::{member['group']}", member, settings)
            elif "group" in member:
                inner = {key: value for key, value in member.items() if key != "group"}
                yield from self.leaves(member["group"], settings | inner)
            elif member["task"] in self._index:
                yield from self.leaves(member["task"], settings | member)
            else:
                yield _leaf(f"{group}::{member['task']}", settings | member)


def _leaf(name: str, config: dict[str, Any]) -> LeafTask:
    kept = {key: value for key, value in config.items() if key not in _LISTING_KEYS}
    return LeafTask(name, kept | {"task": name}, None)
