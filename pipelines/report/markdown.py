"""Markdown of our own, with texts from outside in it. Pure."""

from collections.abc import Sequence

from pipelines.report.table import printable

_MARKS = "\\`*_{}[]<>#|&~"


def escaped(text: str) -> str:
    """As it is meant, on one line: names and messages may hold what Markdown and HTML take for marks."""
    marked = "".join(f"\\{character}" if character in _MARKS else character for character in printable(text))
    return " ".join(marked.split())


def table_head(heads: Sequence[str]) -> list[str]:
    """The first two lines of a table."""
    return [table_line(heads), table_line(["---"] * len(heads))]


def table_line(cells: Sequence[str]) -> str:
    """A line of a table; cells with texts from outside are to be `escaped`."""
    return f"| {' | '.join(cells)} |"
