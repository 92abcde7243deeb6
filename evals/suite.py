"""A suite: categories of lm-eval tasks, as data. `configs/suites/<name>.yaml` says which; `evals/tasks/` holds ours."""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

import configs
from configs.base import StrictModel
from configs.errors import RequestError
from configs.loading import load_yaml_model
from registry.hashing import digest_of, digest_of_file

SUITES_DIR = Path(configs.__file__).resolve().parent / "suites"
TASKS_DIR = Path(__file__).resolve().parent / "tasks"


class Category(StrictModel):
    """Tasks that test one skill by one metric; their items are pooled."""

    name: str
    description: str
    tasks: list[str] = Field(min_length=1)
    """lm-eval task names below `evals/tasks`."""
    metric: str
    """lm-eval's name of the metric, such as `acc` or `word_perplexity`."""
    filter: str = "none"
    unit: Literal["share", "perplexity"] = "share"
    higher_is_better: bool = True
    chance: float | None = None
    """What guessing scores; null where guessing has no score."""

    @model_validator(mode="after")
    def _perplexity_is_better_when_lower(self) -> Category:
        if self.unit == "perplexity" and (self.higher_is_better or self.chance is not None):
            raise ValueError("a perplexity category needs higher_is_better: false and no chance")
        return self


class Suite(StrictModel):
    """What models are scored on."""

    name: str
    version: str
    """Goes up when an item, a prompt or a metric changes: scores of two versions do not compare."""
    description: str
    categories: list[Category] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_stand_once(self) -> Suite:
        for names in ([category.name for category in self.categories], self.task_names):
            twice = {name for name in names if names.count(name) > 1}
            if twice:
                raise ValueError(f"{', '.join(sorted(twice))} stands twice")
        return self

    @property
    def task_names(self) -> list[str]:
        return [task for category in self.categories for task in category.tasks]

    @functools.cached_property
    def digest(self) -> str:
        """Of the definition, the task files and their data together."""
        files = {
            task: [digest_of_file(task_file(task)), *map(digest_of_file, data_files(task))] for task in self.task_names
        }
        return digest_of({"suite": self.model_dump(mode="json"), "files": files})

    def item_texts(self) -> list[str]:
        """The longest text of every item: what calibration rows must not hold."""
        return [
            max((value for value in row.values() if isinstance(value, str)), key=len)
            for task in self.task_names
            for row in rows_of(task)
        ]


def load_suite(name_or_path: str) -> Suite:
    """Read a shipped suite by name, or any suite file by path.

    Raises:
        RequestError: There is no such suite, or it names a task that is not there; near names are told.
    """
    path = Path(name_or_path) if name_or_path.endswith((".yaml", ".yml")) else SUITES_DIR / f"{name_or_path}.yaml"
    if not path.exists():
        shipped = sorted(file.stem for file in SUITES_DIR.glob("*.yaml"))
        raise RequestError(f"there is no suite {name_or_path!r}", remedy=_near(name_or_path, shipped))
    suite = load_yaml_model(path, Suite)
    for task in suite.task_names:
        if not next(iter(rows_of(task)), None):
            raise RequestError(f"task {task} of {path} has no items", remedy=f"fill {data_files(task)[0]}")
    return suite


def task_file(task: str) -> Path:
    """The YAML file that defines `task`.

    Raises:
        RequestError: No file below `evals/tasks` does; near names are told.
    """
    known = _task_files()
    if task not in known:
        raise RequestError(f"there is no evaluation task {task!r}", remedy=_near(task, sorted(known)))
    return known[task]


def task_config(task: str) -> dict[str, Any]:
    """The task as lm-eval takes it inline, its data files named absolutely: the working directory is no matter."""
    path = task_file(task)
    config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    files = config["dataset_kwargs"]["data_files"]
    config["dataset_kwargs"]["data_files"] = {split: str(path.parent / name) for split, name in files.items()}
    return config


def data_files(task: str) -> list[Path]:
    """The task's JSON-lines files."""
    return [Path(name) for name in task_config(task)["dataset_kwargs"]["data_files"].values()]


def rows_of(task: str) -> Iterator[dict[str, Any]]:
    """The task's items as they stand in its files."""
    for path in data_files(task):
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)


@functools.cache
def _task_files() -> dict[str, Path]:
    # Task files are small; `task:` is their first line by convention, but reading the whole is as quick.
    return {
        yaml.safe_load(path.read_text(encoding="utf-8"))["task"]: path for path in sorted(TASKS_DIR.rglob("*.yaml"))
    }


def _near(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"did you mean {' or '.join(near)}?" if near else f"known are: {', '.join(known)}"
