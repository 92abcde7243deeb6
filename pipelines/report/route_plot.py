"""Quality against the share that is served cheaply, as inline SVG: the method, an oracle, a random choice, the rule."""

from markupsafe import Markup

from pipelines.report.labels import CHARACTER_WIDTH, Box, place_beside
from pipelines.report.svg import Scale, label, line, ticks
from registry.contracts import RouteCurve, RouteOutcome

_WIDTH, _HEIGHT = 760, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 16, 52
_MARGIN = 0.02
"""Of quality, above and below what is drawn."""


def route_plot(outcome: RouteOutcome, limit: float) -> Markup:
    """One method's curve.

    Args:
        limit: The loss that may be.
    """
    drawn = [*outcome.curve.quality, outcome.quality_precise, outcome.quality_cheap, outcome.quality_precise - limit]
    # An oracle is far above where answers differ much: its top may leave the picture.
    highest = min(max(outcome.oracle.quality), max(drawn) + 5 * _MARGIN)
    y_ticks = ticks(max(0.0, min(drawn) - _MARGIN), min(1.0, highest + _MARGIN))

    def x_of(share: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * share

    def y_of(quality: float) -> float:
        inside = min(max(quality, y_ticks[0]), y_ticks[-1])
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (inside - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])

    floor = y_of(outcome.quality_precise - limit)
    parts = [
        Markup('<svg class="plot route" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
            _WIDTH, _HEIGHT, f"Quality against the share that is served cheaply, by {outcome.kind}"
        ),
        *_axes(y_ticks, x_of, y_of),
        line("margin", _LEFT, floor, _WIDTH - _RIGHT, floor),
        label("tick bad", _LEFT + 6, floor + 14, f"{100 * limit:.4g} points lost"),
        line("unity", x_of(0), y_of(outcome.quality_precise), x_of(1), y_of(outcome.quality_cheap)),
        _curve("oracle", outcome.oracle, x_of, y_of),
        _curve("s1", outcome.curve, x_of, y_of),
        *_names(outcome, x_of, y_of),
        Markup("</svg>"),
    ]
    return Markup("\n").join(parts)


def _axes(y_ticks: list[float], x_of: Scale, y_of: Scale) -> list[Markup]:
    bottom = _HEIGHT - _BOTTOM
    parts = []
    for tick in y_ticks:
        parts.append(line("grid", _LEFT, y_of(tick), _WIDTH - _RIGHT, y_of(tick)))
        parts.append(label("tick end", _LEFT - 8, y_of(tick) + 4, f"{100 * tick:.4g}"))
    for step in range(0, 101, 20):
        parts.append(line("axis", x_of(step / 100), bottom, x_of(step / 100), bottom + 5))
        parts.append(label("tick middle", x_of(step / 100), bottom + 19, f"{step}"))
    parts.append(line("axis", _LEFT, bottom, _WIDTH - _RIGHT, bottom))
    parts.append(label("title middle", x_of(0.5), _HEIGHT - 8, "share of prompts served cheaply, %"))
    parts.append(
        Markup('<text class="title middle" transform="translate(14 {:.1f}) rotate(-90)">quality, %</text>').format(
            (_TOP + bottom) / 2
        )
    )
    return parts


def _curve(kind: str, curve: RouteCurve, x_of: Scale, y_of: Scale) -> Markup:
    points = " ".join(
        f"{x_of(share):.1f},{y_of(quality):.1f}"
        for share, quality in zip(curve.share_cheap, curve.quality, strict=True)
    )
    return Markup('<polyline class="{}" points="{}"/>').format(kind, points)


def _names(outcome: RouteOutcome, x_of: Scale, y_of: Scale) -> list[Markup]:
    """The rule with the interval of its quality, and what each line is."""
    x, y = x_of(outcome.share_cheap), y_of(outcome.quality)
    low, high = (y_of(outcome.quality_precise - end) for end in (outcome.loss_high, outcome.loss_low))
    parts = (
        [Markup('<circle class="model s1" cx="{:.1f}" cy="{:.1f}" r="5"/>').format(x, y)] if outcome.supported else []
    )
    if outcome.supported:
        parts.append(line("error s1", x, low, x, high))
    taken = [Box(x - 5, min(low, high), x + 5, max(low, high))] if outcome.supported else []
    area = Box(_LEFT, _TOP, _WIDTH - 4, _HEIGHT - _BOTTOM)
    middle = len(outcome.curve.quality) // 2
    for name, share, quality in (
        (outcome.kind, outcome.curve.share_cheap[middle], outcome.curve.quality[middle]),
        ("random", 0.75, outcome.quality_precise + 0.75 * (outcome.quality_cheap - outcome.quality_precise)),
        ("oracle", 0.25, _at(outcome.oracle, 0.25)),
    ):
        place = place_beside(x_of(share), y_of(quality), CHARACTER_WIDTH * len(name), 15, taken, area)
        taken.append(place.box)
        parts.append(label(f"name {place.anchor}", place.x, place.box.top + 12, name))
    return parts


def _at(curve: RouteCurve, share: float) -> float:
    return next(quality for one, quality in zip(curve.share_cheap, curve.quality, strict=True) if one >= share)
