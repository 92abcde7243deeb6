"""Parts of the page's drawings: scales, lines, labels. Colours are the page's CSS classes and variables."""

import math
from collections.abc import Callable
from typing import NamedTuple

from markupsafe import Markup

from pipelines.report.table import printable

Scale = Callable[[float], float]
"""A value's place in pixels."""

_LOGARITHMIC_FROM = 8.0
"""Values this many times apart are drawn on a logarithmic axis: on a linear one the small would be one heap."""


SERIES = 7
"""So many colours for artifacts; further ones begin again."""


class Axis(NamedTuple):
    """From `low` to `high`, with round ticks between."""

    low: float
    high: float
    ticks: list[float]
    logarithmic: bool

    def share(self, value: float) -> float:
        """The value's place, 0 at the low end and 1 at the high one."""
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def axis_of(values: list[float]) -> Axis:
    """An axis for positive values: from 0, or logarithmic where they are far apart."""
    low, high = min(values), max(values)
    if high <= _LOGARITHMIC_FROM * low:
        round_values = ticks(0, high * 1.08, about=5)
        return Axis(0.0, round_values[-1], round_values, False)
    low, high = low / 1.3, high * 1.3
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(decades) <= 4 else (1,)
    inside = [factor * 10.0**decade for decade in decades for factor in factors if low <= factor * 10.0**decade <= high]
    return Axis(low, high, inside, True)


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


def series(index: int) -> str:
    """CSS class with the colour of the row at `index`; the baseline, which comes first, has one of its own."""
    return f"s{(index - 1) % SERIES + 1 if index else 0}"


def cut(text: str, characters: int) -> str:
    """`text` with at most so many characters."""
    return text if len(text) <= characters else text[: characters - 1] + "…"
