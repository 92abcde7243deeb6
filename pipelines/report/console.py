"""A run in the terminal: a table that fills row by row, one line a finished stage, and how it all ended.

Everything goes to stderr, so that stdout stays free for `--json`.
"""

import time
from dataclasses import dataclass
from types import TracebackType

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from evals.suites.suite import Suite
from pipelines.planning.open_run import OpenRun
from pipelines.records.decision import RecommendationRecord
from pipelines.records.events import StageOutcome
from pipelines.records.model_cost import pricing_of
from pipelines.records.rows import Row
from pipelines.records.run_record import RunRecord
from pipelines.report.judged import judged
from pipelines.report.summary import blame_text, failed, names, reused_text, sentences, timed_stages
from pipelines.report.table import VERDICT_TONES, Cell, Column, ReportTable, Tone, build_table, printable
from quantizers.checkpoints.sources import HubSource
from registry.contracts import CharacterizationRecord, RetentionRecord

HEARTBEAT_SECONDS = 30.0
_STYLES: dict[Tone, str] = {"good": "green", "warn": "yellow", "bad": "red", "plain": ""}


@dataclass
class _Working:
    """A stage, or the recording, while it works."""

    since: float
    last_word: float
    """When it was told last; both as `time.monotonic()` gives it."""
    doing: str = ""

    def told(self, name: str, now: float) -> str:
        return f"{name}: {self.doing}, {now - self.since:.0f} s"


class RunConsole:
    """Observer of a run. Use as a context manager around it, then call `print_record`.

    Args:
        run: What is going to be run.
        console: Where to write; stderr by default.
    """

    def __init__(self, run: OpenRun, console: Console | None = None) -> None:
        self._run = run
        self._pricing = pricing_of(run.context.config.as_json())
        self._console = console or Console(stderr=True)
        self._rows: list[Row] = []
        self._working: dict[str, _Working] = {}
        self._finished = 0
        self._live: Live | None = None

    def __enter__(self) -> "RunConsole":
        config, machine = self._run.context.config, self._run.context.machine
        self._say(f"{config.name} on {machine.device_name}, {machine.threads} threads: {len(self._run.stages)} stages")
        if self._run.asked_revision and isinstance(config.source, HubSource):
            self._say(f"{config.source.id} at {self._run.asked_revision} is commit {config.source.revision}")
        for name, why in self._run.left_out.items():
            self._say(f"{name} is left out: {why}", "yellow")
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._now, console=self._console, refresh_per_second=2, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def on_progress(self, name: str, text: str) -> None:
        """Remember what a stage, or the recording, does; without a terminal, say so every `HEARTBEAT_SECONDS`."""
        now = time.monotonic()
        working = self._working.setdefault(name, _Working(since=now, last_word=now))
        working.doing = text
        if self._live is None and now - working.last_word >= HEARTBEAT_SECONDS:
            working.last_word = now
            self._say(working.told(name, now))

    def on_doubt(self, text: str) -> None:
        """Say it at once."""
        self._say(text, "yellow")

    def on_outcome(self, outcome: StageOutcome, rows: list[Row]) -> None:
        """Print how the stage ended, and without a terminal the row that it completed."""
        self._rows = rows
        self._working.pop(outcome.name, None)
        self._finished += 1
        how = outcome.how if outcome.how in ("reused", "skipped") else f"{outcome.how} in {outcome.wall_seconds:.0f} s"
        styles = {"failed": "red", "skipped": "yellow", "reused": "dim"}
        self._say(f"{outcome.name} {how}", styles.get(outcome.how, ""))
        if outcome.result.failure:
            failure = outcome.result.failure
            blame = f"\n  blame: {blame_text(failure)}" if failure.blame else ""
            self._say(f"  {failure.what}{blame}\n  remedy: {failure.remedy}", "red")
        kind, _, subject = outcome.name.partition(":")
        if self._live is None and kind == "measure":
            table = build_table(rows, self._run.context.suite, self._pricing)
            for row, cells in zip(rows, table.rows, strict=True):
                if row.name == subject and row.measurement:
                    self._say("  " + row_text(table.columns, cells))

    def _say(self, text: str, style: str = "") -> None:
        self._console.print(_text(text, style), soft_wrap=True)

    def _now(self) -> RenderableType:
        """The table as far as it goes, above a line for each stage that works; never taller than the terminal."""
        working = dict(self._working)
        parts: list[RenderableType] = []
        if self._rows:
            table = build_table(self._rows, self._run.context.suite, self._pricing)
            lines = self._console.height - 2 - max(1, len(working))
            for block in table_blocks(self._console, table):
                lines -= len(self._console.render_lines(block))
                if lines < 0:
                    parts.append(_text("more columns at the end of the run, or in a taller terminal", "dim"))
                    break
                parts.append(block)
        done, now = f"[{self._finished}/{len(self._run.stages)}]", time.monotonic()
        told = [one.told(name, now) for name, one in working.items()] or [""]
        parts += [_text(f"{done} {line}".rstrip(), "bold") for line in told]
        return Group(*parts)


def print_record(console: Console, record: RunRecord, suite: Suite) -> None:
    """Print what a run came to, at the console's width: table, times, reuse, failures, where page and records are."""
    table = build_table(record.rows, suite, pricing_of(record.config))
    console.print()
    for block in table_blocks(console, table):
        console.print(block)
    for note in table.footnotes:
        console.print(_text(note, "dim"))
    checkpoint = record.rows[0].checkpoint
    if checkpoint and checkpoint.note:
        console.print(_text(f"baseline: {checkpoint.note}", "dim"))
    console.print()
    for sentence in sentences(record.rows):
        console.print(Text.assemble(_text(sentence.name, f"bold {_STYLES[sentence.tone]}"), " ", _text(sentence.text)))
    console.print()
    if record.recommendation:
        print_recommendation(console, record.recommendation)
        console.print()
    _print_times(console, record)
    _print_failures(console, record)
    for what, where in (("report", record.page), ("MLflow", record.tracking), ("logs", record.run_dir / "logs")):
        if where:
            console.print(_text(f"{what}: {where}"), soft_wrap=True)


def print_recommendation(console: Console, found: RecommendationRecord) -> None:
    """Print what to take, why not the others, and what comes next."""
    for one in found.candidates:
        if one.name == found.choice:
            continue
        why = [limit for limit in one.limits if limit.outcome == one.outcome] if one.outcome != "pass" else []
        told = "; ".join(f"{limit.limit}: {limit.reason}" for limit in why)
        told = told or (
            f"keeps all limits; {one.beaten_by} is as good or better in all" if one.beaten_by else "would do"
        )
        verdict = _text(one.outcome, _STYLES[VERDICT_TONES[one.outcome]])
        console.print(Text.assemble(_text(one.name, "bold"), " ", verdict, ", ", _text(told)))
    tones: dict[str, Tone] = {"artifact": "good", "undecided": "warn", "none": "bad"}
    console.print(Text.assemble(_text("recommended: ", f"bold {_STYLES[tones[found.kind]]}"), _text(found.sentence)))
    console.print(Text.assemble(_text("next: ", "bold"), _text(found.next_step)), soft_wrap=True)


def print_comparison(
    console: Console, baseline: str, artifact: str, retention: RetentionRecord, found: CharacterizationRecord
) -> None:
    """Print what one model kept of another: verdict, categories, a reason each, and where it was lost."""
    verdict = _text(retention.verdict, f"bold {_STYLES[VERDICT_TONES[retention.verdict]]}")
    console.print(
        Text.assemble(_text(f"{artifact} against {baseline}: "), verdict, _text(f", {retention.verdict_reason}"))
    )
    table = Table(box=box.SIMPLE_HEAVY, header_style="bold")
    table.add_column("category")
    for title in ("items", "A", "B", "difference [95 %]", "margin", "verdict"):
        table.add_column(title, justify="right", no_wrap=not title.startswith("difference"))
    categories = judged(retention)
    for one in categories:
        texts = (one.items, one.baseline, one.artifact, one.difference_text, one.margin_text)
        table.add_row(_text(one.category), *map(_text, texts), _text(one.verdict, _STYLES[one.tone]))
    console.print(table)
    for one in categories:
        console.print(Text.assemble(_text(one.category, f"bold {_STYLES[one.tone]}"), " ", _text(one.reason)))
    console.print()
    for breakdown in found.breakdowns:
        console.print(Text.assemble(_text(f"by {breakdown.by}", "bold"), " ", _text(breakdown.finding)))
    for part in found.parts:
        if part.differ:
            console.print(Text.assemble(_text(f"{part.category} by {part.by}", "bold"), " ", _text(part.finding)))


def table_blocks(console: Console, table: ReportTable) -> list[Table]:
    """The table's panels, each cut into as few blocks as the width allows; a block begins with the model's column."""
    blocks: list[list[int]] = []
    for model, *panel in table.panels:
        blocks.append([model])
        for index in panel:
            wider = [*blocks[-1], index]
            if len(blocks[-1]) > 1 and _width(console, _block(table, wider)) > console.width:
                blocks.append([model, index])
            else:
                blocks[-1] = wider
    return [_block(table, block) for block in blocks]


def row_text(columns: list[Column], cells: list[Cell]) -> str:
    """A row as one line: for logs, where a table that grows cannot be drawn."""
    facts = [
        f"{column.title} {cell.text}{' ' + column.unit if column.group == 'cost' and column.unit else ''}"
        + (f" ({cell.second})" if cell.second else "")
        for column, cell in zip(columns[1:], cells[1:], strict=True)
    ]
    return f"{cells[0].text}: " + ", ".join(facts)


def _block(table: ReportTable, indices: list[int]) -> Table:
    drawn = Table(header_style="", box=box.SIMPLE_HEAVY)
    for index in indices:
        column = table.columns[index]
        header = Text.assemble(_text(column.title, "bold"), "\n", _text(_short(column.unit), "dim"))
        drawn.add_column(header, justify="left" if index == 0 else "right", no_wrap=True)
    for cells in table.rows:
        drawn.add_row(*(_drawn(cells[index]) for index in indices))
    return drawn


def _short(unit: str) -> str:
    """`perplexity, lower is better` in two short lines."""
    return unit.replace(", ", "\n")


def _drawn(cell: Cell) -> Text:
    text = _text(cell.text, _STYLES[cell.tone])
    return Text.assemble(text, "\n", _text(cell.second, _STYLES[cell.tone] or "dim")) if cell.second else text


def _width(console: Console, table: Table) -> int:
    # A huge limit: the table's own wish, not what it would be squeezed into.
    return Measurement.get(console, console.options.update_width(10_000), table).maximum


def _print_times(console: Console, record: RunRecord) -> None:
    stages = timed_stages(record)
    if stages:
        table = Table("stage", "s", "where the time went, in s", box=None, padding=(0, 2, 0, 0), header_style="bold")
        table.columns[1].justify = "right"
        for stage in stages:
            parts = ", ".join(f"{part.name} {part.seconds:.1f}" for part in stage.parts)
            parts += f"; beside {', '.join(stage.beside)}" if stage.beside else ""
            table.add_row(_text(stage.name), f"{stage.seconds:.1f}", _text(parts))
        console.print(table)
    breakdown = record.breakdown
    console.print(
        _text(
            f"{breakdown.wall_seconds:.1f} s in all, of which {breakdown.own_seconds:.1f} s "
            f"({100 * breakdown.own_share:.0f} %) went into neither quantizing, loading, serving nor evaluating"
        )
    )
    console.print(_text(reused_text(record.outcomes)))


def _print_failures(console: Console, record: RunRecord) -> None:
    for name, failure in failed(record):
        console.print(_text(f"\nFAILED {name}", "bold red"))
        console.print(Padding(_text(failure.what), (0, 0, 0, 2)))
        if failure.blame:
            console.print(Padding(_text(f"blame: {blame_text(failure)}"), (0, 0, 0, 2)))
        console.print(Padding(_text(f"remedy: {failure.remedy}", "bold"), (0, 0, 0, 2)))
    skipped = names(record.outcomes, "skipped")
    if skipped:
        console.print(_text(f"\nskipped, since what they need failed: {', '.join(skipped)}", "yellow"))
    if failed(record) or skipped:
        console.print()


def _text(text: str, style: str = "") -> Text:
    """Text without markup: names and log lines come from outside."""
    return Text(printable(text), style=style)
