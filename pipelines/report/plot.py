"""Quality against speed as an inline SVG: points with error bars, drawn by hand so that the page needs nothing else.

Colours are the page's CSS variables, so that the plot follows light, dark and print.
"""

import math
from typing import NamedTuple

from markupsafe import Markup

from pipelines.records.rows import Row, concurrencies, lowest_category
from pipelines.report.floor import FLOOR_METHOD
from pipelines.report.labels import CHARACTER_WIDTH, Box, place_beside
from pipelines.report.svg import Scale, cut, label, line, series, ticks

_WIDTH, _HEIGHT = 760, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 16, 52
_LINE_HEIGHT = 15


class Point(NamedTuple):
    """One model: `x` output tokens per second, `y` what was kept above guessing in the lowest category."""

    name: str
    category: str
    x: float
    y: float
    low: float
    """95 % interval of `y`; `y` itself where there is none."""
    high: float
    series: str
    """CSS class of its colour."""
    floor: bool = False
    """Whether others have to beat it."""


def points_of(rows: list[Row]) -> list[Point]:
    """Models that have both a speed at the highest concurrency and, but for the baseline, a retention."""
    levels = concurrencies(rows)
    points = []
    for index, row in enumerate(rows):
        speed = row.tokens_per_second(levels[-1]) if levels else None
        lowest = lowest_category(row)
        if speed is None or not math.isfinite(speed) or (index and lowest is None):
            continue
        if lowest is None or lowest.kept is None:
            points.append(Point(row.name, "", speed, 1.0, 1.0, 1.0, series(index)))
        else:
            low, high = (lowest.kept if end is None else end for end in (lowest.kept_low, lowest.kept_high))
            floor = row.method == FLOOR_METHOD
            points.append(Point(row.name, lowest.category, speed, lowest.kept, low, high, series(index), floor))
    return points


def quality_speed_plot(rows: list[Row]) -> Markup | None:
    """The plot as SVG, or None with fewer than two points to compare."""
    points = points_of(rows)
    if len(points) < 2:
        return None
    x_ticks = ticks(0, max(point.x for point in points) * 1.12)
    lowest = min(point.low for point in points)
    highest = max(point.high for point in points)
    margin = 0.08 * (highest - lowest) + 0.01
    y_ticks = ticks(max(0.0, lowest - margin), highest + margin)

    def x_of(value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (value - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])

    def y_of(value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])

    parts = [
        Markup('<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
            _WIDTH, _HEIGHT, "What was kept in the lowest category against output tokens per second"
        ),
        *_axes(x_ticks, y_ticks, x_of, y_of, concurrencies(rows)[-1]),
        *_floors(points, y_of),
        *_marks(points, x_of, y_of),
        *_labels(points, x_of, y_of),
        Markup("</svg>"),
    ]
    return Markup("\n").join(parts)


def _axes(x_ticks: list[float], y_ticks: list[float], x_of: Scale, y_of: Scale, level: int) -> list[Markup]:
    left, right, bottom = _LEFT, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    digits = max(2, -math.floor(math.log10(y_ticks[1] - y_ticks[0]) + 1e-9))
    parts = []
    for tick in y_ticks:
        y = y_of(tick)
        parts.append(line("grid", left, y, right, y))
        parts.append(label("tick end", left - 8, y + 4, f"{tick:.{digits}f}"))
    for tick in x_ticks:
        x = x_of(tick)
        parts.append(line("axis", x, bottom, x, bottom + 5))
        parts.append(label("tick middle", x, bottom + 19, f"{tick:g}"))
    parts.append(line("axis", left, bottom, right, bottom))
    if y_ticks[0] <= 1 <= y_ticks[-1]:
        parts.append(line("unity", left, y_of(1), right, y_of(1)))
    requests = "1 request" if level == 1 else f"{level} requests"
    parts.append(label("title middle", (left + right) / 2, _HEIGHT - 8, f"output tokens/s with {requests} at a time"))
    parts.append(
        Markup('<text class="title middle" transform="translate(14 {:.1f}) rotate(-90)">{}</text>').format(
            (_TOP + bottom) / 2, "kept above guessing in the lowest category"
        )
    )
    return parts


def _floors(points: list[Point], y_of: Scale) -> list[Markup]:
    """A line through what round-to-nearest keeps, named at its left end."""
    parts = []
    for point in points:
        if point.floor:
            y = y_of(point.y)
            parts.append(line(f"floor {point.series}", _LEFT, y, _WIDTH - _RIGHT, y))
            parts.append(label("tick", _LEFT + 6, y - 4, f"floor: {cut(point.name, 24)}"))
    return parts


def _marks(points: list[Point], x_of: Scale, y_of: Scale) -> list[Markup]:
    parts = []
    for point in points:
        x, y = x_of(point.x), y_of(point.y)
        if point.low < point.high:
            low, high = y_of(point.low), y_of(point.high)
            kind = f"error {point.series}"
            parts += [line(kind, x, low, x, high)]
            parts += [line(kind, x - 4, end, x + 4, end) for end in (low, high)]
        parts.append(Markup('<circle class="model {}" cx="{:.1f}" cy="{:.1f}" r="5"/>').format(point.series, x, y))
    return parts


def _labels(points: list[Point], x_of: Scale, y_of: Scale) -> list[Markup]:
    """A label beside each point, at the first place where it covers nothing."""
    taken = []
    for point in points:
        x = x_of(point.x)
        taken.append(Box(x - 5, y_of(point.high) - 3, x + 5, y_of(point.low) + 3))
    area = Box(_LEFT, _TOP, _WIDTH - 4, _HEIGHT - _BOTTOM)
    parts = []
    for point in points:
        text = cut(point.name, 24)
        width = CHARACTER_WIDTH * max(len(text), len(point.category))
        height = _LINE_HEIGHT * (2 if point.category else 1)
        place = place_beside(x_of(point.x), y_of(point.y), width, height, taken, area)
        taken.append(place.box)
        parts.append(label(f"name {place.anchor}", place.x, place.box.top + 12, text))
        if point.category:
            parts.append(label(f"tick {place.anchor}", place.x, place.box.top + 12 + _LINE_HEIGHT, point.category))
    return parts
