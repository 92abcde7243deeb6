"""The one table that terminal and page both draw: rows in, columns and cells out. Pure."""

import re
from typing import Literal

from evals.suite import Suite
from pipelines.device import SERVE_16_BIT_ONLY
from pipelines.report.rows import Row
from registry.contracts import CategoryRetention, CategoryScore
from registry.contracts.base import Record

Tone = Literal["good", "warn", "bad", "plain"]

CLEAR_STDERRS = 3.0
"""A difference of more standard errors than this is not taken for chance."""
LARGE_LOSS = 0.05
"""A clear loss of more than this share of the baseline is toned `bad`."""
UNKNOWN = "–"
DTYPE_MARK = "†"

_BITS = {"float32": 32, "bfloat16": 16, "float16": 16}
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Column(Record):
    """What a column holds: `unit` stands under the title, `hint` explains it in a sentence."""

    title: str
    unit: str = ""
    hint: str
    group: Literal["model", "quality", "size", "speed", "verdict"]


class Cell(Record):
    """One value; `second` is the line under it, `tooltip` what there is no room for."""

    text: str = UNKNOWN
    second: str | None = None
    tone: Tone = "plain"
    tooltip: str | None = None


class ReportTable(Record):
    columns: list[Column]
    rows: list[list[Cell]]
    """One list a model, as long as `columns`."""
    footnotes: list[str]


def build_table(rows: list[Row], suite: Suite) -> ReportTable:
    """Draw up the table of a run; what is not known yet is a dash.

    Args:
        rows: The baseline first, then the artifacts.
        suite: Gives the category columns their order, chance and direction. No average over them is ever made.
    """
    baseline = rows[0]
    parts = [_identity(rows, baseline), *_categories(rows, suite), _speeds(rows, baseline), _costs(rows, baseline)]
    columns = [column for part in parts for column in part[0]]
    cells = [[cell for part in parts for cell in part[1][index]] for index in range(len(rows))]
    return ReportTable(columns=columns, rows=cells, footnotes=_footnotes(rows, baseline))


_Part = tuple[list[Column], list[list[Cell]]]


def _identity(rows: list[Row], baseline: Row) -> _Part:
    columns = [
        Column(title="model", unit="method", hint="The method entry's name in the recipe.", group="model"),
        Column(title="dtype", unit="served", hint="What activations are computed in while serving.", group="model"),
        Column(title="size", unit="MiB", hint="Safetensors on disk; below, the share of the baseline.", group="size"),
        Column(title="bits", unit="/ weight", hint="Bits on disk per quantized weight, with scales.", group="size"),
    ]
    cells = []
    for row in rows:
        serving = row.measurement.serving if row.measurement else None
        dtype = Cell(text=serving.dtype) if serving else Cell()
        if serving and _differs_in_dtype(row, baseline):
            dtype = Cell(text=f"{serving.dtype} {DTYPE_MARK}", tooltip="differs from the baseline: see the footnote")
        size = (
            Cell()
            if row.size_bytes is None
            else Cell(text=mebibytes(row.size_bytes), second=_ratio(row.size_bytes, baseline.size_bytes, row, baseline))
        )
        bits = Cell()
        if row.artifact:
            bits = Cell(text=f"{row.artifact.bits_per_weight:.2f}")
        elif row.checkpoint:
            bits = Cell(text=f"{_BITS[row.checkpoint.dtype]}", tooltip=f"stored as {row.checkpoint.dtype}")
        cells.append([Cell(text=row.name, second="unquantized" if row is baseline else row.method), dtype, size, bits])
    return columns, cells


def _categories(rows: list[Row], suite: Suite) -> list[_Part]:
    parts: list[_Part] = []
    for category in suite.categories:
        if category.unit == "perplexity":
            unit = "perplexity, lower is better"
        else:
            unit = "no chance" if category.chance is None else f"chance {100 * category.chance:.3g} %"
        hint = f"{category.description} Below, the share of the baseline that is kept."
        column = Column(title=category.name, unit=unit, hint=hint, group="quality")
        parts.append(([column], [[_category_cell(row, category.name)] for row in rows]))
    return parts


def _category_cell(row: Row, category: str) -> Cell:
    score, kept = row.score(category), row.kept(category)
    if score is None:
        return Cell()
    return Cell(
        text=_score_text(score),
        second=f"kept {with_stderr(kept.retention, kept.retention_stderr)}" if kept else None,
        tone=tone_of(kept) if kept else "plain",
        tooltip=_tooltip(score, kept),
    )


def _score_text(score: CategoryScore) -> str:
    digits = 1 if score.unit == "perplexity" else 2
    return with_stderr(score.value, score.stderr, digits)


def _tooltip(score: CategoryScore, kept: CategoryRetention | None) -> str:
    facts = [f"{score.items} items, metric {score.metric}"]
    if kept and kept.chance_corrected_retention is not None and kept.chance:
        facts.append(f"above chance it keeps {kept.chance_corrected_retention:.2f}")
    if kept and kept.flips_to_wrong is not None:
        facts.append(f"{kept.flips_to_wrong} items turned wrong, {kept.flips_to_right} turned right")
    if kept and better_than_plausible(kept):
        facts.append(f"better than its baseline by more than {CLEAR_STDERRS:.0f} standard errors: look for a mistake")
    return "; ".join(facts)


def tone_of(kept: CategoryRetention) -> Tone:
    """`warn` where an artifact beats its own baseline too clearly to be believed, `bad` for a clear large loss."""
    if better_than_plausible(kept):
        return "warn"
    return "bad" if _stderrs(kept) < -CLEAR_STDERRS and kept.retention < 1 - LARGE_LOSS else "plain"


def better_than_plausible(kept: CategoryRetention) -> bool:
    """More than three standard errors better than the baseline: quantization loses, so something else is at work."""
    return _stderrs(kept) > CLEAR_STDERRS


def _stderrs(kept: CategoryRetention) -> float:
    """The difference in standard errors, positive where the artifact is better; 0 where it has none."""
    if kept.difference_stderr:
        return kept.difference / kept.difference_stderr
    return (kept.retention - 1) / kept.retention_stderr if kept.retention_stderr else 0.0


def _speeds(rows: list[Row], baseline: Row) -> _Part:
    levels = concurrencies(rows)
    columns = [
        Column(
            title="output",
            unit=f"tokens/s at {level}",
            hint=f"Output tokens per second with {level} requests at a time; below, the share of the baseline.",
            group="speed",
        )
        for level in levels
    ]
    first = levels[:1]
    columns += [
        Column(
            title="TTFT p50",
            unit=f"ms at {level}",
            hint=f"Median time to the first token with {level} requests at a time.",
            group="speed",
        )
        for level in first
    ]
    cells = []
    for row in rows:
        line = []
        for level in levels:
            speed = row.tokens_per_second(level)
            ratio = _ratio(speed, baseline.tokens_per_second(level), row, baseline)
            line.append(Cell() if speed is None else Cell(text=f"{speed:.1f}", second=ratio))
        line += [_ttft_cell(row, level) for level in first]
        cells.append(line)
    return columns, cells


def _ttft_cell(row: Row, level: int) -> Cell:
    points = row.measurement.serving.load_points if row.measurement else []
    point = next((point for point in points if point.concurrency == level), None)
    return Cell(text=f"{1000 * point.ttft_p50_seconds:.0f}") if point else Cell()


def _costs(rows: list[Row], baseline: Row) -> _Part:
    columns = [
        Column(
            title="memory",
            unit="peak MiB",
            hint="Peak of the server's process tree, KV cache included; below, the share of the baseline.",
            group="size",
        ),
        Column(title="start", unit="s", hint="From launching the server to its first healthy answer.", group="speed"),
        Column(title="verdict", hint="pass: sound and served. What it lost is yours to judge.", group="verdict"),
    ]
    tones: dict[str, Tone] = {"pass": "good", "fail": "bad", "unfinished": "plain"}
    cells = []
    for row in rows:
        serving = row.measurement.serving if row.measurement else None
        peak = _peak(row)
        cells.append(
            [
                Cell()
                if peak is None
                else Cell(text=mebibytes(peak), second=_ratio(peak, _peak(baseline), row, baseline)),
                Cell(text=f"{serving.start_seconds:.0f}") if serving else Cell(),
                Cell(text=row.verdict, tone=tones[row.verdict], tooltip=row.failure),
            ]
        )
    return columns, cells


def _footnotes(rows: list[Row], baseline: Row) -> list[str]:
    notes = []
    for row in rows:
        if row.measurement and baseline.measurement and _differs_in_dtype(row, baseline):
            why = (
                "vLLM serves this method in 16-bit types only"
                if row.method in SERVE_16_BIT_ONLY
                else "so the recipe or this machine's dtype policy has it"
            )
            notes.append(
                f"{DTYPE_MARK} {row.name} is served in {row.measurement.serving.dtype}, the baseline in "
                f"{baseline.measurement.serving.dtype} ({why}): its quality and its speed include that difference."
            )
    return notes


def _differs_in_dtype(row: Row, baseline: Row) -> bool:
    if row.measurement is None or baseline.measurement is None:
        return False
    return row.measurement.serving.dtype != baseline.measurement.serving.dtype


def concurrencies(rows: list[Row]) -> list[int]:
    """Levels of concurrent requests at which any row was loaded, ascending."""
    return sorted(
        {point.concurrency for row in rows if row.measurement for point in row.measurement.serving.load_points}
    )


def _peak(row: Row) -> int | None:
    return row.measurement.serving.memory.peak_process_bytes if row.measurement else None


def _ratio(value: float | None, base: float | None, row: Row, baseline: Row) -> str | None:
    return f"{value / base:.2f}×" if value is not None and base and row is not baseline else None


def mebibytes(size_bytes: int) -> str:
    """Bytes as a number of MiB with thousands separated."""
    mib = size_bytes / 2**20
    return f"{mib:,.0f}" if mib >= 100 else f"{mib:.1f}"


def with_stderr(value: float, stderr: float | None, digits: int = 2) -> str:
    """`0.83 ± 0.04`; the value alone where there is no standard error."""
    return f"{value:.{digits}f}" if stderr is None else f"{value:.{digits}f} ± {stderr:.{digits}f}"


def printable(text: str) -> str:
    """`text` without terminal sequences and control characters: names and log lines come from outside."""
    return _CONTROL.sub("", text)
