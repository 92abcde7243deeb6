"""What takes a workspace's space, and what a collection does, in the terminal."""

from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.records.housekeeping import Collection, Removed, WorkspaceSize
from pipelines.report.table import printable

_MOST_PROBLEMS = 10


def print_size(console: Console, size: WorkspaceSize) -> None:
    """A row a kind, the sum, and what `gc` would free."""
    table = _table("", "how many", "GiB")
    for one in size.kinds:
        table.add_row(one.kind, str(one.count), gib(one.bytes))
    table.add_row("all", "", gib(size.bytes), style="bold")
    console.print(table)
    if size.frees_bytes is None:
        console.print(Text(f"what gc would free is not known: {printable(size.unknown_because or '')}", "yellow"))
    else:
        console.print(f"quantbench workspace gc would free {gib(size.frees_bytes)} GiB", soft_wrap=True)


def print_collection(console: Console, told: Collection) -> None:
    """What stays and why, what goes, the sum, and what comes next."""
    stays = _table("stays because of", "objects", "GiB")
    for kept in told.kept:
        stays.add_row(Text(printable(kept.why)), str(kept.objects), gib(kept.bytes))
    goes = _table("went" if told.done else "goes", "how many", "GiB")
    for kind, removed in _by_kind(told.removed).items():
        goes.add_row(kind, str(len(removed)), gib(sum(one.bytes for one in removed)))
    goes.add_row("all", str(len(told.removed)), gib(told.bytes), style="bold")
    for table in (stays, goes):
        if table.row_count:
            console.print(table)
    for problem in told.problems[:_MOST_PROBLEMS]:
        console.print(Text(f"not removed: {printable(problem)}", "yellow"), soft_wrap=True)
    if len(told.problems) > _MOST_PROBLEMS:
        console.print(Text(f"and {len(told.problems) - _MOST_PROBLEMS} more", "yellow"))
    if not told.done:
        next_step = "quantbench workspace gc --yes removes it" if told.removed else "nothing is to be removed"
        console.print(f"nothing was removed: {next_step}" if told.removed else next_step, soft_wrap=True)


def gib(size: int) -> str:
    """Of GiB, to three significant digits where it is less than one, and a tenth else."""
    value = size / 2**30
    return f"{value:.1f}" if value >= 1 else f"{value:.3g}"


def _table(*titles: str) -> Table:
    table = Table(box=box.SIMPLE_HEAVY, header_style="bold")
    for number, title in enumerate(titles):
        table.add_column(title, justify="right" if number else "left")
    return table


def _by_kind(removed: Iterable[Removed]) -> dict[str, list[Removed]]:
    found: dict[str, list[Removed]] = {}
    for one in removed:
        found.setdefault(one.kind, []).append(one)
    return found
