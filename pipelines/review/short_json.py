"""Records as a browser gets them, in a page or by themselves."""

import json
import math
from typing import Any

from registry.contracts.base import Record

_ESCAPED = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
"""So that no name can end the element that holds the data."""
_DIGITS = 6
"""Significant ones, which is more than was ever measured; the page shows three or four."""


def short_json(record: Record) -> str:
    """`record` as strict JSON that may stand in HTML.

    Numbers are `rounded`, which is a quarter less of a page.
    """
    told = rounded(record.model_dump(mode="json"))
    text = json.dumps(told, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character, escaped in _ESCAPED.items():
        text = text.replace(character, escaped)
    return text


def rounded(value: Any) -> Any:
    """Floats with `_DIGITS`, and None for those that are no number: JSON has no word for them."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, list):
        return [rounded(one) for one in value]
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    return value
