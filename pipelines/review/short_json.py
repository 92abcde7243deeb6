"""Records as a browser gets them, in a page or by themselves."""

import json
import math
from typing import Any

from registry.contracts.base import Record

_ESCAPED = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
"""So that no name can end the element that holds the data."""


def short_json(record: Record) -> str:
    """`record` as strict JSON that may stand in HTML.

    Numbers have six significant digits, which is more than was ever measured and a quarter less of a page; those that
    are not finite are null.
    """
    told = _shortened(record.model_dump(mode="json"))
    text = json.dumps(told, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character, escaped in _ESCAPED.items():
        text = text.replace(character, escaped)
    return text


def _shortened(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, list):
        return [_shortened(one) for one in value]
    if isinstance(value, dict):
        return {name: _shortened(one) for name, one in value.items()}
    return value
