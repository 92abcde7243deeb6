"""Latency against throughput as inline SVG, a panel for each latency: a line a model, a point a load.

Closed loops are circles on a line, open loops diamonds on a dotted one; whiskers reach from the median to p95 (thick)
and p99 (thin). Hollow points are doubtful. Colours are the page's CSS variables.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from markupsafe import Markup, escape

from pipelines.records.rows import ServedModel
from pipelines.report.labels import CHARACTER_WIDTH, Box, place_beside
from pipelines.report.load import doubt, keeps_highest_rate, load_text, milliseconds, slo_of
from pipelines.report.svg import Axis, axis_of, cut, label, line, series
from pipelines.report.table import printable
from registry.contracts import SLO, LoadPoint, Percentiles
from registry.numerals import significant

Latency = Literal["ttft", "tpot", "e2e"]

_WIDTH, _PANEL = 1000, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 22, 26, 48
_SMALLEST, _LARGEST = 1e-3, 1e9
"""Milliseconds and tokens/s outside of these are not drawn: 0 has no place where a request took time."""
_TITLES: dict[Latency, str] = {
    "ttft": "TTFT: time to the first token, ms",
    "tpot": "TPOT: time per output token after the first, ms",
    "e2e": "End to end: time of a whole request, ms",
}


class Drawn(NamedTuple):
    """One load test of one model."""

    name: str
    series: str
    """CSS class of the model's colour."""
    point: LoadPoint
    highest: bool
    """The highest rate at which the model kept the SLO."""

    @property
    def x(self) -> float:
        """Output tokens per second."""
        return self.point.output_tokens_per_second

    def latency(self, metric: Latency) -> Percentiles:
        """Percentiles of one latency."""
        found: Percentiles = getattr(self.point, metric)
        return found


class _Panel(NamedTuple):
    metric: Latency
    drawn: list[Drawn]
    x: Axis
    y: Axis
    top: float
    limit_ms: float | None

    @property
    def bottom(self) -> float:
        return self.top + _PANEL - _TOP - _BOTTOM

    def x_of(self, value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * _inside(self.x.share(value))

    def y_of(self, seconds: float) -> float:
        return self.bottom - (self.bottom - self.top) * _inside(self.y.share(1000 * seconds))


def latency_curves(rows: Sequence[ServedModel], prompts: str) -> Markup | None:
    """The plot of all load tests with one prompt mix; None where none can be drawn."""
    slo = slo_of(rows) or SLO()
    limits: dict[Latency, float | None] = {"ttft": slo.ttft_seconds, "tpot": slo.tpot_seconds, "e2e": slo.e2e_seconds}
    points = [
        Drawn(row.name, series(index), point, keeps_highest_rate(row, point))
        for index, row in enumerate(rows)
        for point in row.load_points
        if point.prompts == prompts
    ]
    metrics: list[Latency] = ["ttft", "tpot"]
    if limits["e2e"] is not None:
        # With answers of one length it follows from the other two, so it is drawn only to be held to a limit.
        metrics.append("e2e")
    panels: list[_Panel] = []
    for metric in metrics:
        drawn = [one for one in points if drawable(one, metric)]
        if drawn:
            panels.append(_panel(metric, drawn, _PANEL * len(panels) + _TOP, limits[metric]))
    if not panels:
        return None
    parts = [
        Markup('<svg class="plot curve" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
            _WIDTH, _PANEL * len(panels), f"Latencies against output tokens per second, prompts {printable(prompts)}"
        )
    ]
    for panel in panels:
        parts += [*_axes(panel), *_limit(panel), *_lines(panel), *_marks(panel), *_labels(panel)]
    return Markup("\n").join([*parts, Markup("</svg>")])


def undrawn(rows: Sequence[ServedModel], prompts: str) -> int:
    """Load tests with one prompt mix that have no place in any panel, such as those without a completed request."""
    points = [point for row in rows for point in row.load_points if point.prompts == prompts]
    return sum(not any(drawable(Drawn("", "", one, False), metric) for metric in ("ttft", "tpot")) for one in points)


def drawable(one: Drawn, metric: Latency) -> bool:
    """Whether throughput and latency are numbers that have a place on the axes."""
    latency = one.latency(metric)
    values = (one.x, 1000 * latency.p50_seconds, 1000 * latency.p99_seconds)
    return one.point.completed > 0 and all(math.isfinite(value) and _SMALLEST <= value <= _LARGEST for value in values)


def _inside(share: float) -> float:
    return min(max(share, 0.0), 1.0)


def _panel(metric: Latency, drawn: list[Drawn], top: float, limit_seconds: float | None) -> _Panel:
    limit = None if limit_seconds is None or not _SMALLEST <= 1000 * limit_seconds <= _LARGEST else 1000 * limit_seconds
    # What is doubtful does not set the scale: a saturated point's latency is as large as its test was long.
    told = [one for one in drawn if doubt(one.point) is None] or drawn
    ends = [1000 * end for one in told for end in (one.latency(metric).p50_seconds, one.latency(metric).p99_seconds)]
    y = axis_of([*ends, *([limit] if limit else [])])
    return _Panel(metric, drawn, axis_of([one.x for one in told]), y, top, limit)


def _axes(panel: _Panel) -> list[Markup]:
    left, right, bottom = _LEFT, _WIDTH - _RIGHT, panel.bottom
    parts = [label("name", left - 52, panel.top - 10, _TITLES[panel.metric])]
    for tick in panel.y.ticks:
        y = panel.y_of(tick / 1000)
        parts += [line("grid", left, y, right, y), label("tick end", left - 8, y + 4, f"{tick:,g}")]
    for tick in panel.x.ticks:
        x = panel.x_of(tick)
        parts += [line("axis", x, bottom, x, bottom + 5), label("tick middle", x, bottom + 18, f"{tick:,g}")]
    title = "output tokens/s" + (", logarithmic" if panel.x.logarithmic else "")
    title += "; latency logarithmic" if panel.y.logarithmic else ""
    return [
        *parts,
        line("axis", left, bottom, right, bottom),
        label("title middle", (left + right) / 2, bottom + 35, title),
    ]


def _limit(panel: _Panel) -> list[Markup]:
    if panel.limit_ms is None:
        return []
    y = panel.y_of(panel.limit_ms / 1000)
    return [line("slo", _LEFT, y, _WIDTH - _RIGHT, y)]


def _limit_place(panel: _Panel, taken: list[Box]) -> tuple[Box, Markup] | None:
    """Label of the SLO's line at one of its ends, above or below, where it covers least."""
    if panel.limit_ms is None:
        return None
    y, told = panel.y_of(panel.limit_ms / 1000), f"SLO {significant(panel.limit_ms)} ms"
    width, right = CHARACTER_WIDTH * len(told), _WIDTH - _RIGHT - 2
    places = [
        (Box(left, top, left + width, top + 14), left) for left in (_LEFT + 6, right - width) for top in (y - 17, y + 2)
    ]
    box, left = min(places, key=lambda place: sum(place[0].overlaps(other) for other in taken))
    return box, label("slo", left, box.top + 12, told)


def _lines(panel: _Panel) -> list[Markup]:
    return [
        line(f"{kind} {one.series}", *_place(panel, one), *_place(panel, after)) for kind, one, after in _joined(panel)
    ]


def _along_lines(panel: _Panel) -> list[Box]:
    """Small boxes that cover the lines."""
    boxes = []
    for _, one, after in _joined(panel):
        (x1, y1), (x2, y2) = _place(panel, one), _place(panel, after)
        steps = 1 + int(math.hypot(x2 - x1, y2 - y1) / 6)
        for step in range(steps + 1):
            x, y = x1 + (x2 - x1) * step / steps, y1 + (y2 - y1) * step / steps
            boxes.append(Box(x - 1, y - 1, x + 1, y + 1))
    return boxes


def _joined(panel: _Panel) -> list[tuple[str, Drawn, Drawn]]:
    """Pairs of a model's valid points: by concurrency in the closed loop, by rate in the open one."""
    pairs = []
    for name in dict.fromkeys(one.name for one in panel.drawn):
        for kind, load in (("closed", "concurrency"), ("open", "requests_per_second_offered")):
            valid = [
                one
                for one in panel.drawn
                if one.name == name and one.point.invalid is None and getattr(one.point, load) is not None
            ]
            valid.sort(key=lambda one, load=load: getattr(one.point, load))  # type: ignore[misc]
            pairs += [(kind, one, after) for one, after in pairwise(valid)]
    return pairs


def _place(panel: _Panel, one: Drawn) -> tuple[float, float]:
    return panel.x_of(one.x), panel.y_of(one.latency(panel.metric).p50_seconds)


def _marks(panel: _Panel) -> list[Markup]:
    parts = []
    for one in panel.drawn:
        x, y = _place(panel, one)
        latency = one.latency(panel.metric)
        p95, p99 = panel.y_of(latency.p95_seconds), panel.y_of(latency.p99_seconds)
        parts.append(Markup("<g><title>{}</title>").format(_tooltip(one, panel.metric)))
        parts += [line(f"whisker {one.series}", x, y, x, p95), line(f"far whisker {one.series}", x, p95, x, p99)]
        if one.highest:
            parts.append(Markup('<circle class="ring" cx="{:.1f}" cy="{:.1f}" r="9"/>').format(x, y))
        kind = "hollow" if doubt(one.point) else "full"
        mark = _circle if one.point.concurrency is not None else _diamond
        parts.append(mark(f"point {kind} {one.series}", x, y))
        if one.point.invalid is not None:
            parts += [line(f"cross {one.series}", x - 3, y - way * 3, x + 3, y + way * 3) for way in (1, -1)]
        if 1000 * latency.p50_seconds > panel.y.high:
            corners = f"{x:.1f},{y - 17:.1f} {x - 4:.1f},{y - 9:.1f} {x + 4:.1f},{y - 9:.1f}"
            parts.append(Markup('<polygon class="arrow {}" points="{}"/>').format(one.series, corners))
        parts.append(Markup("</g>"))
    return parts


def _circle(kind: str, x: float, y: float) -> Markup:
    return Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="4.5"/>').format(kind, x, y)


def _diamond(kind: str, x: float, y: float) -> Markup:
    corners = " ".join(f"{x + right:.1f},{y + down:.1f}" for right, down in ((-6, 0), (0, -6), (6, 0), (0, 6)))
    return Markup('<polygon class="{}" points="{}"/>').format(kind, corners)


def _tooltip(one: Drawn, metric: Latency) -> Markup:
    latency = one.latency(metric)
    percentiles = ", ".join(
        f"p{share} {milliseconds(getattr(latency, f'p{share}_seconds'))}" for share in (50, 90, 95, 99)
    )
    told = (
        f"{one.name}, {load_text(one.point)}: {significant(one.x)} output tokens/s; {metric.upper()} {percentiles} ms"
    )
    told += "; highest rate that kept the SLO" if one.highest else ""
    why = doubt(one.point)
    return escape(printable(f"{told}; {why}" if why else told))


def _labels(panel: _Panel) -> list[Markup]:
    """The model's name at its last closed-loop point, loads beside the points; what finds no free place is left out."""
    area = Box(_LEFT + 2, panel.top, _WIDTH - 4, panel.bottom)
    taken = [_around(panel, one) for one in panel.drawn]
    wanted: list[tuple[Drawn, str, str]] = []
    for name in dict.fromkeys(one.name for one in panel.drawn):
        own = [one for one in panel.drawn if one.name == name and one.point.invalid is None]
        if own:
            wanted.append((max(own, key=lambda one: one.x), f"name {own[0].series}", cut(printable(name), 18)))
    wanted += [(one, f"tick {one.series}", short_load(one.point)) for one in panel.drawn]
    lines = _along_lines(panel)
    parts = []
    if limit := _limit_place(panel, taken + lines):
        taken.append(limit[0])
        parts.append(limit[1])
    for one, kind, text in wanted:
        place = place_beside(*_place(panel, one), CHARACTER_WIDTH * len(text), 13, taken, area, lines)
        if place.free:
            taken.append(place.box)
            parts.append(label(f"{kind} {place.anchor}", place.x, place.box.top + 11, text))
    return parts


def _around(panel: _Panel, one: Drawn) -> Box:
    x, y = _place(panel, one)
    return Box(x - 6, panel.y_of(one.latency(panel.metric).p99_seconds) - 1, x + 6, y + 6)


def short_load(point: LoadPoint) -> str:
    """`8` for eight requests at a time, `2.5/s` for an open loop."""
    if point.concurrency is not None:
        return str(point.concurrency)
    rate = point.requests_per_second_offered
    return "?/s" if rate is None else f"{rate:g}/s"
