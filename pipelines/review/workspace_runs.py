"""The finished runs of a workspace, each as its summary, and what is wrong with those that are not shown."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from pipelines.records.run_record import ResultFile, result_files
from pipelines.review.joining import Found
from pipelines.review.page_data import Notice
from pipelines.review.summaries import RunSummary, read_summary
from registry.sealed import DamagedFile
from serving_checks.readings.cost import DevicePrice

REPORT_FILE = "report.html"
_MOST_NAMED = 20
"""Runs that are told of one by one; of a thousand damaged ones nobody reads each."""
_SAME_TIME = timedelta(minutes=1)
"""Clocks are corrected by less all the time."""


class WorkspaceRuns(NamedTuple):
    """What a workspace holds, the run that ended last first."""

    files: Mapping[str, ResultFile]
    """By a run's id, of those that are shown."""
    found: list[Found]
    notices: list[Notice]


class RunReader:
    """Reads a workspace's runs again and again; what did not change is read once.

    Args:
        root: The workspace's folder.
        pages_at: Address of `runs/`, relative to the review page.
        price: For runs whose recipe has none.
    """

    def __init__(self, root: Path, pages_at: str, price: DevicePrice | None = None) -> None:
        self._root, self._pages_at, self._price = root, pages_at, price
        self._known: dict[ResultFile, RunSummary | str] = {}

    def read(self, tell: Callable[[int, int], object] = lambda done, total: None) -> WorkspaceRuns:
        """All of them.

        Args:
            tell: Is told how many of how many were read.
        """
        files = result_files(self._root)
        self._known = {file: self._known[file] for file in files if file in self._known}
        damaged: list[Notice] = []
        shown: dict[str, ResultFile] = {}
        found: list[Found] = []
        for number, file in enumerate(files, 1):
            summary = self._summary(file)
            tell(number, len(files))
            if isinstance(summary, str):
                damaged.append(Notice(about=file.run_id, text=summary))
            elif summary is not None:
                shown[file.run_id] = file
                found.append(Found(summary, self._page(file)))
        notices = [
            *damaged,
            *(notice for one in found for notice in one.summary.notices),
            *_unmeasured(found),
            *_unfinished(self._root),
            *clock_notices(files, found),
        ]
        return WorkspaceRuns(shown, found, list(few(notices)))

    def _summary(self, file: ResultFile) -> RunSummary | str | None:
        """Why there is none, in words; None for a run that was removed just now."""
        if file not in self._known:
            try:
                self._known[file] = read_summary(file, self._price)
            except FileNotFoundError:
                return None
            except (DamagedFile, OSError) as error:
                self._known[file] = f"{error}. It is not shown: run its recipe again, what was measured is kept."
        return self._known[file]

    def _page(self, file: ResultFile) -> str | None:
        there = file.path.with_name(REPORT_FILE).is_file()
        return f"{self._pages_at}/{quote(file.run_id)}/{REPORT_FILE}" if there else None


def _unmeasured(found: Sequence[Found]) -> Iterator[Notice]:
    for one in found:
        models = one.summary.models
        if not any(models.dtype):
            why = next((failure for failure in models.failure if failure), "it stopped before")
            text = f"No model of it was measured: {why}. Mend that and run its recipe again."
            yield Notice(about=one.summary.run_id, text=text)


def _unfinished(root: Path) -> Iterator[Notice]:
    folders = [path for path in sorted(root.glob("runs/*/")) if not (path / "result.json").exists()]
    if folders:
        names = ", ".join(path.name for path in folders[-3:])
        text = (
            f"{len(folders)} of its runs have no result: they go on, or were ended before their end (the last:"
            f" {names}). Run their recipes again; complete stages are not repeated."
        )
        yield Notice(about="runs", text=text)


def clock_notices(files: Sequence[ResultFile], found: Sequence[Found]) -> Iterator[Notice]:
    """What shows that a clock was changed: an order of writing that the runs' own times deny, or times to come.

    Args:
        files: The run that was written last first.
        found: Those of them that are shown, in the same order.
    """
    written = {file.run_id: datetime.fromtimestamp(file.written_ns / 1e9, UTC) for file in files}
    now, ahead, back = datetime.now(UTC), [], []
    latest_start: datetime | None = None
    for one in reversed(found):
        began = one.summary.runs.started_at[0]
        ended = began + timedelta(seconds=one.summary.runs.seconds[0])
        if max(began, written[one.summary.run_id]) > now + _SAME_TIME:
            ahead.append(one.summary.run_id)
        if ended > written[one.summary.run_id] + _SAME_TIME or (latest_start and ended < latest_start - _SAME_TIME):
            back.append(one.summary.run_id)
        latest_start = max(began, latest_start or began)
    order = "runs stand in the order in which their records were written"
    if back:
        text = f"The clock went back, or was set, around {_named(back)}: {order}, and their dates may mislead."
        yield Notice(about=back[-1], text=text)
    if ahead:
        text = f"By this machine's clock, {_named(ahead)} lies in the future: {order}. See that the clock is right."
        yield Notice(about=ahead[-1], text=text)


def _named(runs: Sequence[str]) -> str:
    return runs[-1] if len(runs) == 1 else f"{runs[-1]} and {len(runs) - 1} others"


def few(notices: Sequence[Notice]) -> Iterator[Notice]:
    """`_MOST_NAMED` of them, and how many there are beside."""
    yield from notices[:_MOST_NAMED]
    if len(notices) > _MOST_NAMED:
        text = f"{len(notices) - _MOST_NAMED} more of this workspace's runs are not whole."
        yield Notice(about="runs", text=text)
