"""The live review page, whole: the command as a process, a real browser, ledger and MLflow store, and who decides."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Page, expect

from serving_checks.server import free_port
from tests.chromium import Heard, chromium
from tests.integration.test_promotion import Registry
from tests.integration.test_review_decisions import recorded, registry  # noqa: F401 - fixtures

pytestmark = [pytest.mark.engine, pytest.mark.service, pytest.mark.timeout(600)]

KEY = "a-key-of-this-test-alone"


@contextmanager
def served(registry: Registry) -> Iterator[str]:  # noqa: F811
    """`quantbench review --decide`; its address."""
    port = free_port(None)
    command = [sys.executable, "-P", "-m", "pipelines.cli", "review", "--decide", "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--workspace", str(registry.lab.workspace.root)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "QUANTBENCH_REVIEW_KEY": KEY},
    )
    try:
        assert process.stderr is not None
        assert "shows the runs of this workspace" in process.stderr.readline()
        yield f"http://127.0.0.1:{port}/"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def decides(page: Page, action: str, why: str, **chosen: str) -> None:
    """Fill in the form, and send it."""
    page.locator("#action").select_option(action)
    for name, value in chosen.items():
        page.locator(f"#{name}").select_option(value)
    page.locator("#why").fill(why)
    if page.locator("#key").count():
        page.locator("#key").fill(KEY)
    page.get_by_role("button", name=re.compile("Approve|Reject|Promote|Roll back")).click()


def test_the_keyboard_alone_goes_from_the_table_to_what_is_recommended(registry: Registry) -> None:  # noqa: F811
    """A filter narrows the table, a reload keeps it, and the run's link leads to which artifact to take."""
    with served(registry) as address, chromium() as browser:
        page = browser.new_page()
        heard = Heard(page)
        page.goto(f"{address}#view=runs")
        rows = page.locator(".runs tbody tr")
        every = rows.count()
        tabs_to(page, "text")
        page.keyboard.type("int8")
        expect(page.get_by_role("table", name="models").locator("tbody th")).to_have_text(re.compile("^int8"))
        tabs_to(page, "rows")
        page.keyboard.press("End")
        expect(page.get_by_text("No model passes these filters.")).to_be_visible()
        page.keyboard.press("Home")
        expect(rows).to_have_count(1)
        assert every > 1
        page.reload()
        expect(rows).to_have_count(1)
        assert page.input_value("#text") == "int8"

        run = rows.get_by_role("link")
        for _ in range(60):
            page.keyboard.press("Tab")
            if run.evaluate("one => one === document.activeElement"):
                break
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Which to take")).to_be_visible()
        expect(page.get_by_role("main")).to_be_focused()
        assert page.locator("p.recommended, main p.empty").first.inner_text()
        page.go_back()
        expect(rows).to_have_count(1)
        assert heard.complaints == []


def tabs_to(page: Page, name: str) -> None:
    """Press the tab key until the control of this id has the focus."""
    for _ in range(60):
        if page.evaluate("document.activeElement.id") == name:
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"the tab key does not come to {name}")


def test_one_reads_and_decides(registry: Registry) -> None:  # noqa: F811
    with served(registry) as address, chromium() as browser:
        page = browser.new_page()
        heard = Heard(page)
        page.goto(address)
        page.get_by_role("link", name="Decide about this run").click()
        decides(page, "approve", "as good as the baseline", name="int8")
        expect(page.get_by_text("Done: approve int8")).to_be_visible()
        decides(page, "promote", "for a day beside the champion", name="int8", alias="shadow")
        expect(page.get_by_text("Done: promote int8, alias shadow")).to_be_visible()
        assert registry.pointed() == registry.version("int8")

        # Somebody else decides meanwhile: what this page shows is old.
        assert registry("reject", "nf4")[0] == 0
        decides(page, "rollback", "taken back", alias="shadow")
        expect(page.get_by_text("Refused:")).to_contain_text(re.compile("look again|changed since"))
        assert registry.pointed() == registry.version("int8")
        decides(page, "rollback", "taken back", alias="shadow")
        expect(page.get_by_text("Done: rollback, alias shadow")).to_be_visible()
        assert registry.pointed() is None

        page.get_by_role("link", name="History").click()
        page.reload()
        rows = page.get_by_role("table", name="decisions").get_by_role("row")
        told = [rows.nth(number).inner_text() for number in range(1, rows.count())]
        assert [
            next(kind for kind in ("rollback", "reject", "promote", "approve") if kind in text) for text in told
        ] == ["rollback", "reject", "promote", "approve"]
        assert "review page: " in told[0]
        assert "taken back" in told[0]
        assert "a tester" in told[1]
        refused = [text for text in heard.complaints if "409" not in text]
        assert refused == []
        assert all(url.startswith(address) for url in heard.requests)
