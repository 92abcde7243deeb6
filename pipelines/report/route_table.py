"""Routes in the terminal: each method's numbers, a sentence for each, and what was chosen last."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from evals.judging.route_words import interval_text, points_text
from pipelines.report.table import UNKNOWN, printable
from registry.contracts import RouteOutcome, RouteRecord

QUALITIES = {
    "score": "scores against known answers",
    "same": "answers that are the precise one's (no known answers: a different answer may be as good, or better)",
}
_BY_CLASS = 12
"""So many classes are listed."""


def print_route(console: Console, record: RouteRecord) -> None:
    """Print all of it."""
    console.print(_text(f"{record.source}: {record.items:,} items, quality is {QUALITIES[record.quality]}"))
    if record.left_out:
        told = ", ".join(f"{count:,} ({why})" for why, count in record.left_out.items())
        console.print(_text(f"left out: {told}", "dim"))
    if record.outcomes:
        console.print(_table(record.outcomes))
    for one in record.outcomes:
        style = "bold green" if one.supported else "bold yellow"
        console.print(Text.assemble(_text(one.kind, style), " ", _text(one.reason)))
        for line in [*_latency_lines(one), *(class_lines(one) if one.kind == record.chosen else [])]:
            console.print(_text(f"  {line}", "dim"))
    console.print(Text.assemble(_text("route: ", "bold"), _text(chosen_text(record))))


def chosen_text(record: RouteRecord) -> str:
    """What a gateway may follow, in one sentence."""
    if record.cascade is not None:
        return f"cascade, answers with a mean log-probability of at least {record.cascade.threshold:.4g} nats a token"
    if record.classes is not None:
        names = ", ".join(record.classes.cheap[:_BY_CLASS])
        how = "" if record.classes.class_by else "; no gateway can tell these classes: name rules by --classes"
        return f"classes, cheap are {names}{how}"
    if record.classifier is not None:
        least = f"a probability of at most {record.classifier.threshold:.4g} that the cheap one is worse"
        return f"classifier, {least}; learned on {record.classifier.trained_on:,} other items"
    return "none, the records support no route" if record.outcomes else "none, the records say nothing of any method"


def class_lines(outcome: RouteOutcome) -> list[str]:
    """What the rule does in each class: the promise is one of all prompts together."""
    if len(outcome.classes) < 2:
        return []
    lines = [
        f"{one.name or '(no class)'}: {100 * one.share_cheap:.0f} % of {one.items:,} cheap"
        + (f", lost {points_text(one.loss)} ({interval_text(one.loss_low, one.loss_high)})" if one.share_cheap else "")
        for one in outcome.classes[:_BY_CLASS]
    ]
    more = len(outcome.classes) - _BY_CLASS
    return [*lines, f"and {more} classes more"] if more > 0 else lines


def gap_text(outcome: RouteOutcome) -> str:
    """`0.71 (oracle 1.38)`; nothing where the items show no gap."""
    mine, best = outcome.curve.average_gap_recovered, outcome.oracle.average_gap_recovered
    return UNKNOWN if mine is None or best is None else f"{mine:.2f} (oracle {best:.2f})"


def flips_text(outcome: RouteOutcome) -> str:
    """`20.0 (random 19.4)`: flips that a hundred precise calls recover."""
    if outcome.flips_per_call is None:
        return UNKNOWN
    return f"{100 * outcome.flips_per_call:.1f} (random {100 * outcome.flips_per_call_random:.1f})"


def _latency_lines(outcome: RouteOutcome) -> list[str]:
    found = outcome.latency
    if found is None:
        return []
    p95, cheap, precise = (f"{1000 * value:,.0f} ms" for value in (found.p95, found.p95_cheap, found.p95_precise))
    return [f"p95 of the whole answer {p95}; the cheap one alone {cheap}, the precise one alone {precise}"]


def _table(outcomes: list[RouteOutcome]) -> Table:
    # Two lines a cell: a terminal's 80 columns are few.
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("method\nitems", no_wrap=True)
    titles = (
        "cheap",
        "quality\nof either",
        "lost, points",
        "flips per\n100 calls",
        "gap\nrecovered",
    )
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    for one in outcomes:
        lost, bounds = points_text(one.loss).split()[0], interval_text(one.loss_low, one.loss_high)
        table.add_row(
            _text(f"{one.kind}\n{one.items:,}"),
            _text(f"{100 * one.share_cheap:.1f} %"),
            _text(f"{100 * one.quality:.1f} %\n{100 * one.quality_cheap:.1f}, {100 * one.quality_precise:.1f}"),
            _text(f"{lost}\n{bounds}"),
            _text(flips_text(one).replace(" (", "\n").rstrip(")")),
            _text(gap_text(one).replace(" (", "\n").rstrip(")")),
        )
    return table


def _text(text: str, style: str = "") -> Text:
    """Text without markup: names of classes come from outside."""
    return Text(printable(text), style=style)
