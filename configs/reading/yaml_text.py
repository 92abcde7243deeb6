"""YAML that others wrote: bounded in depth, in size after its aliases are expanded, and in what its scalars may be."""

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from configs.reading.text import MalformedError

YAML_BYTES = 1 << 20
"""Recipes take a few KB, lm-eval's largest task file a hundred."""
MOST_LEVELS = 50
MOST_VALUES = 100_000
"""Keys and values, those behind an alias counted wherever it stands."""

_TAG = "tag:yaml.org,2002:"
_PLAIN_INT = re.compile(r"[-+]?(0|[1-9][0-9_]{0,39})")
_QUOTED = 'write it in quotes, such as "{}"'
_TOO_DEEP = f"values stand more than {MOST_LEVELS} levels deep", "write it flatter"
_SHOWN = 40


def compose(text: str, loader_type: Any = yaml.SafeLoader) -> yaml.Node | None:
    """The node tree of a YAML text of one document; None where it holds nothing.

    Args:
        text: As `read_text` gives it.
        loader_type: PyYAML's or a subclass.

    Raises:
        MalformedError: It is not YAML, holds more than one document, more than MOST_VALUES values or more than
            MOST_LEVELS levels of them, or an alias for what it stands in.
    """
    try:
        loader = loader_type(text)
        try:
            root: yaml.Node | None = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise _not_yaml(error) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise MalformedError("not YAML: it holds a control character", line=line, remedy="take it out") from None
    except RecursionError:
        raise MalformedError(_TOO_DEEP[0], remedy=_TOO_DEEP[1]) from None
    if root is not None:
        _measure(root, {}, 1)
    return root


def mapping_pairs(node: yaml.MappingNode) -> Iterator[tuple[str, int, yaml.Node]]:
    """Key, its line and the node of its value, in the order of the text; a key that stands twice comes twice.

    Raises:
        MalformedError: A key is no plain word, or a merge key.
    """
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.tag == f"{_TAG}merge":
            raise MalformedError("merge keys (`<<`) are not read here", line=line, remedy="write the keys out")
        if not isinstance(key, yaml.ScalarNode) or "\0" in key.value:
            raise MalformedError("a key is no plain word", line=line, remedy="write `key: value`")
        yield key.value, line, value


def scalar(node: yaml.ScalarNode) -> Any:
    """The text, number, truth value or null of a scalar.

    Raises:
        MalformedError: It is a date, a number that is not finite or not written as people write numbers (YAML reads
            010 as 8 and 1:30 as 90), holds a NUL, or has a tag of its own.
    """
    text, kind, line = node.value, node.tag.removeprefix(_TAG), node.start_mark.line + 1
    quoted = _QUOTED.format(_cut(text))
    if "\0" in text:
        raise MalformedError("a string holds a NUL", line=line, remedy="take it out")
    if kind == "int" and not _PLAIN_INT.fullmatch(text):
        if len(text) > _SHOWN:
            raise MalformedError(f"the number {_cut(text)} has {len(text)} digits", line=line)
        read = _value(node)
        raise MalformedError(
            f"{text} would be read as the number {read}",
            line=line,
            remedy=f"write the number as such; {quoted} if it is none",
        )
    if kind == "float" and ":" in text:
        raise MalformedError(f"{text} would be read as the number {_value(node)}", line=line, remedy=quoted)
    if kind == "timestamp":
        raise MalformedError(f"{text} would be read as a date", line=line, remedy=quoted)
    if kind not in ("null", "bool", "int", "float", "str"):
        raise MalformedError(f"the tag {_cut(node.tag)} is not read here", line=line, remedy="write the plain value")
    value = _value(node)
    if isinstance(value, float) and not math.isfinite(value):
        raise MalformedError(f"{_cut(text)} is not finite", line=line, remedy="write a number")
    return value


def _value(node: yaml.ScalarNode) -> Any:
    constructor: Any = yaml.constructor.SafeConstructor()
    try:
        return constructor.construct_object(node)
    except yaml.MarkedYAMLError as error:
        raise _not_yaml(error) from None
    except (ValueError, OverflowError) as error:
        raise MalformedError(f"not a value: {error}", line=node.start_mark.line + 1) from None


class _Extent(NamedTuple):
    values: int
    """In and below a node, those behind aliases counted wherever they stand."""
    levels: int


def _measure(node: yaml.Node, known: dict[int, _Extent | None], level: int) -> _Extent:
    """The extent of `node`; each node is looked at once.

    Args:
        known: Of the nodes that were met; None while one is being measured.
    """
    if id(node) in known:
        extent = known[id(node)]
        if extent is None:
            raise _at(node, "an alias stands within what it stands for", "write out what is meant")
        return extent
    known[id(node)] = None
    if isinstance(node, yaml.CollectionNode) and node.tag not in (f"{_TAG}map", f"{_TAG}seq"):
        raise _at(node, f"the tag {_cut(node.tag)} is not read here", "write a plain list or mapping")
    parts = []
    if isinstance(node, yaml.MappingNode):
        parts = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        parts = node.value
    inner = [_measure(part, known, level + 1) for part in parts] if level <= MOST_LEVELS else []
    extent = _Extent(1 + sum(one.values for one in inner), 1 + max((one.levels for one in inner), default=0))
    if level + extent.levels > MOST_LEVELS + 1:
        raise _at(node, *_TOO_DEEP)
    if extent.values > MOST_VALUES:
        raise _at(node, f"it holds more than {MOST_VALUES} values once its aliases are expanded", "write less")
    known[id(node)] = extent
    return extent


def _at(node: yaml.Node, fact: str, remedy: str) -> MalformedError:
    return MalformedError(fact, line=node.start_mark.line + 1, remedy=remedy)


def _not_yaml(error: yaml.MarkedYAMLError) -> MalformedError:
    return MalformedError(
        f"not YAML: {error.problem}", line=error.problem_mark.line + 1 if error.problem_mark else None
    )


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
