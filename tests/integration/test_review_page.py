"""The review page in a real browser, opened as a file."""

import json
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from pipelines.review.page import render
from pipelines.review.page_data import Deciding, Models, Notice, PageData, Runs
from tests.chromium import Heard, chromium
from tests.made_up_review import review

pytestmark = pytest.mark.service

VIEWS = ("runs", "trend", "history", "compare", "decide")
DECIDING = Deciding(actions=["approve", "promote", "rollback"], aliases=["champion"], csrf_token="once")  # noqa: S106
HOSTILE = "</script><img src=x onerror=alert(1)>\u2028'\"&amp;"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as one:
        yield one


class Opened:
    """The page of some data, as a reader has it."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.heard = page, Heard(page)
        page.goto(address)

    def rows(self, table: str = ".runs") -> list[str]:
        return self.page.locator(f"{table} tbody tr").all_inner_texts()

    def is_quiet(self) -> None:
        """It complained of nothing, asked for nothing but itself, and is no wider than the window."""
        assert self.heard.complaints == []
        assert len({url.split("#")[0] for url in self.heard.requests}) == 1
        width = (self.page.viewport_size or {})["width"]
        assert self.page.evaluate("document.documentElement.scrollWidth") <= width


Open = Callable[..., Opened]


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Open]:
    pages: list[Page] = []

    def of(data: PageData, fragment: str = "", width: int = 1400, **asked: Any) -> Opened:
        file = tmp_path / "review.html"
        file.write_text(render(data), encoding="utf-8")
        pages.append(browser.new_page(viewport={"width": width, "height": 900}, **asked))
        return Opened(pages[-1], f"{file.as_uri()}#{fragment}")

    yield of
    for page in pages:
        page.close()


def changed(record: Any, **fields: Any) -> Any:
    """Validated anew: what could not come to a page is not tested on one."""
    return type(record).model_validate({**record.model_dump(), **fields})


def empty() -> PageData:
    columns: dict[type, dict[str, list[Any]]] = {
        kind: {name: [] for name in kind.model_fields if name != "schema_version"} for kind in (Runs, Models)
    }
    data = review(1)
    return data.model_copy(
        update={
            "runs": Runs.model_validate(columns[Runs]),
            "models": Models.model_validate(columns[Models]),
            "categories": [],
            "details": {},
            "regressions": [],
            "aliases": [],
            "shadow": [],
            "prices": [],
            "notices": [],
        }
    )


def picked_of(data: PageData) -> str:
    """Four models of the newest run, for a comparison."""
    return "".join(f"&pick={data.runs.id[0]}/{data.models.name[place]}" for place in (1, 2, 3, 4))


def renamed(data: PageData, name: str) -> PageData:
    """The same with `name` wherever a user may write one."""
    count, runs = len(data.models.name), len(data.runs.id)
    return data.model_copy(
        update={
            "where": name,
            "notices": [Notice(about=name, text=name)],
            "models": changed(
                data.models, name=[f"{name}{number}" for number in range(count)], worst_category=[name] * count
            ),
            "runs": changed(data.runs, recipe=[name] * runs, series=[name] * runs, machine=[name] * runs),
            "categories": [changed(one, name=f"{name}{place}") for place, one in enumerate(data.categories)],
            "details": {},
            "aliases": [changed(one, who=name, why=name) for one in data.aliases],
            "shadow": [changed(one, name=name, reason=name) for one in data.shadow],
            "deciding": Deciding(actions=["promote"], aliases=[name], csrf_token=name),
        }
    )


def test_numbers_on_the_page_are_those_of_the_data(opened: Open) -> None:
    data = review(6)
    one = opened(data, "view=runs")
    assert len(one.rows()) == len(data.models.name) == 30
    for place, text in enumerate(one.rows()):
        assert data.models.name[place] in text
        assert (data.models.policy[place] or data.models.verdict[place] or "–") in text
        if (speed := data.models.tokens_per_second[place]) is not None:
            assert f"{float(f'{speed:.3g}'):,g}" in text
        for kept in (data.models.kept[place], data.models.kept_low[place], data.models.kept_high[place]):
            assert kept is None or f"{kept:.3f}" in text
        assert f"{data.models.disk_bytes[place] / 2**20:,.0f}" in text  # type: ignore[operator]
        assert ("recommended" in text) == (place in data.runs.recommended)
        if data.models.cost_per_million[place] is not None:
            assert "MADE UP" in text
    assert "did not answer within 5 s" in one.page.inner_text("#notices")
    one.is_quiet()


def test_filters_and_sorting_leave_what_was_asked_for_and_survive_a_reload(opened: Open) -> None:
    data = review(30)
    one = opened(data, "view=runs")
    one.page.select_option("#method", "gptq")
    assert len(one.rows()) == 30
    one.page.fill("#text", "SWEEP")
    assert len(one.rows()) == 10
    one.page.fill("#since", "2026-01-20")
    later = [
        started for started, recipe in zip(data.runs.started_at, data.runs.recipe, strict=True) if "sweep" in recipe
    ]
    assert len(one.rows()) == len([at for at in later if f"{at:%Y-%m-%d}" >= "2026-01-20"]) > 0
    assert one.page.evaluate("document.activeElement.id") == "since", "a redraw leaves the focus where it was"
    for sort in ("tokens_per_second", "kept_low", "cost_per_million", "name", "worse"):
        one.page.click(f"#sort-{sort}")
        down = one.rows()
        one.page.click(f"#sort-{sort}")
        assert sorted(one.rows()) == sorted(down)
    one.page.fill("#since", "")
    one.page.fill("#text", "")
    one.page.click("#sort-tokens_per_second")
    speeds = list(zip(data.models.method, data.models.tokens_per_second, strict=True))
    fastest = max(speed for method, speed in speeds if method == "gptq" and speed is not None)
    assert f"{float(f'{fastest:.3g}'):,g}" in one.rows()[0]
    assert "–" in one.rows()[-1], "what is not known comes last"
    before, where = one.rows(), one.page.url
    one.page.reload()
    assert (one.rows(), one.page.url) == (before, where)
    one.page.fill("#text", "no such run")
    expect(one.page.get_by_text("No model passes these filters.")).to_be_visible()
    one.page.get_by_role("link", name="Show all").click()
    assert len(one.rows()) == 100
    one.page.go_back()
    expect(one.page.get_by_text("No model passes these filters.")).to_be_visible()
    one.is_quiet()


def test_a_date_is_typed_digit_by_digit(opened: Open) -> None:
    one = opened(review(30), "view=runs", locale="en-US")
    one.page.focus("#since")
    one.page.keyboard.type("01302026")
    assert one.page.input_value("#since") == "2026-01-30"
    assert len(one.rows()) == 5 * 5
    one.page.go_back()
    one.page.go_forward()
    assert len(one.rows()) == 5 * 5
    one.is_quiet()


def test_pages_of_a_thousand_runs(opened: Open) -> None:
    one = opened(review(1000, details=0), "view=runs")
    assert len(one.rows()) == 100
    expect(one.page.get_by_text("1 to 100 of 5,000 models")).to_be_visible()
    one.page.click("#on")
    expect(one.page.get_by_text("101 to 200 of 5,000 models")).to_be_visible()
    one.page.goto(one.page.url.replace("page=1", "page=777"))
    expect(one.page.get_by_text("4,901 to 5,000 of 5,000 models")).to_be_visible()
    expect(one.page.locator("#on")).to_be_disabled()
    one.is_quiet()


def test_the_keyboard_alone_comes_to_a_comparison(opened: Open) -> None:
    data = review(6)
    one = opened(data, "view=runs")
    for place in (1, 3):
        one.page.focus(f"#pick-{place}")
        one.page.keyboard.press("Space")
        assert one.page.evaluate("document.activeElement.id") == f"pick-{place}"
    one.page.focus("#compare")
    one.page.keyboard.press("Enter")
    names = one.page.locator("table[aria-label=numbers] thead .name").all_inner_texts()
    assert names == [data.models.name[1], data.models.name[3]]
    one.page.go_back()
    assert one.page.is_checked("#pick-1") and one.page.is_checked("#pick-3"), "picked is picked"
    for place in (6, 8):
        one.page.check(f"#pick-{place}")
    expect(one.page.locator("#pick-9")).to_be_disabled()
    one.is_quiet()


def test_a_comparison_shows_every_number_and_only_what_differs(opened: Open) -> None:
    data = review(6)
    one = opened(data, "view=runs")
    for place in (1, 2, 6):
        one.page.check(f"#pick-{place}")
    one.page.click("#compare")
    text = one.page.inner_text("table[aria-label='kept in each category']")
    for column in data.categories:
        for place in (1, 2, 6):
            row = column.model.index(place)
            assert f"{column.kept[row]:.3f}" in text and f"{column.kept_low[row]:.3f} to" in text
    settings = one.page.inner_text("table[aria-label='Settings that differ']")
    assert "group_size" in settings and "bits" not in settings
    versions = one.page.inner_text("table[aria-label='Versions that differ']")
    assert "gptqmodel" in versions and "torch" not in versions
    assert "different machines" in one.page.inner_text("main")
    one.is_quiet()


def test_costs_in_two_currencies_are_not_compared(opened: Open) -> None:
    data = review(6)
    euros = [
        price and price.model_copy(update={"currency": "EUR"} if place == 2 else {})
        for place, price in enumerate(data.prices)
    ]
    keys = [f"&pick={data.runs.id[data.models.run[place]]}/{data.models.name[place]}" for place in (6, 11)]
    one = opened(data.model_copy(update={"prices": euros}), f"view=compare{''.join(keys)}")
    costs = [row for row in one.rows("table[aria-label=numbers]") if row.startswith("cost")]
    assert len(costs) == 2
    for row in costs:
        assert "USD" in row and "EUR" in row and "%" not in row and "×" not in row
    one.is_quiet()


def test_a_model_without_settings_has_none_that_differ(opened: Open) -> None:
    data = review(2)
    keys = [f"&pick={data.runs.id[0]}/{data.models.name[place]}" for place in (0, 1)]
    one = opened(data, f"view=compare{''.join(keys)}")
    names = one.page.locator("table[aria-label='Settings that differ'] tbody th").all_inner_texts()
    assert names == ["bits", "group_size", "method"]


def test_a_comparison_without_details_says_so(opened: Open) -> None:
    one = opened(review(6, details=0), "view=runs")
    one.page.check("#pick-1")
    one.page.check("#pick-2")
    one.page.click("#compare")
    assert one.page.get_by_text("Open its report for them.").count() == 2
    one.is_quiet()


def test_a_trend_draws_each_category_speed_and_memory(opened: Open) -> None:
    data = review(24)
    one = opened(data, "view=trend&of=smollm2 on cpu")
    titles = one.page.locator(".panel figcaption").all_inner_texts()
    assert {f"{column.name}, kept" for column in data.categories} <= set(titles)
    assert {"output tokens/s", "TTFT p95, ms", "resident weights, MiB"} <= set(titles)
    own = {place for place, series in enumerate(data.runs.series) if series == "smollm2 on cpu"}
    worse = [
        row
        for row in data.regressions
        if row.change == "worse" and row.quantity == "maths" and data.models.run[row.model] in own
    ]
    maths = one.page.locator(".panel", has_text="maths, kept")
    assert maths.locator(".mark").count() == 4 * len(own)
    assert maths.locator(".mark.worse").count() == len(worse) > 0
    assert "Worse: maths lost 3.0 points" in str(maths.locator(".mark.worse").first.get_attribute("aria-label"))
    assert one.rows("table[aria-label='what became worse']")
    maths.locator(".mark[tabindex='0']").focus()
    one.page.keyboard.press("ArrowLeft")
    one.page.keyboard.press("Enter")
    assert "view=run&run=" in one.page.url, "a point opens its run"
    one.page.go_back()
    one.page.get_by_text("The plots as a table").click()
    told = one.page.locator("table[aria-label='the numbers of the plots'] tbody tr")
    expect(told).to_have_count(4 * len(own))
    one.is_quiet()


def test_drawing_across_a_plot_zooms_and_a_click_opens_a_run(opened: Open) -> None:
    one = opened(review(60), "view=trend")
    box = one.page.locator(".panel .plot").first.bounding_box()
    assert box
    one.page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + 30)
    one.page.mouse.down()
    one.page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + 60)
    one.page.mouse.up()
    told = one.page.locator("main > p.quiet").first
    expect(told).not_to_contain_text("20 of 20 runs")
    shown = told.inner_text()
    one.page.reload()
    assert one.page.locator("main > p.quiet").first.inner_text() == shown
    one.page.click("#unzoom")
    expect(one.page.locator("main > p.quiet").first).to_contain_text("20 of 20 runs")
    one.is_quiet()


def test_of_thousands_of_points_those_that_became_worse_are_marked(opened: Open) -> None:
    one = opened(review(300, details=0), "view=trend")
    assert one.page.locator(".panel .mark").count() == one.page.locator(".panel .mark.worse").count() > 0
    for line in one.page.locator(".panel path.series").all():
        assert str(line.get_attribute("d")).count("L") > 50, "every point is in its line"
    one.is_quiet()


def test_the_history_says_who_why_and_what_serves_now(opened: Open) -> None:
    data = review(3)
    one = opened(data, "view=history")
    decisions = one.rows("table[aria-label=decisions]")
    assert len(decisions) == len(data.aliases)
    for entry, text in zip(reversed(data.aliases), decisions, strict=True):
        assert entry.who in text and entry.why in text and entry.kind in text
    now = one.rows("table[aria-label='serving now']")
    assert ["champion\t1" in now[0], "challenger\t9" in now[1]] == [True, True]
    shadow = one.rows("table[aria-label='shadow traffic']")
    assert "pass" in shadow[0] and "no verdict yet" in shadow[1]
    assert one.page.get_by_role("link", name="live page").get_attribute("href") == data.shadow[0].status
    one.is_quiet()


def test_an_address_that_is_no_address_is_no_link(opened: Open) -> None:
    data = review(2)
    data = data.model_copy(update={"shadow": [changed(data.shadow[0], status="javascript:alert(1)")]})
    one = opened(data, "view=history")
    assert one.page.locator("a[href^=javascript]").count() == 0


@pytest.mark.parametrize("view", VIEWS)
def test_names_are_text_whatever_they_hold(opened: Open, view: str) -> None:
    data = renamed(review(3), HOSTILE)
    picked = "&pick=".join(["", *(f"{data.runs.id[0]}/{HOSTILE}{place}".replace("&", "%26") for place in (1, 2))])
    one = opened(data, f"view={view}{picked}")
    assert one.page.locator("img").count() == 0
    assert HOSTILE.partition("\u2028")[0] in one.page.inner_text("body") or view == "decide"
    assert one.page.locator("nav a").count() >= 3
    one.is_quiet()


@pytest.mark.parametrize("view", VIEWS)
def test_without_runs_it_says_what_to_do(opened: Open, view: str) -> None:
    one = opened(empty(), f"view={view}")
    assert len(one.page.inner_text("main").strip()) > 40
    one.is_quiet()


@pytest.mark.parametrize("view", VIEWS)
def test_runs_that_measured_nothing(opened: Open, view: str) -> None:
    data = review(3)
    nothing = {
        name: [None] * len(data.models.name)
        for name in Models.model_fields
        if name not in ("schema_version", "run", "name", "method")
    }
    data = data.model_copy(
        update={"models": changed(data.models, **nothing), "categories": [], "regressions": [], "prices": [None] * 3}
    )
    one = opened(data, f"view={view}")
    assert "NaN" not in one.page.inner_text("body") and "undefined" not in one.page.inner_text("body")
    if view == "trend":
        expect(one.page.get_by_text("there is nothing to follow")).to_be_visible()
    one.is_quiet()


def test_ten_thousand_categories(opened: Open) -> None:
    data = review(2, models=3, categories=10_000, details=0)
    one = opened(data, "view=trend")
    assert "further categories lost less and are not drawn" in one.page.inner_text("main")
    assert one.page.locator(".panel").count() < 20
    one.is_quiet()


def test_a_clock_that_went_back_shuffles_nothing(opened: Open) -> None:
    data = review(6)
    times = list(reversed(data.runs.started_at))
    data = data.model_copy(update={"runs": changed(data.runs, started_at=times)})
    one = opened(data, "view=runs")
    assert f"{times[0]:%Y-%m-%d}" in one.rows()[0]
    one.is_quiet()


def test_a_fragment_that_means_nothing(opened: Open) -> None:
    one = opened(review(3), "view=constructor&page=-7&sort=--x&pick=gone&pick=&from=nobody")
    assert len(one.rows()) == 15
    one.page.goto(one.page.url.partition("#")[0] + "#view=compare&pick=gone&pick=lost")
    expect(one.page.get_by_text("2 of the picked models are not in this page.")).to_be_visible()
    one.is_quiet()


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("width", [360, 900, 1400])
def test_every_width_dark_and_on_paper(opened: Open, view: str, width: int) -> None:
    data = review(12)
    one = opened(data, f"view={view}{picked_of(data)}", width, color_scheme="dark")
    ground = one.page.evaluate("getComputedStyle(document.body).backgroundColor")
    one.is_quiet()
    one.page.emulate_media(color_scheme="light")
    assert one.page.evaluate("getComputedStyle(document.body).backgroundColor") != ground
    one.page.emulate_media(media="print")
    assert not one.page.locator("nav").is_visible()
    assert one.page.locator("main").is_visible()


@pytest.mark.parametrize("view", [*VIEWS, "run"])
def test_what_a_screen_reader_is_told(opened: Open, view: str) -> None:
    data = review(12).model_copy(update={"deciding": DECIDING})
    one = opened(data, f"view={view}{picked_of(data)}")
    told = one.page.locator("#review").aria_snapshot()
    roles = "button|link|checkbox|combobox|searchbox|textbox|table|region|navigation|figure|columnheader|rowheader"
    nameless = re.findall(rf"^ *- '?(?:{roles})(?! \\?\").*", told, re.MULTILINE)
    assert nameless == []
    assert told.count("- main") == told.count('- navigation "') == 1
    levels = one.page.eval_on_selector_all("h1, h2, h3, h4", "all => all.map(one => +one.tagName[1])")
    assert levels[0] == 1 and all(after <= before + 1 for before, after in pairwise(levels)), "no level is left out"
    assert one.page.locator("main th:not([scope])").count() == 0
    assert one.page.locator("nav a[aria-current=page]").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", ["run", "trend"])
def test_the_keyboard_comes_to_each_plot_and_one_sees_where_it_is(opened: Open, view: str, scheme: str) -> None:
    one = opened(review(12), f"view={view}", color_scheme=scheme)
    plots = one.page.locator("svg.plot")
    assert plots.count() > 1
    ring = "one => getComputedStyle(one.querySelector('.reach')).stroke"
    for plot in plots.all():
        assert plot.get_attribute("aria-label")
        stop = plot.locator(".mark[tabindex='0']").first
        before = stop.evaluate(ring)
        stop.focus()
        one.page.keyboard.press("Shift+Tab")
        one.page.keyboard.press("Tab")
        expect(stop).to_be_focused()
        assert before == "none" != stop.evaluate(ring)
    one.page.focus(".controls select")
    assert one.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_nothing_is_told_by_colour_alone(opened: Open) -> None:
    one = opened(review(24), "view=trend")
    dashes = "all => all.map(one => getComputedStyle(one).strokeDasharray)"
    for place in (".panel:first-child path.series", ".legend path.series"):
        drawn = one.page.locator(place).evaluate_all(dashes)
        assert len(set(drawn)) == len(drawn) == 4
    assert one.page.locator(".mark.worse path.model").count() == one.page.locator(".mark.worse").count() > 0
    one.page.goto(one.page.url.replace("view=trend", "view=run"))
    cells = one.page.locator("button.heat").all_inner_texts()
    assert cells and all(re.fullmatch(r"\d\.\d{3} ?[✓✗?]", text) for text in cells)


@pytest.mark.parametrize("view", [*VIEWS, "run"])
def test_upright_paper_holds_every_column(opened: Open, view: str) -> None:
    data = review(6)
    one = opened(data, f"view={view}{picked_of(data)}")
    one.page.get_by_text("The plots as a table").click() if view == "trend" else None
    # A4 within its margins, at 96 dots an inch.
    one.page.set_viewport_size({"width": 703, "height": 1000})
    one.page.emulate_media(media="print")
    ends = "all => all.map(one => one.getBoundingClientRect().right)"
    assert max([0, *one.page.locator("#review table, #review svg").evaluate_all(ends)]) <= 703.5


def test_the_data_are_strict_json_without_an_end_of_the_script(tmp_path: Path) -> None:
    data = renamed(review(2), HOSTILE)
    data = data.model_copy(update={"models": changed(data.models, kept=[float("nan")] * len(data.models.name))})
    html = render(data)
    text = html.partition('id="data">')[2].partition("</script>")[0]

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    told = json.loads(text, parse_constant=refuse)
    assert told["where"] == HOSTILE
    assert told["models"]["kept"] == [None] * len(data.models.name)
