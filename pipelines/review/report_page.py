"""Writes a run's `report.html`: the review of that one run on top, and below it all that was found, as it prints.

One file that opens offline and loads nothing from anywhere. Without a script the static parts stand in for the review.
"""

from datetime import UTC, datetime
from pathlib import Path

from evals.suites.suite import Suite
from pipelines.records.run_record import RunRecord
from pipelines.report.page import PAGE_FILE, render_page
from pipelines.review.costs import price_shown, run_pricing
from pipelines.review.one_run import category_cells, category_columns, columns, model_rows, run_detail, run_row
from pipelines.review.page import render_part
from pipelines.review.page_data import Models, PageData, Runs
from registry.files import write_text_atomically


def write_page(record: RunRecord, suite: Suite) -> Path:
    """Render `record` and write it into the run's folder, atomically.

    Returns:
        The page's path.
    """
    path = record.run_dir / PAGE_FILE
    write_text_atomically(path, render_report(record, suite, datetime.now().astimezone()))
    return path


def render_report(record: RunRecord, suite: Suite, written: datetime) -> str:
    """The page as HTML."""
    return render_page(record, suite, written, render_part(data_of_run(record, written), report=True))


def data_of_run(record: RunRecord, written: datetime) -> PageData:
    """A review of one run by itself: nothing is compared with what came before."""
    pricing, notices = run_pricing(record.run_id, record.config)
    return PageData(
        written_at=written.astimezone(UTC),
        where=str(record.run_dir),
        shown=record.run_id,
        notices=notices,
        runs=columns(Runs, [run_row(record)]),
        models=columns(Models, model_rows(record, pricing=pricing)),
        categories=category_columns(category_cells(record)),
        details={record.run_id: run_detail(record)},
        prices=[price_shown(pricing)],
    )
