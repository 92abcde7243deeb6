"""The live review page in a real browser: data that change, details that come later, decisions and their refusals.

The server is the browser's own interception, so that each answer is the test's; the real one has tests of its own.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from pipelines.review.page import render
from pipelines.review.page_data import Deciding, Notice, PageData
from tests.chromium import Heard, chromium
from tests.made_up_review import review

pytestmark = pytest.mark.service

_HERE = "http://127.0.0.1:8500/"
_LATER = 16_000
"""Milliseconds until the page has asked again."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as one:
        yield one


class Served:
    """Answers the page, and keeps what it asked."""

    def __init__(self, browser: Browser, data: PageData, fragment: str = "") -> None:
        self.data, self.details = data, dict(data.details)
        self.down = False
        self.decisions: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.refusal: tuple[int, str, str] | None = None
        self.page: Page = browser.new_page()
        self.page.clock.install()
        self.heard = Heard(self.page)
        self.page.route("**/*", self._answer)
        self.page.goto(f"{_HERE}#{fragment}")

    def _answer(self, route: Route) -> None:
        path = route.request.url.removeprefix(_HERE).partition("#")[0].partition("?")[0]
        if self.down:
            route.abort("connectionrefused")
        elif not path:
            route.fulfill(body=render(self.data, live=True), content_type="text/html; charset=utf-8")
        elif path == "data.json":
            route.fulfill(body=self.data.model_dump_json(), content_type="application/json")
        elif path == "run.json":
            detail = self.details.get(route.request.url.partition("id=")[2])
            if detail is None:
                self._refuse(route, 404, "there is no such run", "begin at /")
            else:
                route.fulfill(body=detail.model_dump_json(), content_type="application/json")
        elif path == "decide":
            self.decisions.append(json.loads(route.request.post_data or "null"))
            self.keys.append(route.request.headers.get("authorization"))
            if self.refusal:
                self._refuse(route, *self.refusal)
            else:
                route.fulfill(body="{}", content_type="application/json")

    @staticmethod
    def _refuse(route: Route, status: int, message: str, remedy: str) -> None:
        told = json.dumps({"message": message, "remedy": remedy})
        route.fulfill(status=status, body=told, content_type="application/json")


def deciding(data: PageData) -> PageData:
    told = Deciding(
        actions=["approve", "reject", "promote", "rollback"],
        aliases=["champion", "candidate"],
        csrf_token="once",  # noqa: S106 - no password
    )
    named = [entry.model_copy(update={"model": data.runs.registered_model[0]}) for entry in data.aliases]
    return data.model_copy(update={"deciding": told, "aliases": [entry.sealed() for entry in named]})


def test_new_data_come_into_the_page_and_a_server_that_is_gone_is_told(browser: Browser) -> None:
    data = review(3)
    one = Served(browser, data, "view=runs&method=gptq")
    expect(one.page.locator(".runs tbody tr")).to_have_count(3)
    one.page.fill("#text", "gptq")
    one.data = review(4).model_copy(update={"notices": [Notice(about="ledger", text="is damaged.")]})
    one.page.clock.run_for(_LATER)
    expect(one.page.locator(".runs tbody tr")).to_have_count(4)
    expect(one.page.locator("#notices")).to_have_text("ledger is damaged.")
    expect(one.page.locator("#text")).to_be_focused()
    one.down = True
    one.page.clock.run_for(_LATER)
    expect(one.page.locator("#trouble")).to_contain_text("does not answer")
    expect(one.page.locator(".runs tbody tr")).to_have_count(4)
    one.down = False
    one.page.clock.run_for(_LATER)
    expect(one.page.locator("#trouble")).to_be_hidden()
    one.page.close()


def test_details_that_are_not_in_the_page_are_asked_for(browser: Browser) -> None:
    whole = review(3, details=3)
    ids = whole.runs.id
    bare = whole.model_copy(update={"details": {}})
    picked = "".join(f"&pick={ids[0]}/{whole.models.name[place]}" for place in (1, 2))
    one = Served(browser, bare, "view=runs")
    one.details = dict(whole.details)
    one.page.goto(f"{_HERE}#view=compare{picked}")
    expect(one.page.locator("table[aria-label='Settings that differ']")).to_contain_text("group_size")
    one.data = bare.model_copy(update={"where": "elsewhere"})
    one.page.clock.run_for(_LATER)
    expect(one.page.locator("table[aria-label='Settings that differ']")).to_contain_text("group_size")
    asked = [url for url in one.heard.requests if "run.json" in url]
    assert len(asked) == 1, "what came is kept over the next reading"
    one.details = {}
    one.page.goto(f"{_HERE}#view=compare{picked.replace(ids[0], ids[1])}")
    expect(one.page.get_by_text("did not come: there is no such run").first).to_be_visible()
    one.page.close()


def test_a_decision_goes_to_the_server_with_who_may_and_what_was_seen(browser: Browser) -> None:
    data = deciding(review(3))
    one = Served(browser, data, "view=decide&action=promote")
    one.page.click("form.decision button")
    assert one.decisions == [], "not without why and key"
    one.page.fill("#why", "faster, and nothing lost")
    one.page.fill("#key", "a word")
    one.page.select_option("#alias", "candidate")
    assert one.page.input_value("#why") == "faster, and nothing lost", "a redraw takes nothing away"
    one.refusal = (409, "version 9 was promoted meanwhile", "look again, and decide again")
    one.page.click("form.decision button")
    expect(one.page.locator("main .failure")).to_contain_text(
        "version 9 was promoted meanwhile. look again, and decide again."
    )
    assert one.page.input_value("#why") == "faster, and nothing lost", "nobody types it twice"
    expect(one.page.locator("#key")).to_have_count(0)
    one.refusal = None
    one.page.click("form.decision button")
    expect(one.page.get_by_role("status").filter(has_text="Done: promote")).to_be_visible()
    chosen = data.models.name[data.runs.recommended[0] or 1]
    head = data.aliases[-1].digest
    assert one.decisions[-1] == {
        "action": "promote",
        "run": data.runs.id[0],
        "name": chosen,
        "alias": "candidate",
        "why": "faster, and nothing lost",
        "csrf_token": "once",
        "seen": head,
    }
    assert set(one.keys) == {"Bearer a word"}
    kept = "Object.keys(localStorage).length + Object.keys(sessionStorage).length + document.cookie.length"
    assert one.page.evaluate(kept) == 0
    assert "word" not in one.page.url
    one.page.close()


def test_a_wrong_key_is_asked_for_again(browser: Browser) -> None:
    one = Served(browser, deciding(review(2)), "view=decide&action=rollback")
    one.refusal = (401, "this key is not known", "ask who runs the page")
    one.page.fill("#why", "wrong language")
    one.page.fill("#key", "guess")
    one.page.click("form.decision button")
    expect(one.page.locator("main .failure")).to_contain_text("this key is not known")
    expect(one.page.locator("#key")).to_be_visible()
    assert (one.decisions[0]["name"], one.decisions[0]["alias"]) == (None, "champion")
    one.page.close()


def test_nothing_can_be_decided_where_the_server_offers_nothing(browser: Browser) -> None:
    one = Served(browser, review(2), "view=runs")
    assert "Decide" not in one.page.inner_text("nav")
    one.page.close()
