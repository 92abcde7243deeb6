"""A verdict over pairs in the terminal."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from evals.judging.pair_metrics import METRICS
from evals.judging.verdict_words import interval_text, limit_text, metric_name, value_text
from pipelines.report.table import UNKNOWN, Tone, printable
from registry.contracts import MetricVerdict, ShadowVerdict
from registry.contracts.shadow_verdict import Outcome
from registry.numerals import with_minus

_TONES: dict[Outcome, Tone] = {"pass": "good", "fail": "bad", "continue": "warn", "inconclusive": "warn"}
_STYLES: dict[Tone, str] = {"good": "green", "warn": "yellow", "bad": "red", "plain": ""}


def look_line(verdict: ShadowVerdict) -> str:
    """One look of several in one line."""
    decided = sum(one.outcome in ("pass", "fail") for one in verdict.metrics)
    waiting = f", {verdict.pairs_waiting:,} more wait for earlier ones" if verdict.pairs_waiting else ""
    metrics = f"{decided} of {len(verdict.metrics)} metrics decided"
    return printable(f"{verdict.pairs:,} pairs{waiting}: {verdict.outcome}, {metrics}; {verdict.reason}")


def print_verdict(console: Console, verdict: ShadowVerdict) -> None:
    """Print the table, a sentence for each metric, what was not judged, and the verdict last."""
    console.print(_table(verdict))
    for one in verdict.metrics:
        name = _text(metric_name(one), f"bold {_style(one.outcome)}")
        console.print(Text.assemble(name, " ", _text(one.reason)))
    for note in _notes(verdict):
        console.print(_text(note, "dim"))
    if not verdict.frozen:
        stored = "other limits were stored" if verdict.frozen_digest else "no limits were stored"
        warning = (
            f"EXPLORATORY: {stored} before the first pair, and limits that are chosen when results can be seen prove"
            " nothing. The exit code is 4, whatever the outcome."
        )
        console.print(_text(warning, "bold red"))
    outcome = _text(verdict.outcome, f"bold {_style(verdict.outcome)}")
    console.print(Text.assemble(_text("verdict: ", "bold"), outcome, _text(f", {verdict.reason}")))


def _table(verdict: ShadowVerdict) -> Table:
    # A terminal's 80 columns are few: the interval stands below the difference.
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    classes = any(one.prompt_class for one in verdict.metrics)
    table.add_column("metric")
    if classes:
        table.add_column("class")
    table.add_column("outcome")
    for title in ("pairs", "champion", "candidate", "difference", "limit"):
        table.add_column(title, justify="right")
    for one in verdict.metrics:
        told = (
            f"{one.pairs:,}",
            _side_text(one, one.champion),
            _side_text(one, one.candidate),
            "\n".join(filter(None, (_difference_text(one), interval_text(one)))) or UNKNOWN,
            limit_text(one, least="≥", most="≤"),
        )
        named = (one.metric, one.prompt_class or "all") if classes else (one.metric,)
        table.add_row(*map(_text, named), _text(one.outcome, _style(one.outcome)), *map(_text, told))
    return table


def _difference_text(one: MetricVerdict) -> str:
    """Nothing of a share, which says something of both sides together."""
    return "" if one.value is None or one.unit == "share" else value_text(one.unit, one.value)


def _side_text(one: MetricVerdict, value: float | None) -> str:
    """`71.25 %`, or the median of seconds or tokens."""
    if value is None:
        return UNKNOWN
    if one.unit == "points":
        return f"{100 * value:.2f} %"
    if one.unit == "share":
        return value_text("share", value)
    timed = "seconds" in METRICS[one.metric].column
    return with_minus(f"{1000 * value:.4g} ms" if timed else f"{value:.4g}")


def _notes(verdict: ShadowVerdict) -> list[str]:
    notes = []
    if verdict.unrecorded:
        notes.append(f"not recorded, so not judged: {', '.join(verdict.unrecorded)}")
    if verdict.small_classes:
        notes.append(f"classes with too few pairs to be judged for themselves: {verdict.small_classes:,}")
    if verdict.rare_in_classes:
        told = ", ".join(f"{name} {pairs:,} pairs" for name, pairs in verdict.rare_in_classes.items())
        notes.append(f"too few pairs say anything of: {told}")
    if verdict.pairs_waiting:
        notes.append(f"{verdict.pairs_waiting:,} pairs wait until those before them are answered")
    if verdict.pairs_beyond_budget:
        notes.append(f"{verdict.pairs_beyond_budget:,} pairs lie beyond the budget and were not judged")
    return notes


def _style(outcome: Outcome) -> str:
    return _STYLES[_TONES[outcome]]


def _text(text: str, style: str = "") -> Text:
    """Text without markup: names of classes come from outside."""
    return Text(printable(text), style=style)
