"""The view of one run in a real browser, by itself and on top of the run's report."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from pipelines.records.rows import lowest_category
from pipelines.records.run_record import RunRecord
from pipelines.review.page import render
from pipelines.review.page_data import PageData
from pipelines.review.report_page import data_of_run, render_report
from tests.chromium import Heard, chromium
from tests.review_of_run import WORSE, decided_record, reviewed
from tests.unit.pipelines.loss_records import SUITE, flip, numbers_of
from tests.unit.pipelines.report_records import HOSTILE, WRITTEN, report_record
from tests.unit.pipelines.serving_records import SPEEDS

pytestmark = pytest.mark.service

_ABROAD = "document.documentElement.scrollWidth - innerWidth"
_PARETO, _CURVES = "svg[aria-label^='Quality against']", "svg[aria-label*=', ms against output']"
_STATIC_PLOT = "svg[aria-label='What was kept in the lowest category against output tokens per second']"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as one:
        yield one


class Shown:
    """A page as a reader has it; at its end it has to have been quiet."""

    def __init__(self, browser: Browser, html: str, folder: Path, fragment: str = "", **context: object) -> None:
        file = folder / "page.html"
        file.write_text(html, encoding="utf-8")
        options: dict[str, object] = {"viewport": {"width": 1400, "height": 900}} | context
        self.page: Page = browser.new_context(**options).new_page()  # type: ignore[arg-type]
        self.heard = Heard(self.page)
        self.page.goto(f"{file.as_uri()}#{fragment}")

    def __enter__(self) -> Page:
        return self.page

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.page.context.close()
        if kind is None:
            assert self.heard.complaints == []
            assert len({url.partition("#")[0] for url in self.heard.requests}) == 1, "it asks for nothing but itself"


def cells(page: Page, table: str) -> list[list[str]]:
    """The texts of a table's body."""
    found: list[list[str]] = page.eval_on_selector_all(
        f"{table} tbody tr", "rows => rows.map(row => [...row.cells].map(cell => cell.textContent.trim()))"
    )
    return found


def with_model_named(record: RunRecord, name: str) -> RunRecord:
    rows = list(record.rows)
    rows[3] = rows[3].model_copy(update={"name": name})
    return record.model_copy(update={"rows": rows})


def test_it_says_which_to_take_why_and_what_became_worse(browser: Browser, tmp_path: Path) -> None:
    with Shown(browser, render(reviewed(tmp_path)), tmp_path) as page:
        text = page.inner_text("#review main")
        assert "Recommended: take int8, the most accurate" in text
        assert "Next: quantbench registry approve int8" in text
        assert "int8: surely keeps 0.870 in arithmetic · 92 output tokens/s, 43 % of the machine's limit" in text
        assert "262 MiB of weights in memory · 4.1 USD per 1M tokens MADE UP" in text
        assert "nf4 fail\nquality: scores 12.4 points lower in arithmetic" in text
        assert "gptq inconclusive\nload at 8: the load test is not to be believed" in text
        assert f"▼ worse int8 {WORSE}" in text and "1 not surely different." in text
        assert "awq failed inspect:awq" in text
        assert text.index("Recommended") < text.index("became worse") < text.index("Quality against what it costs")


def test_the_numbers_are_the_records(browser: Browser, tmp_path: Path) -> None:
    record = decided_record(tmp_path)
    with Shown(browser, render(reviewed(tmp_path)), tmp_path) as page:
        numbers = {row[0].split("★")[0].removesuffix("unquantized"): row for row in cells(page, ".main")}
        gptq = next(row for name, row in numbers.items() if name.startswith("gptq"))
        assert gptq[4] == f"{SPEEDS['gptq'][-1]:.0f}70 % of the machine's limit"
        assert gptq[7:9] == ["139", "109"]
        assert gptq[9] == "3.1 USDMADE UP"
        point = record.rows[3].closed_point(32)
        assert point and gptq[5] == f"{1000 * point.ttft.p95_seconds:.0f}"
        lowest = lowest_category(record.rows[3])
        assert lowest and gptq[3].startswith(f"arithmetic {lowest.kept:.3f}{lowest.kept_low:.3f} to")
        assert "MADE UP price: 0.085 USD an hour for c6i.large" in page.inner_text("#review main")
        heat = {row[0]: row[1:] for row in cells(page, ".heatmap")}
        assert page.locator(".heatmap thead th").all_inner_texts()[1].startswith("int8")
        for column, row in enumerate(record.rows[1:4]):
            for kept in row.retention.categories if row.retention else []:
                assert heat[kept.category][column].split()[0] == f"{kept.kept:.3f}"
        least: dict[str, float] = {}
        for kept in (kept for row in record.rows[1:4] if row.retention for kept in row.retention.categories):
            low = kept.kept if kept.kept_low is None else kept.kept_low
            assert low is not None
            least[kept.category] = min(low, least.get(kept.category, low))
        assert [least[name] for name in heat] == sorted(least.values()), "the worst first"
        amounts = {row[0]: row[1:] for row in cells(page, ".amounts")}
        assert amounts["gptq"] == ["139 MiB", "109 MiB", "2,409 MiB", "46,603 tokens"]
        assert amounts["nf4"][0] == "–" and "the engine's worker did not answer" in page.inner_text("#review main")
        page.click("text=The same as a table")
        front = {row[0]: row[1:] for row in cells(page, "#pareto-table")}
        assert lowest.kept_low is not None and front["gptq"][1] == f"{lowest.kept_low:.3f}"
        assert front["nf4"][-1] == "no: int8 is as good in both" and front["int8"][-1] == "yes"


def test_axes_are_chosen_and_a_reload_keeps_them(browser: Browser, tmp_path: Path) -> None:
    with Shown(browser, render(reviewed(tmp_path)), tmp_path) as page:
        assert page.get_attribute(_PARETO, "aria-label") == "Quality against output tokens/s"
        names = page.eval_on_selector_all(f"{_PARETO} .mark", "all => all.map(one => one.getAttribute('aria-label'))")
        assert [name.split(":")[0] for name in names] == ["baseline, the baseline", "int8", "nf4", "gptq"]
        assert names[1].endswith("; recommended") and "95 % interval 0.870 to 1.030" in names[1]
        assert page.locator(f"{_PARETO} .error").count() == 3
        page.select_option("#x", "weights_bytes")
        page.select_option("#y", "knowledge")
        page.select_option("#latency", "tpot")
        for _ in range(2):
            assert page.get_attribute(_PARETO, "aria-label") == "Quality against resident weights, MiB"
            assert page.locator(f"{_PARETO} .mark").count() == 3, "of nf4 nobody told the resident weights"
            assert "since a number is missing: nf4, awq" in page.inner_text("#review main")
            assert "in knowledge, 95 %" in str(page.get_attribute(f"{_PARETO} .s1.mark", "aria-label"))
            assert page.get_attribute(_CURVES, "aria-label") == "p95 TPOT, ms against output tokens/s"
            page.reload()
        page.select_option("#x", "cost_per_million")
        assert page.get_attribute(_PARETO, "aria-label") == "Quality against cost per 1M tokens, USD, MADE UP"
        assert "cost 4.1 USD per 1M tokens, MADE UP" in str(page.get_attribute(f"{_PARETO} .s1.mark", "aria-label"))
        page.click("text=The same as a table")
        page.select_option("#x", "disk_bytes")
        assert page.is_visible("#pareto-table"), "what was unfolded stays so"


def test_curves_show_each_load_and_doubt(browser: Browser, tmp_path: Path) -> None:
    with Shown(browser, render(reviewed(tmp_path)), tmp_path) as page:
        names = page.eval_on_selector_all(f"{_CURVES} .mark", "all => all.map(one => one.getAttribute('aria-label'))")
        assert len(names) == 4 * 7 - 1, "each level and rate of the first mix, but that without a completed request"
        assert any(name.startswith("nf4, 2/s arriving") and "saturated" in name for name in names)
        assert any(name.startswith("int8, 8 at a time") and "the client counted" in name for name in names)
        assert page.locator(f"{_CURVES} .hollow").count() == 2
        assert "SLO 1,000 ms" in (page.text_content(_CURVES) or "")
        page.select_option("#prompts", "long")
        assert page.locator(f"{_CURVES} .mark").count() == 4 * 4


def test_a_cell_opens_by_mouse_and_by_keyboard(browser: Browser, tmp_path: Path) -> None:
    with Shown(browser, render(reviewed(tmp_path)), tmp_path) as page:
        gptq = page.locator(".heatmap button[aria-label^='gptq, arithmetic']")
        gptq.click()
        told = page.inner_text("#cell")
        assert "fail: Scores 5.3 points lower" in told
        assert "0.810 (95 %: 0.730 to 0.890)" in told and "9 turned wrong, 4 turned right" in told
        assert page.locator("#cell mark").all_inner_texts() == ["15", "16"]
        page.keyboard.press("Enter")
        assert page.inner_text("#cell") == "", "the focus is still there, and Enter closes"
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Space")
        assert page.get_attribute(":focus", "aria-expanded") == "true"
        assert page.inner_text("#cell h3") == "nf4, arithmetic"
        page.reload()
        assert page.inner_text("#cell h3") == "nf4, arithmetic"
        page.go_back()
        assert page.inner_text("#cell") == ""
        page.focus("#y")
        page.keyboard.press("Tab")
        assert str(page.get_attribute(":focus", "aria-label")).startswith("baseline, the baseline")


def test_answers_stand_side_by_side_with_what_differs_marked(browser: Browser, tmp_path: Path) -> None:
    record = decided_record(tmp_path)
    rows = list(record.rows)
    found = rows[3].characterization
    assert found is not None
    pairs = [("The old cat sat, alone.", "The old dog sat alone."), ("gleich", "gleich"), ("", "more")]
    flips = [flip("arithmetic", "free text", "", "x", one, other, None) for one, other in pairs]
    rows[3] = rows[3].model_copy(update={"characterization": found.model_copy(update={"flips": flips})})
    html = render(data_of_run(record.model_copy(update={"rows": rows}), WRITTEN))
    with Shown(browser, html, tmp_path, "model=gptq&category=arithmetic") as page:
        answers = page.eval_on_selector_all(
            "#cell .answers .answer",
            "all => all.map(one => [one.textContent, [...one.querySelectorAll('mark')].map(mark => mark.textContent)])",
        )
        assert answers == [
            ["The old cat sat, alone.", ["cat", ","]],
            ["The old dog sat alone.", ["dog"]],
            ["gleich", []],
            ["gleich", []],
            ["(nothing)", []],
            ["more", ["more"]],
        ]


def test_names_are_text(browser: Browser, tmp_path: Path) -> None:
    hostile = with_model_named(
        decided_record(tmp_path, config={"name": HOSTILE, "description": HOSTILE}), f"{HOSTILE}\u202e</script>"
    )
    for html in (render(data_of_run(hostile, WRITTEN)), render_report(hostile, SUITE, WRITTEN)):
        with Shown(browser, html, tmp_path) as page:
            assert page.locator("script[src]").count() == 0 and page.locator("#review script").count() == 0
            assert "<script src=" in page.inner_text("#review main")
            assert "\u202e" not in page.inner_text("#review main"), "no name turns the text around"


def test_ten_thousand_categories_are_sixty_and_a_number(browser: Browser, tmp_path: Path) -> None:
    record = decided_record(tmp_path)
    rows = list(record.rows)
    template = numbers_of("int8", SUITE.categories[0])
    retention = rows[1].retention
    assert retention is not None
    many = [
        template.model_copy(update={"category": f"part {number}", "chance": None, "retention_low": 1 - number / 2e4})
        for number in range(10_000)
    ]
    rows[1] = rows[1].model_copy(update={"retention": retention.model_copy(update={"categories": many})})
    with Shown(browser, render(data_of_run(record.model_copy(update={"rows": rows}), WRITTEN)), tmp_path) as page:
        assert page.locator(".heatmap tbody tr").count() == 60
        assert "9,940 more categories" in page.inner_text("#review main")


def test_a_run_without_measurements_says_what_is_missing(browser: Browser, tmp_path: Path) -> None:
    record = report_record(tmp_path)
    bare = [
        row.model_copy(update=dict.fromkeys(("measurement", "retention", "characterization", "token_agreement")))
        for row in record.rows
    ]
    html = render(data_of_run(record.model_copy(update={"rows": bare}), WRITTEN))
    with Shown(browser, html, tmp_path) as page:
        text = page.inner_text("#review main")
        for told in (
            "This run has no recommendation",
            "No artifact was compared with the baseline",
            "No load test was run",
            "there is no accepted version",
        ):
            assert told in text
        assert page.locator("svg").count() == 0 and "Fewer than two models" in text


def test_a_run_that_is_not_here_is_told(browser: Browser, tmp_path: Path) -> None:
    data: PageData = reviewed(tmp_path)
    with Shown(browser, render(data), tmp_path, "view=run&run=other") as page:
        assert "There is no run other here" in page.inner_text("#review main")
    with Shown(browser, render(data.model_copy(update={"details": {}})), tmp_path) as page:
        text = page.inner_text("#review main")
        assert "this one does not" in text and "0.950" in text, "what the columns have is shown"


@pytest.mark.parametrize("width", [360, 900, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_each_width_by_day_and_by_night(browser: Browser, tmp_path: Path, width: int, scheme: str) -> None:
    shown = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
    pages = [
        (render(reviewed(tmp_path)), "model=gptq&category=arithmetic"),
        (render_report(decided_record(tmp_path), SUITE, WRITTEN), ""),
    ]
    for html, fragment in pages:
        with Shown(browser, html, tmp_path, fragment, **shown) as page:
            assert page.evaluate(_ABROAD) <= 0
            # What a view leaves out is nothing, and not the word for it.
            words = page.inner_text("#review").split()
            assert not {"null", "undefined", "false", "NaN"} & set(words)
            box = page.locator(_PARETO).bounding_box()
            assert box and box["width"] <= width
            sizes = page.eval_on_selector_all(
                f"{_PARETO} text", "all => all.map(one => one.getBoundingClientRect().height)"
            )
            assert min(sizes) > 10, "as large as the words around them"


def test_by_night_it_prints_as_by_day(browser: Browser, tmp_path: Path) -> None:
    ink = "getComputedStyle(document.body).color"
    with Shown(browser, render(reviewed(tmp_path)), tmp_path, color_scheme="dark") as page:
        by_night = page.evaluate(ink)
        page.emulate_media(media="print", color_scheme="dark")
        printed = page.evaluate(ink)
        page.emulate_media(media="screen", color_scheme="light")
        assert printed == page.evaluate(ink) != by_night


def test_a_report_shows_each_plot_once(browser: Browser, tmp_path: Path) -> None:
    html = render_report(decided_record(tmp_path), SUITE, WRITTEN)
    with Shown(browser, html, tmp_path) as page:
        assert page.locator(_PARETO).count() == 1 and page.locator(_STATIC_PLOT).count() == 0
        assert page.locator("svg.forest").count() == 1
        assert page.locator("p.recommended").count() == 1
        assert page.locator("text=Worst flips of gptq").count() == 0
        assert page.locator(".flip").count() == 3 * 3
        assert page.locator("h1").count() == 1 and page.title() == "smollm2-135m-demo · Quantbench"
        page.emulate_media(media="print")
        assert page.is_visible(_PARETO) and not page.is_visible("#x")
        assert page.locator(".flip").first.is_visible(), "what is folded on the screen is printed"
    with Shown(browser, html, tmp_path, java_script_enabled=False) as page:
        assert page.locator(_PARETO).count() == 0 and page.is_visible(_STATIC_PLOT)
        assert page.is_visible("p.recommended") and page.locator("noscript .flip").count() == 3 * 3
