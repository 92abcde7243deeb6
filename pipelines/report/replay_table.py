"""A replay in the terminal: what the pairs show at first sight, and the command that judges them."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.records.replay_result import ReplayResult, SideSummary
from pipelines.report.load import milliseconds
from pipelines.report.table import printable

_NONE = "–"


def print_replay(console: Console, result: ReplayResult) -> None:
    """Print both sides, what was the same, the warnings, and what comes next."""
    record, summary = result.record, result.summary
    table = Table(box=box.SIMPLE_HEAVY, header_style="bold")
    table.add_column(record.name)
    for title in ("champion", "candidate", "ratio"):
        table.add_column(title, justify="right")
    one, other = summary.champion, summary.candidate
    rows = [
        ("model", printable(record.champion.name), printable(record.candidate.name), ""),
        ("errors", str(record.champion_errors), str(record.candidate_errors), ""),
        ("tokens", _count(one.tokens), _count(other.tokens), _times(summary.tokens_ratio)),
        ("latency ms, p50", _latency(one), _latency(other), _times(summary.latency_ratio)),
        (
            "first token ms, p50",
            _milliseconds(one.median_first_token_seconds),
            _milliseconds(other.median_first_token_seconds),
            "",
        ),
        ("refused", str(one.refused), str(other.refused), ""),
    ]
    if one.mean_score is not None or other.mean_score is not None:
        rows.append(("known answers", _share(one.mean_score), _share(other.mean_score), ""))
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)
    for line in _sentences(result):
        console.print(Text(printable(line)), soft_wrap=True)
    for warning in record.warnings:
        console.print(Text(printable(warning), style="yellow"), soft_wrap=True)
    console.print(Text(f"next: quantbench shadow verdict {result.directory}"), soft_wrap=True)


def _sentences(result: ReplayResult) -> list[str]:
    summary, prompts = result.summary, result.record.prompts
    told = [f"{summary.same} of {summary.compared} answers are the same ({summary.pairs} pairs)"]
    if summary.median_first_difference is not None:
        told[0] += f"; the others part at token {summary.median_first_difference:g} (median, from 0)"
    if summary.tool_calls:
        told.append(f"{summary.same_tool_calls} of {summary.tool_calls} answers with tool calls call the same")
    if summary.mean_agreement is not None:
        told.append(f"{100 * summary.mean_agreement:.1f} % of the champion's tokens are the candidate's likeliest")
    if summary.mean_preference is not None:
        told.append(f"the judge's preference is {summary.mean_preference:+.2f} on average, of {summary.judged} pairs")
    if prompts.broken:
        told.append(f"{prompts.broken} of {prompts.lines} lines of {prompts.file} were left out, the first of them:")
        told += [f"  {line}" for line in prompts.broken_lines]
    return told


def _latency(side: SideSummary) -> str:
    return _milliseconds(side.median_seconds)


def _milliseconds(seconds: float | None) -> str:
    return _NONE if seconds is None else milliseconds(seconds)


def _count(value: int | None) -> str:
    return _NONE if value is None else f"{value:,}"


def _share(value: float | None) -> str:
    return _NONE if value is None else f"{100 * value:.1f} %"


def _times(ratio: float | None) -> str:
    return _NONE if ratio is None else f"{ratio:.2f}"
