"""Measure the review page in a real Chromium: its size, its first paint, and how long a filter takes.

    .venv/bin/python -m benchmarks.review [--runs 1000] [--models 5] [--categories 8] [--times 5]

First paint is the browser's own `first-contentful-paint` of a file that it opens for the first time; drawn is when
the frame with all of the view is painted. A filter is timed from the change of the control until the frame with its
rows is painted.
"""

import argparse
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Browser, Page

from pipelines.review.page import render
from tests.chromium import chromium
from tests.made_up_review import review

_VIEWS = ("runs", "run", "trend", "history")
_PAINT = """() => new Promise(told => new PerformanceObserver(list => {
  const one = list.getEntriesByName("first-contentful-paint")[0];
  if (one) told(one.startTime);
}).observe({ type: "paint", buffered: true }))"""
_DRAWN = """addEventListener("DOMContentLoaded", () =>
  requestAnimationFrame(() => setTimeout(() => { window.drawnAt = performance.now(); })));"""
# Awaited in the page: its policy forbids what Playwright's own waiting evaluates there.
_ASKED = """() => new Promise(told => {
  const look = () => window.drawnAt ? told(window.drawnAt) : setTimeout(look);
  look();
})"""
_FILTER = """([id, value, event]) => new Promise(told => {
  const control = document.getElementById(id), began = performance.now();
  control.value = value;
  control.dispatchEvent(new Event(event, { bubbles: true }));
  requestAnimationFrame(() => setTimeout(() => told(performance.now() - began)));
})"""
_FILTERS = {
    "text typed": ("text", "gptq", "input"),
    "method chosen": ("method", "awq", "change"),
    "verdict chosen": ("verdict", "fail", "change"),
    "rows chosen": ("rows", "worse", "change"),
}


def main() -> None:
    """Print what was measured, the median of several times and the slowest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--models", type=int, default=5, help="of a run, with its baseline")
    parser.add_argument("--categories", type=int, default=8)
    parser.add_argument("--details", type=int, default=15, help="so many of the newest runs have them")
    parser.add_argument("--times", type=int, default=5)
    asked = parser.parse_args()
    html = render(review(asked.runs, asked.models, asked.categories, asked.details))
    print(
        f"{asked.runs} runs x {asked.models} models x {asked.categories} categories: {len(html.encode()) / 1e6:.2f} MB"
    )
    with TemporaryDirectory() as folder, chromium() as browser:
        file = Path(folder) / "review.html"
        file.write_text(html, encoding="utf-8")
        for view in _VIEWS:
            opened = [opening(browser, f"{file.as_uri()}#view={view}") for _ in range(asked.times)]
            told(f"first paint, {view}", [painted for painted, _ in opened])
            told(f"drawn, {view}", [drawn for _, drawn in opened])
        page = browser.new_page()
        page.goto(f"{file.as_uri()}#view=runs")
        for name, change in _FILTERS.items():
            told(name, [filtered(page, change) for _ in range(asked.times)])
        for column in ("kept_low", "name"):
            told(f"sorted by {column}", [sorted_by(page, column) for _ in range(asked.times)])


def opening(browser: Browser, address: str) -> tuple[float, float]:
    """Milliseconds to the first paint and until all is drawn, in a context that has seen nothing."""
    context = browser.new_context()
    try:
        page = context.new_page()
        page.add_init_script(_DRAWN)
        page.goto(address)
        drawn = float(page.evaluate(_ASKED))
        return float(page.evaluate(_PAINT)), drawn
    finally:
        context.close()


def filtered(page: Page, change: tuple[str, str, str]) -> float:
    """Milliseconds until the rows are painted, beginning with all of them."""
    identity, _, event = change
    milliseconds = float(page.evaluate(_FILTER, list(change)))
    page.evaluate(_FILTER, [identity, "", event])
    return milliseconds


def sorted_by(page: Page, column: str) -> float:
    """Milliseconds until the rows are painted in another order."""
    press = """id => new Promise(told => {
      const began = performance.now();
      document.getElementById(id).click();
      requestAnimationFrame(() => setTimeout(() => told(performance.now() - began)));
    })"""
    return float(page.evaluate(press, f"sort-{column}"))


def told(name: str, milliseconds: list[float]) -> None:
    """A row."""
    print(f"{name:24} {statistics.median(milliseconds):7.0f} ms, at most {max(milliseconds):.0f} ms")


if __name__ == "__main__":
    main()
