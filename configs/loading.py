"""YAML to typed config: includes, `--set` overrides, duplicate keys refused, every error at its file and line."""

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from configs.errors import ConfigError, UnreadableError
from configs.reading.text import MalformedError, read_text
from configs.reading.yaml_text import YAML_BYTES, compose, mapping_pairs, scalar

Model = TypeVar("Model", bound=BaseModel)
KeyPath = tuple[str | int, ...]
Lines = dict[KeyPath, tuple[Path, int]]

_MOST_FILES = 50
"""Read for one config: two includes a file, a few files deep, are a million."""
_LONGEST_VALUE = 200
"""Characters of a wrong value that are shown."""


def load_yaml_model(path: Path, model_type: type[Model], overrides: Sequence[str] = ()) -> Model:
    """Read `path`, apply `overrides`, validate.

    Args:
        path: A YAML file whose top level is a mapping. A top-level `include: other.yaml` (or a list of files, relative
            to this one) is read first; mappings merge key by key, everything else is replaced.
        model_type: What the file must describe.
        overrides: `dotted.key=value` texts; the value is read as YAML, a number in the key is a list's index.

    Raises:
        ConfigError: With file, line, the offending text and the remedy.
    """
    data, lines = _Reading().read(path)
    return _validated(model_type, data, lines, overrides, path)


def model_of_overrides(model_type: type[Model], overrides: Sequence[str]) -> Model:
    """The model's defaults with `overrides`, where no file is needed; see `load_yaml_model`."""
    return _validated(model_type, {}, {}, overrides, None)


def _validated(
    model_type: type[Model], data: dict[str, Any], lines: Lines, overrides: Sequence[str], path: Path | None
) -> Model:
    places = {_apply_override(data, override): override for override in overrides}
    try:
        return model_type.model_validate(data)
    except ValidationError as error:
        raise _explained(error, path, data, lines, places, model_type) from None


class _Reading:
    """One config with all that it includes."""

    def __init__(self) -> None:
        self._files = 0

    def read(self, path: Path, including: tuple[Path, ...] = ()) -> tuple[dict[str, Any], Lines]:
        """The mapping in a file, what it includes merged below it, and where each value stands."""
        if any(_same(path, other) for other in including):
            raise ConfigError(f"{path.name} includes itself", remedy="take the include out", file=including[-1])
        self._files += 1
        if self._files > _MOST_FILES:
            raise ConfigError(f"more than {_MOST_FILES} files are included", remedy="include fewer", file=including[0])
        text = _text_of(path, including)
        try:
            root = compose(text)
            lines: Lines = {}
            data = _construct(root, (), path, lines) if root is not None else None
        except MalformedError as error:
            raise _config_error(error, path, text) from None
        if not isinstance(data, dict):
            raise ConfigError("the top level must be a mapping", remedy="write `key: value` lines", file=path)
        merged: dict[str, Any] = {}
        merged_lines: Lines = {}
        for name in _includes(data.pop("include", []), path, lines):
            other, other_lines = self.read(Path(os.path.abspath(path.parent / name)), (*including, path))  # noqa: PTH100
            merged = _merge(merged, other)
            merged_lines |= other_lines
        return _merge(merged, data), merged_lines | lines


def _text_of(path: Path, including: tuple[Path, ...]) -> str:
    try:
        return read_text(path, YAML_BYTES)
    except UnreadableError as error:
        if error.line is not None:
            raise ConfigError(error.fact, remedy=error.remedy, file=path, line=error.line) from None
        missing = isinstance(error.__cause__, OSError)
        raise ConfigError(
            f"cannot read {path}: {error.fact.removeprefix('cannot be read: ')}",
            remedy="name an existing YAML file" if missing else error.remedy,
            file=including[-1] if including else None,
        ) from None


def _includes(named: Any, path: Path, lines: Lines) -> list[str]:
    names = [named] if isinstance(named, str) else named
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        file, line = lines[("include",)]
        raise ConfigError("`include` names no file", remedy="write a file's name or a list", file=file, line=line)
    return names


def _same(path: Path, other: Path) -> bool:
    return os.path.realpath(path) == os.path.realpath(other)


def _construct(node: yaml.Node, place: KeyPath, path: Path, lines: Lines) -> Any:
    lines[place] = (path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key, line, value_node in mapping_pairs(node):
            if key in mapping:
                raise MalformedError(f"`{key}` stands twice", line=line, remedy="keep one of them")
            mapping[key] = _construct(value_node, (*place, key), path, lines)
            lines[*place, key] = (path, line)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_construct(item, (*place, index), path, lines) for index, item in enumerate(node.value)]
    assert isinstance(node, yaml.ScalarNode)  # noqa: S101 - there are three kinds
    return scalar(node)


def _config_error(error: MalformedError, path: Path, text: str) -> ConfigError:
    snippet = None if error.line is None else _line(text, error.line)
    return ConfigError(error.fact, remedy=error.remedy, file=path, line=error.line, snippet=snippet)


def _merge(base: Any, over: Any) -> Any:
    if isinstance(base, dict) and isinstance(over, dict):
        return base | {key: _merge(base[key], value) if key in base else value for key, value in over.items()}
    return over


def _apply_override(data: dict[str, Any], override: str) -> KeyPath:
    """Change one value of `data`; the place that was changed."""
    remedy = "write --set dotted.key=value, such as --set calibration.samples=32"
    key, separator, value = override.partition("=")
    if not separator:
        raise ConfigError(f"--set {_cut(override)}: no `=`", remedy=remedy)
    target: Any = data
    try:
        *parents, last = [int(part) if part.isdecimal() else part for part in key.split(".")]
        for part in parents:
            target = target.setdefault(part, {}) if isinstance(target, dict) else target[part]
        target[last] = _value_of(value)
    except MalformedError as error:
        raise ConfigError(f"--set {_cut(override)}: {error.fact}", remedy=error.remedy) from None
    except (LookupError, TypeError, ValueError) as error:
        raise ConfigError(f"--set {_cut(override)}: {error}", remedy=remedy) from None
    return (*parents, last)


def _value_of(text: str) -> Any:
    root = compose(text)
    return None if root is None else _construct(root, (), Path(), {})


def _explained(
    error: ValidationError,
    path: Path | None,
    data: dict[str, Any],
    lines: Lines,
    overrides: Mapping[KeyPath, str],
    model_type: type[BaseModel],
) -> ConfigError:
    """The first validation error as a ConfigError; pydantic's order is the order of the fields."""
    first = error.errors(include_url=False)[0]
    place = tuple(first["loc"])
    shown = _place_in(data, place)
    dotted = ".".join(str(part) for part in shown)
    if first["type"] == "extra_forbidden":
        allowed = _sibling_fields(model_type, place)
        near = difflib.get_close_matches(str(place[-1]), allowed, n=1)
        what = f"unknown key `{dotted}`"
        remedy = f"did you mean `{near[0]}`?" if near else f"take it out; known keys here: {', '.join(allowed)}"
    elif first["type"] == "missing":
        what, remedy = f"`{dotted}` is missing", f"add `{place[-1]}:` here"
    else:
        message = first["msg"].removeprefix("Value error, ")
        what = f"`{dotted}`: {message[0].lower()}{message[1:]}"
        remedy = f"the value is {_cut(repr(first['input']))}; mend it"
    override = next((text for changed, text in overrides.items() if shown[: len(changed)] == changed), None)
    if override is not None:
        return ConfigError(f"--set {_cut(override)}: {what}", remedy=remedy)
    known = next((known for size in range(len(shown), -1, -1) if (known := shown[:size]) in lines), None)
    file, line = lines[known] if known else (path, None)
    return ConfigError(what, remedy=remedy, file=file, line=line, snippet=_snippet(file, line))


def _place_in(data: Any, place: KeyPath) -> KeyPath:
    """`place` without the tags that discriminated unions put into it, though the text has no such key."""
    shown: KeyPath = ()
    for part in place:
        try:
            data = data[part]
        except (LookupError, TypeError):
            continue
        shown = (*shown, part)
    # What is missing, or unknown to its model, is the last.
    return shown if not place or shown[-1:] == place[-1:] else (*shown, place[-1])


def _sibling_fields(model_type: type[BaseModel], place: KeyPath) -> list[str]:
    """Names that could stand where the last part of `place` stands."""
    models: list[type[BaseModel]] = [model_type]
    for part in place[:-1]:
        fields = [model.model_fields[part].annotation for model in models if part in model.model_fields]
        inner = [found for annotation in fields for found in _models_in(annotation)]
        # The tag of a union, which names the one of its models that was chosen.
        tagged = [
            model for model in models if any(get_args(f.annotation) == (part,) for f in model.model_fields.values())
        ]
        models = inner or tagged or models
    return sorted({name for model in models for name in model.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType, list, tuple, dict) or hasattr(annotation, "__metadata__"):
        return [model for argument in get_args(annotation) for model in _models_in(argument)]
    return []


def _snippet(file: Path | None, line: int | None) -> str | None:
    return None if file is None or line is None else _line(read_text(file, YAML_BYTES), line)


def _line(text: str, line: int) -> str | None:
    lines = text.split("\n")
    # The parser may complain about the end of the file, a line after the last.
    return _cut(lines[line - 1].rstrip()) if line <= len(lines) else None


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + "..."
