"""JSON that others wrote: strict (RFC 8259), no key twice, nothing too deep, no number that is none."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from configs.reading.text import MODEL_FILE_BYTES, MalformedError, lines_of, read_text, text_of

MOST_LEVELS = 100
_MOST_DIGITS = 100
"""Of a whole number; `model_max_length` is 10^30 in many tokenizers."""
_SHOWN = 40
_PART = re.compile(r'("(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|-?Infinity|NaN|[{}\[\]])(\s*:)?')
_NO_TEXT = re.compile(r"\\u0000|\\u[dD][89a-fA-F]")
"""Escapes that may make a NUL or half of a surrogate pair."""


def read_json(path: Path, most_bytes: int = MODEL_FILE_BYTES) -> Any:
    """The value in a JSON file.

    Raises:
        UnreadableError: See `read_text` and `parse_json`.
    """
    text = read_text(path, most_bytes)
    try:
        return parse_json(text)
    except MalformedError as error:
        raise error.in_file(path) from None


def read_json_object(path: Path, most_bytes: int = MODEL_FILE_BYTES) -> dict[str, Any]:
    """The object in a JSON file; anything else is an UnreadableError too."""
    value = read_json(path, most_bytes)
    if not isinstance(value, dict):
        raise MalformedError("it holds no JSON object", remedy="fetch or write the file again").in_file(path)
    return value


def read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Line number and value of each line that is not blank, one at a time.

    Raises:
        UnreadableError: See `lines_of` and `parse_json`.
    """
    for number, line in lines_of(path):
        if line.strip():
            try:
                value = parse_json(line)
            except MalformedError as error:
                raise error.in_file(path, number) from None
            yield number, value


def parse_json(text: str | bytes, *, of_model: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        text: All of it.
        of_model: It is what a model said: strings may be no text and numbers may be none, as whoever asked has to see.

    Raises:
        MalformedError: It is not JSON; or an object has a key twice, values stand more than MOST_LEVELS deep, a number
            is not finite or has more than 100 digits, or a string holds what is no text.
    """
    if isinstance(text, bytes):
        text = text_of(text)
    try:
        value = (_DECODER_OF_ANSWERS if of_model else _DECODER).decode(text)
    except _Fault as fault:
        raise MalformedError(fault.fact, line=_line_of(fault, text)) from None
    except json.JSONDecodeError as error:
        raise MalformedError(f"not JSON: {error.msg} (column {error.colno})", line=error.lineno) from None
    except RecursionError:
        raise _too_deep() from None
    # Few texts have so many brackets, or such escapes, that a second look is needed.
    if text.count("[") + text.count("{") > MOST_LEVELS or (not of_model and _NO_TEXT.search(text)):
        _check_values(value, of_model)
    return value


def _check_values(value: Any, of_model: bool) -> None:
    level, levels = [value], 0
    while level:
        inner: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                inner += one.keys()
                inner += one.values()
            elif isinstance(one, list):
                inner += one
            elif isinstance(one, str) and not of_model:
                _check_string(one)
        levels += any(isinstance(one, dict | list) for one in level)
        if levels > MOST_LEVELS:
            raise _too_deep()
        level = inner


def _check_string(text: str) -> None:
    if "\0" in text:
        raise MalformedError(f"the string {_shown(text)} holds a NUL")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise MalformedError(f"the string {_shown(text)} holds half of a surrogate pair, which is no text") from None


def _too_deep() -> MalformedError:
    return MalformedError(f"values stand more than {MOST_LEVELS} levels deep", remedy="fetch or write the file again")


class _Fault(ValueError):
    """What the decoder's hooks refuse; they are told no place, only the `part`, None for a key that stands twice."""

    def __init__(self, fact: str, part: str | None) -> None:
        super().__init__(fact)
        self.fact, self.part = fact, part


def _line_of(fault: _Fault, text: str) -> int | None:
    """The line of a fault: the text is read once more, part by part."""
    keys: list[set[str]] = [set()]
    for match in _PART.finditer(text):
        part, is_key = match[1], match[2]
        if part in "{[":
            keys.append(set())
        elif part in "}]":
            keys = keys[:-1] or [set()]
        elif part == fault.part or (is_key and fault.part is None and part in keys[-1]):
            return text.count("\n", 0, match.start()) + 1
        elif is_key:
            keys[-1].add(part)
    return None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _Fault(f"the key {_shown(name)} stands twice in one object", None)
            seen.add(name)
    return made


def _whole_number(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise _Fault(f"the number {digits[:_SHOWN]}... has {len(digits)} digits", digits)
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise _Fault(f"the number {digits[:_SHOWN]} is beyond what a double holds", digits)
    return value


def _no_number(name: str) -> NoReturn:
    raise _Fault(f"{name} is no number of JSON", name)


def _shown(text: str) -> str:
    return ascii(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_whole_number, parse_float=_number, parse_constant=_no_number
)
_DECODER_OF_ANSWERS = json.JSONDecoder(object_pairs_hook=_object, parse_int=_whole_number)
