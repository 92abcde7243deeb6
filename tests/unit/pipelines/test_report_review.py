"""A run's report begins with its review: one file, one script by its hash, static parts for readers without one."""

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest

from evals.judging.characterize import MOST_FLIPS
from pipelines.review.page import FOLDER, SCRIPTS
from pipelines.review.page_data import PageData
from pipelines.review.report_page import PAGE_FILE, data_of_run, render_report, write_page
from tests.review_of_run import decided_record
from tests.unit.pipelines.loss_records import SUITE, flip
from tests.unit.pipelines.report_records import HOSTILE, WRITTEN


def without_noscript(page: str) -> str:
    return re.sub(r"<noscript>.*?</noscript>", "", page, flags=re.S)


def test_the_script_runs_by_its_hash_and_nothing_is_loaded(tmp_path: Path) -> None:
    page = render_report(decided_record(tmp_path), SUITE, WRITTEN)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy and f"&#39;sha256-{digest}&#39;" in policy[1]
    assert "connect-src &#39;none&#39;" in policy[1] and "default-src &#39;none&#39;" in policy[1]
    markup = page.replace(script, "")
    assert not re.search(r"<(?:link|img|iframe)|<script src|@import|url\(", markup)


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_text_of_a_script_goes_over_lines(name: str) -> None:
    """Pages get its lines without what stands before them."""
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if line.count("`") % 2 or "/*" in line]


def test_what_the_review_shows_stands_once(tmp_path: Path) -> None:
    page = render_report(decided_record(tmp_path), SUITE, WRITTEN)
    shown = without_noscript(page)
    assert page.count("Quality against speed") == 1 and "Quality against speed" not in shown
    assert "Worst flips of" in page and "Worst flips of" not in shown
    assert 'class="recommended' in page and 'class="recommended' not in shown
    assert 'class="plot forest"' in shown and "In a sentence each" in shown


def test_its_data_are_the_runs_and_end_in_no_name(tmp_path: Path) -> None:
    record = decided_record(tmp_path, config={"name": f"{HOSTILE}</script><!--", "description": ""})
    page = render_report(record, SUITE, WRITTEN)
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.S)
    assert "<" not in data and ">" not in data and "&" not in data
    told = json.loads(data)
    assert PageData.model_validate(told).runs == data_of_run(record, WRITTEN).runs
    assert told["shown"] == record.run_id and list(told["details"]) == [record.run_id]
    assert told["runs"]["recipe"] == [f"{HOSTILE}</script><!--"]


@pytest.mark.parametrize("letter", ["p", "<", "\u2028"])
def test_a_run_of_twenty_thousand_samples_is_a_small_file(tmp_path: Path, letter: str) -> None:
    """Samples are counted in categories, and so many of the worst are there to be read, as long as they may be."""
    record = decided_record(tmp_path)
    texts = (letter * characters for characters in (700, 300, 300, 300))
    long = [flip("arithmetic", "free text", *texts, -1.25)] * MOST_FLIPS
    rows = []
    for row in record.rows:
        changes: dict[str, object] = {}
        if row.characterization and row.retention:
            many = [
                kept.model_copy(update={"category": f"{kept.category} {number}", "items": 20_000})
                for number in range(10)
                for kept in row.retention.categories
            ]
            changes["retention"] = row.retention.model_copy(update={"categories": many})
            changes["characterization"] = row.characterization.model_copy(update={"flips": long})
        rows.append(row.model_copy(update=changes))
    path = write_page(record.model_copy(update={"rows": rows}), SUITE)
    assert path == tmp_path / PAGE_FILE
    assert path.stat().st_size < 5_000_000
