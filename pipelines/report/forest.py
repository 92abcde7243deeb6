"""The forest plot: each category's difference from the baseline with its interval, and the margin it is held to.

Artifacts stand together by category, so that a category is compared over methods and never averaged away.
"""

from markupsafe import Markup

from pipelines.records.rows import Row
from pipelines.report.judged import Judged, judged
from pipelines.report.svg import Scale, cut, label, line, ticks
from pipelines.report.table import UNKNOWN
from registry.numerals import with_minus

_WIDTH = 800
_LEFT, _RIGHT, _TOP, _BOTTOM = 158, 226, 8, 44
_ROW, _HEADER, _GAP = 19, 20, 6
"""Heights of an artifact's line, of a category's name, and between two categories."""
_MOST = 40.0
"""The axis never reaches further, so that one broken artifact does not flatten all others; arrows show what does."""

_Line = tuple[str, Judged]


def forest_plot(rows: list[Row]) -> Markup | None:
    """The plot as SVG; None where nothing was compared."""
    groups = _groups(rows)
    drawn = [one for lines in groups.values() for _, one in lines if one.difference is not None]
    if not drawn:
        return None
    height = _TOP + _BOTTOM + sum(_HEADER + _GAP + _ROW * len(lines) for lines in groups.values())
    ends = [0.0, *(end for one in drawn for end in (one.difference, one.low, one.high) if end is not None)]
    ends += [-1.2 * one.margin for one in drawn if one.margin is not None]
    axis = ticks(max(min(ends), -_MOST), min(max(ends), _MOST), about=7)

    def x_of(value: float) -> float:
        inside = min(max(value, axis[0]), axis[-1])
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (inside - axis[0]) / (axis[-1] - axis[0])

    parts = [
        Markup('<svg class="plot forest" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
            _WIDTH, height, "Difference from the baseline in each category with 95 % intervals and margins"
        ),
        *_axis(axis, x_of, height),
    ]
    y = float(_TOP)
    for category, lines in groups.items():
        parts += _group(category, lines, y, axis, x_of)
        y += _HEADER + _GAP + _ROW * len(lines)
    return Markup("\n").join([*parts, Markup("</svg>")])


def _groups(rows: list[Row]) -> dict[str, list[_Line]]:
    """Category -> (artifact, its difference there), in the suite's order."""
    found: dict[str, list[_Line]] = {}
    for row in rows:
        for one in judged(row.retention) if row.retention else []:
            found.setdefault(one.category, []).append((row.name, one))
    return found


def _axis(axis: list[float], x_of: Scale, height: float) -> list[Markup]:
    bottom = height - _BOTTOM + 2
    parts = []
    for tick in axis:
        x = x_of(tick)
        parts.append(line("zero" if tick == 0 else "grid", x, _TOP, x, bottom))
        parts.append(label("tick middle", x, bottom + 15, with_minus(f"{tick:+g}") if tick else "0"))
    title = "artifact − baseline: points of share, % of perplexity"
    return [*parts, label("title middle", (_LEFT + _WIDTH - _RIGHT) / 2, height - 8, title)]


def _group(category: str, lines: list[_Line], top: float, axis: list[float], x_of: Scale) -> list[Markup]:
    first = lines[0][1]
    parts = [label("name", 8, top + 14, cut(category, 24))]
    if first.margin is not None:
        x = x_of(-first.margin)
        if -first.margin >= axis[0]:
            parts.append(line("margin", x, top + _HEADER - 2, x, top + _HEADER + _ROW * len(lines) + 1))
        told = f"margin {first.margin_text}"
    else:
        told = f"in {first.scale}"
    parts.append(label("tick", _WIDTH - _RIGHT + 14, top + 14, told))
    for index, (name, one) in enumerate(lines):
        parts += _row(name, one, top + _HEADER + _ROW * (index + 0.5), axis, x_of)
    return parts


def _row(name: str, one: Judged, y: float, axis: list[float], x_of: Scale) -> list[Markup]:
    parts = [
        label("", 20, y + 4, cut(name, 20)),
        label("", _WIDTH - _RIGHT + 14, y + 4, one.difference_text if one.difference is not None else UNKNOWN),
        label(f"{one.tone} end", _WIDTH - 4, y + 4, one.outcome),
    ]
    if one.difference is None:
        return parts
    kind = one.verdict
    if one.low is not None and one.high is not None:
        parts.append(line(f"interval {kind}", x_of(one.low), y, x_of(one.high), y))
        parts += [
            _arrow(kind, x_of(end), y, -1 if end < axis[0] else 1)
            if not axis[0] <= end <= axis[-1]
            else line(f"interval {kind}", x_of(end), y - 4, x_of(end), y + 4)
            for end in (one.low, one.high)
        ]
    if axis[0] <= one.difference <= axis[-1]:
        parts.append(_mark(kind, x_of(one.difference), y))
    return parts


def _mark(kind: str, x: float, y: float) -> Markup:
    """Verdicts differ in shape too, for those who do not tell the colours apart."""
    if kind == "fail":
        return Markup('<rect class="mark fail" x="{:.1f}" y="{:.1f}" width="9" height="9"/>').format(x - 4.5, y - 4.5)
    return Markup('<circle class="mark {}" cx="{:.1f}" cy="{:.1f}" r="4.5"/>').format(kind, x, y)


def _arrow(kind: str, x: float, y: float, way: int) -> Markup:
    points = f"{x + 7 * way:.1f},{y:.1f} {x:.1f},{y - 4:.1f} {x:.1f},{y + 4:.1f}"
    return Markup('<polygon class="arrow {}" points="{}"/>').format(kind, points)
