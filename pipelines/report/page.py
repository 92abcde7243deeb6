"""Draws a run as HTML: one file that opens offline, prints, and loads nothing from anywhere."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, get_args

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from evals.suites.suite import Suite
from pipelines.records.events import PartKind
from pipelines.records.model_cost import Pricing, pricing_of
from pipelines.records.rows import ServedModel
from pipelines.records.run_record import RunRecord
from pipelines.report.cost import cost_part, joules_text, point_cost_text
from pipelines.report.curve import latency_curves, undrawn
from pipelines.report.dtype_cost import dtype_costs
from pipelines.report.forest import forest_plot
from pipelines.report.judged import drop_text, judged
from pipelines.report.load import (
    conditions,
    conditions_text,
    doubt,
    load_text,
    milliseconds,
    not_run,
    prompt_mixes,
    slo_of,
    slo_text,
)
from pipelines.report.machine_limits import limit_lines
from pipelines.report.memory_split import MEMORY_COLUMNS, budgets_differ, memory_lines, room_gained
from pipelines.report.plot import quality_speed_plot
from pipelines.report.spread import of_these_bytes_only, spreads
from pipelines.report.summary import blame_text, failed, names, reused_text, sentences, timed_stages
from pipelines.report.svg import series
from pipelines.report.table import (
    NOTHING_TO_KEEP,
    OUTCOME_TONES,
    UNKNOWN,
    VERDICT_TONES,
    bounds_text,
    build_table,
    mebibytes,
    printable,
    tone_of,
    with_stderr,
)
from quantizers.precision.telling import told_precision
from registry.contracts import CalibrationRecord, StageResult
from registry.numerals import significant
from serving_checks.readings.bounds import decode_share, prefill_share

PAGE_FILE = "report.html"
TEMPLATES = Path(__file__).parent
LOWEST_MODULES = 5
"""So many of an artifact's least faithful modules are listed."""


class ScriptedPart(NamedTuple):
    """A part of a page that its script draws; where none runs, static parts stand in for it."""

    html: Markup
    """Style, the place that is drawn into, data and script."""
    policy: str
    """Content-Security-Policy of the page that holds it: this very script runs and no other."""


def render_page(record: RunRecord, suite: Suite, written: datetime, review: ScriptedPart | None = None) -> str:
    """The page as HTML. All text from outside is escaped, control characters are dropped.

    Args:
        review: Stands on top of the page.
    """
    stages, pricing = timed_stages(record), pricing_of(record.config)
    return (
        page_environment()
        .get_template("page.html")
        .render(
            record=record,
            suite=suite,
            review=review,
            written=written.strftime("%Y-%m-%d %H:%M %Z"),
            checkpoint=record.rows[0].checkpoint,
            table=build_table(record.rows, suite, pricing),
            plot=quality_speed_plot(record.rows),
            forest=forest_plot(record.rows),
            dtype_costs=dtype_costs(record.rows),
            spreads=spreads(record.rows),
            of_these_bytes_only=of_these_bytes_only(record.rows),
            judged=judged,
            drop_text=drop_text,
            interval=bounds_text,
            verdict_tones=VERDICT_TONES,
            sentences=sentences(record.rows),
            failures=failed(record),
            blame_text=blame_text,
            skipped=names(record.outcomes, "skipped"),
            reused=reused_text(record.outcomes),
            calibration=_calibration(record),
            stages=stages,
            part_kinds=get_args(PartKind),
            longest_seconds=max((stage.seconds for stage in stages), default=0.0),
            results={outcome.name: outcome.result for outcome in record.outcomes},
            lowest_correlations=_lowest_correlations,
            versions=_versions,
            nothing_to_keep=NOTHING_TO_KEEP,
            unknown=UNKNOWN,
            tone_of=tone_of,
            with_stderr=with_stderr,
            files_place="in the measurement's object",
            **serving_parts(record.rows, pricing),
        )
    )


def page_environment() -> Environment:
    """Where the templates of this folder are rendered: text from outside is escaped, what is missing is an error."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalized,
    )
    environment.filters |= {
        "mib": mebibytes,
        "digest": _short_digest,
        "picked": _picked,
        "milliseconds": milliseconds,
        "significant": significant,
        "known": _known,
    }
    return environment


def serving_parts(rows: Sequence[ServedModel], pricing: Pricing | None) -> dict[str, Any]:
    """What the parts on speed, cost, memory and checks are made of (`page_serving.html`, `page_server.html`)."""
    return {
        "curves": [(prompts, latency_curves(rows, prompts), undrawn(rows, prompts)) for prompts in prompt_mixes(rows)],
        "slo": slo_of(rows),
        "slo_text": slo_text,
        "conditions": conditions(rows),
        "conditions_text": conditions_text,
        "decode_share": decode_share,
        "prefill_share": prefill_share,
        "limit_lines": limit_lines,
        "doubt": doubt,
        "load_text": load_text,
        "told_precision": told_precision,
        "milliseconds": milliseconds,
        "significant": significant,
        "costs": cost_part(rows, pricing),
        "point_cost": lambda serving, point: point_cost_text(serving, point, pricing),
        "point_joules": joules_text,
        "memory_columns": MEMORY_COLUMNS,
        "memory_lines": memory_lines(rows),
        "budgets_differ": budgets_differ(rows),
        "room": room_gained(rows),
        "not_run": not_run(rows),
        "series": series,
        "outcome_tones": OUTCOME_TONES,
    }


def _finalized(value: Any) -> Any:
    # Markup is a str too and is returned as it is: it was made of escaped parts.
    return printable(value) if type(value) is str else value


def _calibration(record: RunRecord) -> CalibrationRecord | None:
    results = [one.result for one in record.outcomes if one.name == "calibrate" and one.result.failure is None]
    return CalibrationRecord.model_validate(results[0].record) if results else None


def _lowest_correlations(correlations: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(correlations.items(), key=lambda item: item[1])[:LOWEST_MODULES]


def _versions(results: dict[str, StageResult], name: str) -> dict[str, str]:
    """Library -> version over the stages of one model."""
    found: dict[str, str] = {}
    for kind in ("quantize", "inspect", "measure"):
        if f"{kind}:{name}" in results:
            found |= results[f"{kind}:{name}"].versions
    return dict(sorted(found.items()))


def _known(value: float | None, digits: int, stderr: float | None = None) -> str:
    return UNKNOWN if value is None else with_stderr(value, stderr, digits)


def _picked(indices: list[int], values: list[Any]) -> list[Any]:
    return [values[index] for index in indices]


def _short_digest(digest: str | None) -> str:
    return digest.removeprefix("sha256:")[:12] if digest else "none"
