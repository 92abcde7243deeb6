"""Parts of the page's drawings: scales, lines, labels. Colours are the page's CSS classes and variables."""

import math
from collections.abc import Callable

from markupsafe import Markup

from pipelines.report.table import printable

Scale = Callable[[float], float]
"""A value's place in pixels."""


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers, 1, 2 or 5 times a power of ten apart, that cover [low, high]."""
    raw = (high - low) / about if high > low else 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, max(last, first + 1) + 1)]


def line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    """A straight line of CSS class `kind`."""
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(kind, x1, y1, x2, y2)


def label(kind: str, x: float, y: float, text: str) -> Markup:
    """Text on a base line; classes `middle` and `end` anchor it."""
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(kind, x, y, printable(text))


def cut(text: str, characters: int) -> str:
    """`text` with at most so many characters."""
    return text if len(text) <= characters else text[: characters - 1] + "…"
