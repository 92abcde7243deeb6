"""YAML to typed config: includes, `--set` overrides, duplicate keys refused, every error at its file and line."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from configs.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)
KeyPath = tuple[str | int, ...]
Lines = dict[KeyPath, tuple[Path, int]]


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
    data, lines = _read(path, including=())
    for override in overrides:
        _apply_override(data, lines, override)
    try:
        return model_type.model_validate(data)
    except ValidationError as error:
        raise _explained(error, path, lines, model_type) from None


def _read(path: Path, including: tuple[Path, ...]) -> tuple[dict[str, Any], Lines]:
    if path in including:
        raise ConfigError(f"{path.name} includes itself", remedy="take the include out", file=path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(
            f"cannot read {path}: {reason}",
            remedy="name an existing YAML file",
            file=including[-1] if including else None,
        ) from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: Lines = {}
        data = _construct(root, (), path, lines) if root is not None else None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise ConfigError(
            f"not YAML: {error.problem}",
            remedy="mend the text at this place",
            file=path,
            line=line,
            snippet=_snippet(path, line),
        ) from None
    if not isinstance(data, dict):
        raise ConfigError("the top level must be a mapping", remedy="write `key: value` lines", file=path)
    includes = data.pop("include", [])
    merged: dict[str, Any] = {}
    merged_lines: Lines = {}
    for name in [includes] if isinstance(includes, str) else includes:
        other, other_lines = _read((path.parent / name).resolve(), (*including, path))
        merged = _merge(merged, other)
        merged_lines |= other_lines
    return _merge(merged, data), merged_lines | lines


def _construct(node: yaml.Node, place: KeyPath, path: Path, lines: Lines) -> Any:
    lines[place] = (path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key in mapping:
                line = key_node.start_mark.line + 1
                raise ConfigError(
                    f"`{key}` stands twice",
                    remedy="keep one of them",
                    file=path,
                    line=line,
                    snippet=_snippet(path, line),
                )
            mapping[key] = _construct(value_node, (*place, key), path, lines)
            lines[*place, key] = (path, key_node.start_mark.line + 1)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_construct(item, (*place, index), path, lines) for index, item in enumerate(node.value)]
    return yaml.safe_load(yaml.serialize(node))


def _merge(base: Any, over: Any) -> Any:
    if isinstance(base, dict) and isinstance(over, dict):
        return base | {key: _merge(base[key], value) if key in base else value for key, value in over.items()}
    return over


def _apply_override(data: dict[str, Any], lines: Lines, override: str) -> None:
    remedy = "write --set dotted.key=value, such as --set calibration.samples=32"
    key, separator, value = override.partition("=")
    if not separator:
        raise ConfigError(f"--set {override}: no `=`", remedy=remedy)
    *parents, last = [int(part) if part.isdigit() else part for part in key.split(".")]
    target: Any = data
    try:
        for part in parents:
            target = target.setdefault(part, {}) if isinstance(target, dict) else target[part]
        target[last] = yaml.safe_load(value)
    except (KeyError, IndexError, TypeError, yaml.YAMLError) as error:
        raise ConfigError(f"--set {override}: {error}", remedy=remedy) from None
    place = (*parents, last)
    for known in [known for known in lines if known[: len(place)] == place]:
        del lines[known]


def _explained(error: ValidationError, path: Path, lines: Lines, model_type: type[BaseModel]) -> ConfigError:
    """The first validation error as a ConfigError; pydantic's order is the order of the fields."""
    first = error.errors(include_url=False)[0]
    place = tuple(first["loc"])
    known = _longest_known(place, lines)
    file, line = lines[known] if known else (path, None)
    # Discriminated unions put the tag into the location, though the text has no such key: only the last may be new.
    shown = known if not place or known[-1:] == place[-1:] else (*known, place[-1])
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
        what, remedy = f"`{dotted}`: {message[0].lower()}{message[1:]}", f"the value is {first['input']!r}; mend it"
    return ConfigError(what, remedy=remedy, file=file, line=line, snippet=_snippet(file, line))


def _longest_known(place: KeyPath, lines: Lines) -> KeyPath:
    """The deepest place of the text that `place` points at or into, skipping union tags."""
    reached: KeyPath = ()
    for part in place:
        if (*reached, part) in lines:
            reached = (*reached, part)
    return reached


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


def _snippet(file: Path, line: int | None) -> str | None:
    if line is None:
        return None
    texts = file.read_text(encoding="utf-8").splitlines()
    # The parser may complain about the end of the file, a line after the last.
    return texts[line - 1].rstrip() if line <= len(texts) else None
