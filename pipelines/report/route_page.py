"""Writes the page of a route: a curve for each method, with its numbers; from the record alone."""

from pathlib import Path

from evals.judging.route_words import interval_text, points_text
from pipelines.report.page import page_environment
from pipelines.report.route_plot import route_plot
from pipelines.report.route_table import QUALITIES, chosen_text, flips_text, gap_text
from registry.contracts import RouteRecord
from registry.files import make_way, write_text_atomically


def write_route_page(record: RouteRecord, path: Path) -> None:
    """Render `record` and write it, atomically."""
    page = page_environment().get_template("page_route.html")
    text = page.render(
        record=record,
        quality=QUALITIES[record.quality],
        chosen=chosen_text(record),
        plots={one.kind: route_plot(one, record.loss) for one in record.outcomes},
        points=points_text,
        interval=interval_text,
        flips=flips_text,
        gap=gap_text,
    )
    make_way(path)
    write_text_atomically(path, text)
