"""Benchmark rows from local JSON lines in the place of a hub's data sets; prompts and scoring stay the task's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

import configs
from configs.base import StrictModel
from configs.errors import RequestError, UnreadableError
from configs.loading import load_yaml_model
from configs.quantities import Label, LocalPath
from configs.reading.json_text import read_json_lines
from evals.suites.leaf_tasks import LeafTask, near

MAPS_DIR = Path(configs.__file__).resolve().parent / "data"
_SPLIT_KEYS = ("training_split", "validation_split", "test_split", "fewshot_split")


class DataConfig(StrictModel):
    """Where benchmark rows lie on this machine."""

    root: LocalPath
    """Folder that the map's file names start from; its `nltk_data` is searched too (IFEval's scorer needs some)."""
    map: str = "local_jsonl"
    """A map of `configs/data`, or the path of a map file."""

    @field_validator("root")
    @classmethod
    def _absolute_root(cls, root: Path) -> Path:
        # The folder is read by other processes, which may start elsewhere.
        return root.expanduser().absolute()

    @field_validator("map")
    @classmethod
    def _absolute_map(cls, name_or_path: str) -> str:
        return str(Path(name_or_path).expanduser().absolute()) if _is_file(name_or_path) else name_or_path


class MappedDataset(StrictModel):
    """The local files of one data set of the hub."""

    dataset: Label
    """The `dataset_path` of lm-eval's tasks, or their file's address where they read one; may hold `*`."""
    name: str = "*"
    """Their `dataset_name`; may hold `*`. A task without one has the empty name."""
    splits: dict[Label, Label] = Field(min_length=1)
    """Split -> file of JSON lines below the root; `{name}` stands for the task's `dataset_name`."""
    columns: list[Label] = Field(min_length=1)
    """What each row must have, null or not."""


class DataMap(StrictModel):
    """Which local files stand for which data sets."""

    description: str
    datasets: list[MappedDataset] = Field(min_length=1)


def load_map(name_or_path: str) -> DataMap:
    """Read a shipped map by name, or any map file by path.

    Raises:
        RequestError: There is no such map, or it is wrong.
    """
    path = Path(name_or_path) if _is_file(name_or_path) else MAPS_DIR / f"{name_or_path}.yaml"
    if not path.exists():
        shipped = sorted(file.stem for file in MAPS_DIR.glob("*.yaml"))
        raise RequestError(f"there is no data map {name_or_path!r}", remedy=near(name_or_path, shipped))
    return load_yaml_model(path, DataMap)


def local_files(leaf: LeafTask, config: Mapping[str, Any], data: DataConfig, data_map: DataMap) -> dict[str, Path]:
    """The local file of each split that the task reads.

    Args:
        leaf: The task, for messages.
        config: Its config with the number of examples that is wanted.
        data: Where rows lie.
        data_map: `data.map`, read.

    Raises:
        RequestError: The map has no files for the task, a file is not there, or its rows lack what the map promises.
    """
    dataset, name = _address(config)
    called = f"{dataset} ({name})" if name else dataset
    entry = next((one for one in data_map.datasets if _matches(one, dataset, name)), None)
    if entry is None:
        raise RequestError(
            f"task {leaf.name} reads {called or 'what its own code makes'}; the data map {data.map} has nothing for it",
            remedy="add the data set to the map, or take the task out of the suite",
        )
    files = {}
    for split in needed_splits(config):
        if split not in entry.splits:
            raise RequestError(
                f"task {leaf.name} needs split {split} of {called}, for which the data map {data.map} has no file",
                remedy="add the split to the map; examples in the prompt may need their own, num_fewshot: 0 none",
            )
        files[split] = data.root / entry.splits[split].replace("{name}", name)
        if not files[split].is_file():
            raise RequestError(
                f"task {leaf.name}, split {split} of {called}: there is no file {files[split]}",
                remedy=f"put the rows there, one JSON object a line with {', '.join(entry.columns)}; or mend data.root "
                f"or the map {data.map}",
            )
        for _ in rows_of(files[split], f"task {leaf.name}", entry.columns):
            pass
    return files


def needed_splits(config: Mapping[str, Any]) -> list[str]:
    """The split whose items are scored and, where examples stand in the prompt, the one they come from.

    The order of preference is that of lm_eval/api/task.py: `eval_docs` and `fewshot_docs`.
    """
    scored = config.get("test_split") or config.get("validation_split")
    splits = [scored] if scored else []
    if config.get("num_fewshot"):
        examples = config.get("fewshot_config") or {}
        source = examples.get("split", config.get("fewshot_split"))
        if source is None and "samples" not in examples:
            source = config.get("training_split") or config.get("validation_split") or config.get("test_split")
        if source and source not in splits:
            splits.append(source)
    return splits


def with_local_files(config: Mapping[str, Any], files: Mapping[str, Path]) -> dict[str, Any]:
    """The config with its data set overridden and nothing else; splits without a file are not read."""
    kept = {key: config.get(key) if config.get(key) in files else None for key in _SPLIT_KEYS}
    examples = dict(config.get("fewshot_config") or {})
    if examples.get("split") not in files:
        examples.pop("split", None)
    return {
        **config,
        **{key: value for key, value in kept.items() if key in config},
        **({"fewshot_config": examples} if examples else {}),
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str(path) for split, path in files.items()}},
    }


def rows_of(path: Path, of: str, columns: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """The rows of a JSON-lines file.

    Args:
        path: UTF-8, one JSON object a line; empty lines are passed over.
        of: What reads it, for messages.
        columns: What each row must have.

    Raises:
        RequestError: A line is no JSON object or lacks a column, or there is none.
    """
    found = False
    for number, row in _numbered(path, of):
        if not isinstance(row, dict):
            raise RequestError(f"{of}: {path}:{number} is no JSON object", remedy="write one object a line")
        missing = [column for column in columns if column not in row]
        if missing:
            raise RequestError(
                f"{of}: {path}:{number} has no column {', '.join(missing)}; it has {', '.join(row)}",
                remedy="rename the columns in the file to those of the hub's data set",
            )
        found = True
        yield row
    if not found:
        raise RequestError(f"{of} has no items: {path} is empty", remedy="put the rows there, one JSON object a line")


def _numbered(path: Path, of: str) -> Iterator[tuple[int, Any]]:
    try:
        yield from read_json_lines(path)
    except UnreadableError as error:
        raise RequestError(f"{of}: {error.what}", remedy=error.remedy) from None


def local_dataset(data_files: Mapping[str, str], **_: Any) -> Any:
    """What lm-eval calls for a task's data: the rows in memory, a `datasets.Dataset` for each split.

    The hub library's own JSON loader would write a copy of every file into the user's cache, read what looks like a
    date as one, and cast all splits to the first one's columns, which a column of nulls breaks.

    Args:
        data_files: Split -> file of JSON lines.
        _: The task's metadata, which lm-eval passes along.
    """
    from datasets import Dataset, DatasetDict

    splits = {}
    for split, name in data_files.items():
        rows = list(rows_of(Path(name), f"split {split}"))
        # `from_list` takes the columns of the first row alone.
        columns = dict.fromkeys(column for row in rows for column in row)
        # As that loader does: objects that differ in their keys stay as they are, not filled up with nulls.
        splits[split] = Dataset.from_dict(
            {column: [row.get(column) for row in rows] for column in columns}, on_mixed_types="use_json"
        )
    return DatasetDict(splits)


def _is_file(name_or_path: str) -> bool:
    return name_or_path.endswith((".yaml", ".yml"))


def _address(config: Mapping[str, Any]) -> tuple[str, str]:
    """The data set that a standard task reads: its name at the hub, or its file where it names one."""
    path, name = str(config.get("dataset_path") or ""), str(config.get("dataset_name") or "")
    files = (config.get("dataset_kwargs") or {}).get("data_files")
    if isinstance(files, dict) and len(files) == 1:
        return str(next(iter(files.values()))), name
    return path, name


def _matches(entry: MappedDataset, dataset: str, name: str) -> bool:
    return bool(dataset) and fnmatchcase(dataset, entry.dataset) and fnmatchcase(name, entry.name)
