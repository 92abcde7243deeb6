"""Draws `PageData` as one HTML file: data, script and style lie in it, and it asks for nothing from anywhere."""

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from pipelines.report.page import TEMPLATES, ScriptedPart, page_environment
from pipelines.review.page_data import PageData
from pipelines.review.short_json import short_json

FOLDER = Path(__file__).parent / "page"
SCRIPTS = (
    "state.js",
    "data.js",
    "dom.js",
    "quantities.js",
    "plots.js",
    "runs.js",
    "run.js",
    "pareto.js",
    "heatmap.js",
    "flips.js",
    "curves.js",
    "compare.js",
    "trend.js",
    "history.js",
    "decide.js",
    "app.js",
)
"""One script in this order; a view registers itself in `views`, and `app.js`, which begins to draw, comes last."""


def render(data: PageData, *, live: bool = False) -> str:
    """The review page.

    Args:
        live: It is served beside `data.json` and asks for that again and again; a file asks for nothing.
    """
    return (
        _environment()
        .get_template("review.html")
        .render(
            part=render_part(data, live=live),
            where=data.where,
            written=data.written_at.strftime("%Y-%m-%d %H:%M UTC"),
            live=live,
        )
    )


def render_part(data: PageData, *, live: bool = False, report: bool = False) -> ScriptedPart:
    """The part of a page that shows `data`; a page has one.

    Args:
        report: The page is the report of a run, which tells the rest below.
    """
    script = "\n".join(["", '"use strict";', *map(_lines_of, SCRIPTS), ""])
    html = (
        _environment()
        .get_template("review_part.html")
        .render(
            data=short_json(data),
            script=script,
            style=(FOLDER / "review.css").read_text(encoding="utf-8"),
            live=live,
            report=report,
        )
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    connect = "'self'" if live else "'none'"
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; connect-src {connect};"
        " base-uri 'none'; form-action 'none'"
    )
    return ScriptedPart(Markup(html), policy)  # noqa: S704 - the template escaped what is no part of the page itself


def _lines_of(script: str) -> str:
    """Its lines without what only their readers need: a tenth of a run's report. No text in them goes over lines."""
    lines = (line.strip() for line in (FOLDER / script).read_text(encoding="utf-8").splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("//"))


def _environment() -> Environment:
    return page_environment().overlay(loader=FileSystemLoader([FOLDER, TEMPLATES]))
