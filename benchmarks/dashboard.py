"""Draws the Grafana dashboard without Grafana: each panel's expressions, asked of a real Prometheus, on one page.

    PYTHONPATH=. .venv/bin/python -P benchmarks/dashboard.py [--seconds 60] [--out dashboard.html] [--prometheus URL]

Without an address, a gateway of tests/watched_gateway.py with made-up traffic is looked at by a Prometheus server that
is started here; with one, the last seconds of whatever that server has seen are drawn. The page says where a panel has
no data. It shows what is drawn, and not how Grafana draws it.
"""

import argparse
import asyncio
import random
import tempfile
import time
from datetime import datetime
from pathlib import Path

from markupsafe import Markup

from pipelines.report.page import page_environment
from pipelines.report.svg import label, line, ticks
from tests.dashboard import ALERTS, Asked, asked_by, dashboard
from tests.prometheus_server import Prometheus, prometheus
from tests.watched_gateway import Timed, Watched, ramped, watched_gateway

WIDTH, HEIGHT = 460, 210
LEFT, RIGHT, TOP, BOTTOM = 58, 8, 10, 22
RATES = "10s"

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
{% include "page_style.html" %}
<style>
body { max-width: 1700px; }
.panels { display: grid; grid-template-columns: repeat(24, 1fr); gap: 10px; }
.panels h2 { grid-column: span 24; margin: 8px 0 0; }
.panel { background: var(--panel); padding: 8px; min-width: 0; }
.panel h3 { margin: 0; } .panel p { font-size: 12px; } .panel .legend { font-size: 11px; }
.panel path { fill: none; stroke: var(--series); stroke-width: 1.6; } .panel strong { font-size: 26px; }
</style></head>
<body><h1>{{ title }}</h1><p>{{ description }}</p><div class="panels">
{% for panel in panels %}
{% if panel.row %}<h2>{{ panel.title }}</h2>{% else %}
<div class="panel" style="grid-column: span {{ panel.width }}"><h3>{{ panel.title }}</h3>{{ panel.drawing }}
<div class="legend">
{% for name in panel.names %}
<span class="s{{ loop.index0 % 7 + 1 }}"><i class="swatch"></i>{{ name }}</span>
{% endfor %}
</div><p class="quiet">{{ panel.description }}</p></div>{% endif %}
{% endfor %}
</div></body></html>"""


def drawn(server: Prometheus, panel: dict, start: float, end: float) -> dict:
    """One panel as the page's template takes it."""
    if panel["type"] == "row":
        return {"row": True, "title": panel["title"]}
    lines: list[tuple[str, list[tuple[float, float]]]] = []
    for asked in asked_by([panel]):
        for series in server.query_range(asked.asked_over(RATES), start, end, (end - start) / 200):
            values = [(float(at), float(value)) for at, value in series["values"] if value not in ("NaN", "+Inf")]
            lines.append((named(asked, series["metric"]), values))
    lines = [(name, values) for name, values in lines if values]
    defaults = panel["fieldConfig"]["defaults"]
    if not lines:
        drawing = Markup('<p class="bad">no data</p>')
    elif panel["type"] == "stat":
        drawing = Markup("<p><strong>{}</strong></p>").format(f"{lines[0][1][-1][1]:.3g} {defaults['unit']}")
    else:
        drawing = plot([values for _, values in lines], defaults, start, end)
    told = {"title": panel["title"], "description": panel["description"], "width": panel["gridPos"]["w"]}
    return told | {"row": False, "drawing": drawing, "names": [name for name, _ in lines]}


def named(asked: Asked, labels: dict[str, str]) -> str:
    """As `legendFormat` has it."""
    name = asked.legend
    for key, value in labels.items():
        name = name.replace("{{" + key + "}}", value)
    return name


def plot(lines: list[list[tuple[float, float]]], defaults: dict, start: float, end: float) -> Markup:
    """Lines over time, each in a colour of the page."""
    values = [value for one in lines for _, value in one]
    low, high = defaults.get("min", min(values)), defaults.get("max", max(values))
    marks = ticks(low, high if high > low else low + 1, about=4)

    def x_of(at: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (at - start) / (end - start)

    def y_of(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - marks[0]) / (marks[-1] - marks[0])

    parts = [Markup('<svg class="plot" viewBox="0 0 {} {}">').format(WIDTH, HEIGHT)]
    for mark in marks:
        parts += [line("grid", LEFT, y_of(mark), WIDTH - RIGHT, y_of(mark))]
        parts += [label("tick end", LEFT - 6, y_of(mark) + 4, f"{mark:g}")]
    for at in (start, end):
        parts.append(
            label(
                "tick middle", min(max(x_of(at), 40), WIDTH - 30), HEIGHT - 6, f"{datetime.fromtimestamp(at):%H:%M:%S}"
            )
        )
    parts.append(label("tick end", WIDTH - RIGHT, TOP + 4, defaults["unit"]))
    for place, one in enumerate(lines):
        path = " ".join(f"{'M' if not n else 'L'}{x_of(at):.1f} {y_of(value):.1f}" for n, (at, value) in enumerate(one))
        parts.append(Markup('<path class="s{}" d="{}"/>').format(place % 7 + 1, path))
    return Markup("").join([*parts, Markup("</svg>")])


async def traffic(one: Watched, seconds: float) -> None:
    """Clients of several kinds, some of whom are refused."""
    until = time.monotonic() + seconds
    draw = random.Random(7)  # noqa: S311

    async def client() -> None:
        while time.monotonic() < until:
            prompt = "some words of a prompt " * draw.randint(1, 9) + ("fail" if draw.random() < 0.02 else "")
            streamed = {"stream": True, "stream_options": {"include_usage": True}} if draw.random() < 0.7 else {}
            model = "another" if draw.random() < 0.01 else "demo"
            await one.ask(prompt, chat=draw.random() < 0.5, user=str(draw.randint(0, 99)), model=model, **streamed)
            await asyncio.sleep(draw.expovariate(6))

    await asyncio.gather(*(client() for _ in range(6)))


async def made_up(seconds: float, out: Path) -> None:
    """Make the traffic, then draw what Prometheus saw of it."""
    with tempfile.TemporaryDirectory(prefix="dashboard-") as name:
        folder = Path(name)
        async with watched_gateway(folder, Timed(0.08, 0.02), Timed(0.05, 0.012, "five"), share=0.2) as one:
            with prometheus(folder, one.base.removeprefix("http://"), ALERTS) as server:
                start = time.time()
                one.gateway.standing.followed(ramped(0.2, 1, pairs=100))
                await traffic(one, seconds / 2)
                one.gateway.standing.followed(ramped(0.2, 1, "pass", pairs=900))
                await traffic(one, seconds / 2)
                await asyncio.to_thread(draw, server, start, time.time(), out)


def draw(server: Prometheus, start: float, end: float, out: Path) -> None:
    """Write the page."""
    told = dashboard()
    panels = [drawn(server, panel, start, end) for panel in told["panels"]]
    alerts = [rule["name"] for rule in server.rules() if rule["state"] != "inactive"]
    page = page_environment().from_string(PAGE)
    out.write_text(page.render(title=told["title"], description=told["description"], panels=panels))
    empty = [panel["title"] for panel in panels if not panel["row"] and not panel["names"]]
    print(
        f"{out}: {len(panels)} panels, without data: {', '.join(empty) or 'none'};"
        f" alerts pending or firing: {', '.join(alerts) or 'none'}"
    )


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--out", type=Path, default=Path("dashboard.html"))
    parser.add_argument("--prometheus", metavar="URL", help="draw what this one has seen")
    args = parser.parse_args()
    if args.prometheus:
        draw(Prometheus(args.prometheus.rstrip("/")), time.time() - args.seconds, time.time(), args.out)
    else:
        asyncio.run(made_up(args.seconds, args.out))


if __name__ == "__main__":
    main()
