"""A suite made ready to run: each leaf task with its whole config, data files, sampled items and digest."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import configs
from configs.errors import RequestError
from configs.loading import load_yaml_model
from evals.suites.generation import check_generation
from evals.suites.leaf_tasks import LeafTask, leaf_tasks, near
from evals.suites.local_data import DataConfig, DataMap, load_map, local_dataset, local_files, rows_of, with_local_files
from evals.suites.scorers import check_scorer, steady_scorers
from evals.suites.suite import Category, Suite
from evals.suites.task_files import Function
from registry.hashing import digest_of, digest_of_file

SUITES_DIR = Path(configs.__file__).resolve().parent / "suites"


@dataclass(frozen=True)
class ResolvedTask:
    """One leaf task of a category."""

    name: str
    category: str
    config: dict[str, Any]
    """As in lm-eval's task file, includes merged, data overridden; `!function` values are not imported yet."""
    files: dict[str, Path]
    """Split -> local file of JSON lines; empty where lm-eval gets the data from a hub or makes it."""
    digest: str
    """Of config, bytes of the data, number of examples, chat template or not, limit and seed; no path is in it."""
    chat_template: bool
    """Its prompts go through the model's chat template."""
    limit: int | None
    seed: int
    drawn_as: str
    """What the sample is drawn by besides the seed: tasks of a parallel category have one name, so one sample."""

    def lm_eval_config(self) -> dict[str, Any]:
        """The config for `TaskManager(include_defaults=False).load([...])`; imports the task's functions (seconds).

        Raises:
            RequestError: A library that they need is not installed.
        """
        config: dict[str, Any] = _mapped(self.config, Function.load)
        steady_scorers()
        return config | {"custom_dataset": local_dataset} if self.files else config

    @property
    def documents(self) -> int | None:
        """How many there are; None where the rows are not local."""
        return sum(1 for _ in rows_of(_scored_file(self), self.name)) if self.files else None

    @property
    def items(self) -> int | None:
        """How many of its documents are scored; None where neither a limit nor local rows tell."""
        return min((count for count in (self.limit, self.documents) if count is not None), default=None)

    def kinds(self, field: str | None) -> list[str] | None:
        """What the field of each scored document says, empty without a field; None where the rows are not local."""
        if not self.files:
            return None
        rows = list(rows_of(_scored_file(self), self.name))
        return [str(rows[place].get(field, "")) if field else "" for place in self.sampled_ids(len(rows))]

    def sampled_ids(self, documents: int) -> list[int]:
        """Which of the task's documents are scored, ascending (lm-eval's `samples=` wants them so).

        Args:
            documents: How many the task has: `len(task.eval_docs)`.
        """
        return sampled_ids(self.drawn_as, documents, self.limit, self.seed)


@dataclass(frozen=True)
class ResolvedSuite:
    """All leaf tasks of a suite."""

    suite: Suite
    tasks: tuple[ResolvedTask, ...]
    """In the order of the categories."""

    @functools.cached_property
    def digest(self) -> str:
        """Of the suite's definition and of all its tasks."""
        return digest_of({"suite": self.suite.model_dump(mode="json"), "tasks": [task.digest for task in self.tasks]})

    def of(self, category: str) -> list[ResolvedTask]:
        """The leaf tasks of a category."""
        return [task for task in self.tasks if task.category == category]

    def items_of(self, category: str) -> int | None:
        """How many items the category has; None where lm-eval's tasks bring the rows and no limit is given."""
        counts = [task.items for task in self.of(category)]
        return None if None in counts else sum(count or 0 for count in counts)

    def parts_of(self, category: Category) -> list[tuple[str, str]] | None:
        """(task, kind) of each item of the category; None where its rows are not local."""
        kinds = [(task.name, task.kinds(category.kind)) for task in self.of(category.name)]
        if any(found is None for _, found in kinds):
            return None
        return [(name, kind) for name, found in kinds for kind in found or ()]

    def item_texts(self) -> list[str]:
        """The longest text of every item in local files, sampled or not: what calibration rows must not hold."""
        return [
            text
            for path in dict.fromkeys(_scored_file(task) for task in self.tasks if task.files)
            for row in rows_of(path, str(path))
            if (text := _longest_text(row))
        ]


def sampled_ids(task: str, documents: int, limit: int | None, seed: int) -> list[int]:
    """A random subset of `range(documents)`, ascending; the same on every machine.

    Documents are ranked by a hash of seed, task and number, and the first `limit` are taken: a larger limit adds
    documents and keeps those of the smaller one.
    """
    if limit is None or limit >= documents:
        return list(range(documents))

    def rank(document: int) -> bytes:
        return hashlib.sha256(f"{seed}:{task}:{document}".encode()).digest()

    return sorted(sorted(range(documents), key=rank)[:limit])


def load_suite(name_or_path: str) -> Suite:
    """Read a shipped suite by name, or any suite file by path.

    Raises:
        RequestError: There is no such suite, or it names a task that is not there (near names are told), or one that
            cannot be run or scored as the suite says.
    """
    path = Path(name_or_path) if name_or_path.endswith((".yaml", ".yml")) else SUITES_DIR / f"{name_or_path}.yaml"
    if not path.exists():
        shipped = sorted(file.stem for file in SUITES_DIR.glob("*.yaml"))
        raise RequestError(f"there is no suite {name_or_path!r}", remedy=near(name_or_path, shipped))
    suite = load_yaml_model(path, Suite)
    # Without the data: names, metrics and filters are known from the task files.
    resolve(suite)
    return suite


def resolve(suite: Suite, data: DataConfig | None = None) -> ResolvedSuite:
    """Every category's leaf tasks, checked, with their data.

    Args:
        suite: What is wanted.
        data: Where lm-eval's tasks find their rows on this machine; without it they ask a hub (or its local cache).
            Embedded tasks bring their rows along.

    Raises:
        RequestError: A task is not there, scores by other metrics, runs code, or its rows are not there or not right.
    """
    data_map = load_map(data.map) if data else None
    tasks: list[ResolvedTask] = []
    for category in suite.categories:
        leaves = checked_leaves(category)
        items = suite.items_of(category)
        limit = category.limit if items is None else math.ceil(items / len(leaves))
        tasks += [_resolved(suite, category, leaf, limit, data, data_map) for leaf in leaves]
    owners: dict[str, str] = {}
    for task in tasks:
        if task.name in owners:
            raise RequestError(
                f"task {task.name} stands twice in suite {suite.name}, in {owners[task.name]} and {task.category}",
                remedy="take it, or a group that holds it, out of one of them",
            )
        owners[task.name] = task.category
    return ResolvedSuite(suite, tuple(tasks))


def checked_leaves(category: Category) -> list[LeafTask]:
    """The category's leaf tasks.

    Raises:
        RequestError: One is not there, runs code that the model wrote, shows pictures, wants texts written in a way
            that no server here knows, gives neither the metric nor the filter, or no score of an item by this metric.
    """
    leaves = [leaf for name in category.tasks for leaf in leaf_tasks(name)]
    for leaf in leaves:
        if leaf.config.get("unsafe_code"):
            raise RequestError(
                f"task {leaf.name} of category {category.name} runs code that the model wrote",
                remedy="take it out of the suite: there is no sandbox here to run such code in",
            )
        if leaf.is_seen_or_heard:
            raise RequestError(
                f"task {leaf.name} of category {category.name} asks about pictures or sounds",
                remedy="take it out of the suite: models are asked in words here",
            )
        if leaf.is_generative:
            check_generation(leaf.name, leaf.config.get("generation_kwargs"))
        _check_given(category, leaf, "metric", category.metric, leaf.metrics)
        _check_given(category, leaf, "filter", category.filter, leaf.filters)
        if not leaf.scores_items(category.metric):
            raise RequestError(
                f"task {leaf.name} of category {category.name}: {category.metric} is a score of all its answers"
                " together, and models are compared item by item",
                remedy="name a metric that is a mean over items, or take the task out of the suite",
            )
    return leaves


def _check_given(category: Category, leaf: LeafTask, what: str, wanted: str, given: list[str] | None) -> None:
    if given is not None and wanted not in given:
        raise RequestError(
            f"task {leaf.name} of category {category.name} gives no {what} {wanted}; it gives {', '.join(given)}",
            remedy=f"name one of them as the category's {what}, or move the task to a category of its own",
        )


def _resolved(
    suite: Suite,
    category: Category,
    leaf: LeafTask,
    limit: int | None,
    data: DataConfig | None,
    data_map: DataMap | None,
) -> ResolvedTask:
    config = dict(leaf.config)
    # A task that names 0 examples brings its own in its prompt, or cannot have any: lm-eval keeps that too.
    if category.num_fewshot is not None and config.get("num_fewshot") != 0:
        config["num_fewshot"] = category.num_fewshot
    files: dict[str, Path] = {}
    if leaf.own_folder:
        named = config["dataset_kwargs"]["data_files"]
        files = {split: leaf.own_folder / name for split, name in named.items()}
        for path in files.values():
            next(rows_of(path, f"task {leaf.name}"))
    elif data and data_map:
        files = local_files(leaf, config, data, data_map)
        check_scorer(leaf, data.root)
    drawn_as = category.name if category.parallel else leaf.name
    facts = {
        "config": _mapped(config, Function.digest_parts),
        "files": {split: digest_of_file(path) for split, path in files.items()},
        "lm_eval": importlib.metadata.version("lm-eval"),
        "chat_template": category.chat_template,
        "limit": limit,
        "seed": suite.seed,
        "drawn_as": drawn_as,
    }
    if files:
        config = with_local_files(config, files)
    return ResolvedTask(
        name=leaf.name,
        category=category.name,
        config=config,
        files=files,
        digest=digest_of(facts),
        chat_template=category.chat_template,
        limit=limit,
        seed=suite.seed,
        drawn_as=drawn_as,
    )


def _scored_file(task: ResolvedTask) -> Path:
    return task.files[task.config.get("test_split") or task.config["validation_split"]]


def _longest_text(row: dict[str, Any]) -> str:
    """Of the row's sentences; a name such as a subject's, of one word, is in many texts."""
    texts = [value for value in row.values() if isinstance(value, str)]
    return max([text for text in texts if " " in text.strip()] or texts, key=len, default="")


def _mapped(value: Any, convert: Callable[[Function], Any]) -> Any:
    """A copy of `value` with its functions converted."""
    if isinstance(value, Function):
        return convert(value)
    if isinstance(value, dict):
        return {key: _mapped(inner, convert) for key, inner in value.items()}
    if isinstance(value, list):
        return [_mapped(inner, convert) for inner in value]
    return value
