"""The review page in a real browser, opened as a file."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from pipelines.review.page import render
from pipelines.review.page_data import PageData
from tests.chromium import Heard, chromium
from tests.made_up_review import review

pytestmark = pytest.mark.service


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as one:
        yield one


class Opened:
    """The page of some data, as a reader has it."""

    def __init__(self, browser: Browser, file: Path, data: PageData, fragment: str = "", width: int = 1400) -> None:
        file.write_text(render(data), encoding="utf-8")
        self.page: Page = browser.new_page(viewport={"width": width, "height": 900})
        self.heard = Heard(self.page)
        self.page.goto(f"{file.as_uri()}#{fragment}")

    def is_quiet(self) -> None:
        """It complained of nothing and asked for nothing but itself."""
        assert self.heard.complaints == []
        assert len({url.split("#")[0] for url in self.heard.requests}) == 1


def test_it_opens(browser: Browser, tmp_path: Path) -> None:
    opened = Opened(browser, tmp_path / "review.html", review())
    assert "Runs" in opened.page.inner_text("nav")
    opened.is_quiet()
