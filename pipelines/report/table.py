"""The one table that terminal and page both draw: rows in, columns and cells out. Pure."""

import functools
import re
from collections import Counter
from collections.abc import Callable
from typing import Literal

from evals.suites.suite import Suite
from pipelines.records.model_cost import LoadCost, Pricing, model_cost
from pipelines.records.rows import UNQUANTIZED, Row, concurrencies
from pipelines.report.asked import asking_notes
from pipelines.report.cost import BLENDED, blended_text, cost_tooltip, energy_notes, joules_text, price_text
from pipelines.report.load import conditions_text, doubt, load_text, milliseconds
from registry.contracts import CategoryRetention, CategoryScore, CheckRecord, LoadPoint, RetentionRecord
from registry.contracts.base import Record
from registry.contracts.comparison import Verdict
from serving_checks.engines.table import engine_type
from serving_checks.readings.bounds import Share

Tone = Literal["good", "warn", "bad", "plain"]

CLEAR_STDERRS = 3.0
"""A difference of more standard errors than this is not taken for chance."""
VERDICT_TONES: dict[Verdict, Tone] = {"pass": "good", "fail": "bad", "inconclusive": "warn"}
OUTCOME_TONES: dict[str, Tone] = {"pass": "good", "fail": "bad", "not_run": "plain"}
UNKNOWN = "–"
NOTHING_TO_KEEP = "nothing to keep"
"""Stands in place of a category's retention where the baseline has next to no score, or no more than guessing gives."""
DTYPE_MARK = "†"

_KNOWS = {"share": "knows beyond guessing", "perplexity": "scores"}
_MOST_DIGITS = 6
_BITS = {"float32": 32, "bfloat16": 16, "float16": 16}
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Terminal sequences, control characters, and what turns the direction of text around."""


class Column(Record):
    """What a column holds: `unit` stands under the title, `hint` explains it in a sentence."""

    title: str
    unit: str = ""
    hint: str
    group: Literal["model", "quality", "cost"]


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

    @property
    def panels(self) -> list[list[int]]:
        """Indices of the columns that are drawn together: quality, then cost, each behind the model's column."""
        return [
            [index for index, column in enumerate(self.columns) if column.group in ("model", group)]
            for group in ("quality", "cost")
        ]


def build_table(rows: list[Row], suite: Suite, pricing: Pricing | None = None) -> ReportTable:
    """Draw up the table of a run; what is not known yet is a dash.

    Args:
        rows: The baseline first, then the artifacts.
        pricing: What costs are computed from; no column of them without.
        suite: Gives the category columns their order, chance and direction. No average over them is ever made.
    """
    baseline = rows[0]
    model, dtype = _identity(baseline)
    quality = [model, _verdict(), dtype, *_categories(suite)]
    drawn = [*quality, *_sizes(baseline), *_speeds(rows, baseline), *_costs(rows, pricing), *_energy(rows), _checks()]
    return ReportTable(
        columns=[column for column, _ in drawn],
        rows=[[cell_of(row) for _, cell_of in drawn] for row in rows],
        footnotes=[
            *_footnotes(rows, baseline),
            *asking_notes(rows),
            *([price_text(pricing)] if pricing else []),
            *energy_notes(rows),
        ],
    )


_ColumnAndCells = tuple[Column, Callable[[Row], Cell]]


def _identity(baseline: Row) -> list[_ColumnAndCells]:
    def model(row: Row) -> Cell:
        method = "unquantized" if row.method == UNQUANTIZED else row.method
        return Cell(text=row.name, second=method if method != row.name else None)

    def dtype(row: Row) -> Cell:
        if row.measurement is None:
            return Cell()
        served = row.measurement.serving.dtype
        if not _differs_in_dtype(row, baseline):
            return Cell(text=served)
        return Cell(text=f"{served} {DTYPE_MARK}", tooltip="differs from the baseline's: see the footnote")

    return [
        (Column(title="model", unit="method", hint="The method entry's name in the recipe.", group="model"), model),
        (
            Column(
                title="dtype", unit="served", hint="What activations are computed in while serving.", group="quality"
            ),
            dtype,
        ),
    ]


def _categories(suite: Suite) -> list[_ColumnAndCells]:
    columns: list[_ColumnAndCells] = []
    for category in suite.categories:
        if category.unit == "perplexity":
            unit = "perplexity, lower is better"
        else:
            unit = "" if category.chance is None else f"chance {100 * category.chance:.3g} %"
        hint = (
            f"{category.description} Below, the share that is kept of what the baseline {_KNOWS[category.unit]}, with"
            f" its 95 % interval, or `{NOTHING_TO_KEEP}` where the baseline has next to no score, or no more than"
            " guessing gives, and no loss could show."
        )
        column = Column(title=category.name, unit=unit, hint=hint, group="quality")
        columns.append((column, functools.partial(_category_cell, category=category.name)))
    return columns


def _verdict() -> _ColumnAndCells:
    hint = (
        "pass: every category surely lost less than its margin. fail: one surely lost more, or the artifact did not "
        "pass its inspection or could not be served. inconclusive: more items are needed, the baseline has nothing to "
        "keep, or prompts did not fit into the context."
    )

    def cell(row: Row) -> Cell:
        if row.verdict is None:
            return Cell()
        return Cell(
            text=row.verdict,
            second="not sound" if row.failure else _deciding(row.retention),
            tone=VERDICT_TONES[row.verdict],
            tooltip=row.failure or (row.retention.verdict_reason if row.retention else None),
        )

    return Column(title="verdict", hint=hint, group="quality"), cell


def _deciding(retention: RetentionRecord | None) -> str | None:
    """How many categories are of the verdict that decided."""
    if retention is None:
        return None
    deciding = sum(kept.verdict == retention.verdict for kept in retention.categories)
    return f"{deciding} of {len(retention.categories)}"


def _category_cell(row: Row, category: str) -> Cell:
    score, kept = row.score(category), row.kept(category)
    if score is None:
        return Cell()
    return Cell(
        text=_score_text(score),
        second=_kept_text(kept) if kept else None,
        tone=tone_of(kept) if kept else "plain",
        tooltip=_tooltip(score, kept),
    )


def _kept_text(kept: CategoryRetention) -> str | None:
    if kept.nothing_to_keep:
        return NOTHING_TO_KEEP
    return None if kept.kept is None else f"kept {kept_text(kept)}"


def kept_text(kept: CategoryRetention) -> str:
    """`0.82 [0.70, 0.93]`: what was kept above guessing, with its score interval; empty where nothing can be told."""
    if kept.kept is None:
        return ""
    return f"{kept.kept:.2f}{bounds_text(kept.kept_low, kept.kept_high)}"


def bounds_text(low: float | None, high: float | None) -> str:
    """` [0.70, 0.93]`; nothing where there is no interval."""
    return "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"


def _score_text(score: CategoryScore) -> str:
    if not score.stderr and score.low is not None:
        # All items alike: no spread was seen, which is no certainty.
        return f"{score.value:.2f}{bounds_text(score.low, score.high)}"
    return with_stderr(score.value, score.stderr, 1 if score.unit == "perplexity" else 2)


def _tooltip(score: CategoryScore, kept: CategoryRetention | None) -> str:
    facts = [f"{score.items} items, metric {score.metric}"]
    if kept:
        facts.append(f"{kept.verdict}: {kept.verdict_reason}")
    if kept and kept.retention is not None and kept.chance:
        facts.append(f"with what guessing scores, the ratio is {kept.retention:.2f}")
    if kept and kept.flips_to_wrong is not None:
        facts.append(f"{kept.flips_to_wrong} items turned wrong, {kept.flips_to_right} turned right")
    if kept and better_than_plausible(kept):
        facts.append(f"better than its baseline by more than {CLEAR_STDERRS:.0f} standard errors: look for a mistake")
    return "; ".join(facts)


def tone_of(kept: CategoryRetention) -> Tone:
    """`bad` for a category that fails, `warn` where an artifact beats its baseline too clearly to be believed.

    An inconclusive category is `plain`: with few items it is the usual case, and the verdict's column says it.
    """
    if kept.verdict == "fail":
        return "bad"
    return "warn" if better_than_plausible(kept) else "plain"


def better_than_plausible(kept: CategoryRetention) -> bool:
    """More than three standard errors better than the baseline: quantization loses, so something else is at work."""
    return bool(kept.difference and kept.difference_stderr and kept.difference / kept.difference_stderr > CLEAR_STDERRS)


def _sizes(baseline: Row) -> list[_ColumnAndCells]:
    def size(row: Row) -> Cell:
        return _compared(row.size_bytes, baseline.size_bytes, mebibytes, row is baseline)

    def bits(row: Row) -> Cell:
        if row.artifact:
            return Cell(text=f"{row.artifact.bits_per_weight:.2f}")
        dtype = row.checkpoint.dtype if row.checkpoint else None
        return Cell(text=str(_BITS[dtype]), tooltip=f"stored as {dtype}") if dtype else Cell()

    def memory(row: Row) -> Cell:
        return _compared(_peak_bytes(row), _peak_bytes(baseline), mebibytes, row is baseline)

    below = "below, relative to the baseline."
    return [
        (Column(title="size", unit="MiB", hint=f"Safetensors on disk; {below}", group="cost"), size),
        (
            Column(
                title="bits", unit="per weight", hint="Bits on disk per quantized weight, with scales.", group="cost"
            ),
            bits,
        ),
        (
            Column(
                title="memory",
                unit="peak MiB",
                hint=f"Peak of the server's process tree, KV cache included; {below}",
                group="cost",
            ),
            memory,
        ),
    ]


def _speeds(rows: list[Row], baseline: Row) -> list[_ColumnAndCells]:
    levels = concurrencies(rows)
    known = any(row.serving and row.serving.limits for row in rows)
    limit = ", and the share of what this machine allows while decoding." if known else "."
    of_limit = " Below, the share of what this machine allows." if known else ""
    columns = [
        (
            Column(
                title="tokens/s",
                unit=f"at {level}",
                hint=f"Output tokens per second with {level} requests at a time; below, relative to the baseline"
                + limit,
                group="cost",
            ),
            functools.partial(_speed_cell, level=level, baseline=baseline),
        )
        for level in levels
    ]
    columns += [
        (
            Column(
                title="TTFT p50",
                unit=f"ms at {level}",
                hint=f"Median time to the first token with {level} requests at a time.{of_limit}",
                group="cost",
            ),
            functools.partial(_ttft_cell, level=level),
        )
        for level in levels[:1]
    ]
    hint = "From launching the server to its first healthy answer; its imports left out where it was forked."
    start = Column(title="start", unit="s", hint=hint, group="cost")
    return [*columns, (start, _start_cell)]


def _speed_cell(row: Row, level: int, baseline: Row) -> Cell:
    point = row.closed_point(level)
    cell = _compared(row.tokens_per_second(level), baseline.tokens_per_second(level), "{:.1f}".format, row is baseline)
    return _conditioned(_limited(cell, row.decode_share(level)), row, point)


def _ttft_cell(row: Row, level: int) -> Cell:
    point = row.closed_point(level)
    known = point is not None and point.completed > 0 and point.invalid is None
    cell = Cell(text=milliseconds(point.ttft.p50_seconds)) if point and known else Cell()
    return _conditioned(_limited(cell, row.prefill_share if level == 1 else None), row, point)


def _limited(cell: Cell, share: Share | None) -> Cell:
    """The cell with the share of the machine's limit under it, marked where that cannot be."""
    if share is None:
        return cell
    second = ", ".join(filter(None, (cell.second, share.percent)))
    tone: Tone = "warn" if share.share > 1 else cell.tone
    return cell.model_copy(update={"second": second, "tooltip": share.sentence, "tone": tone})


def _conditioned(cell: Cell, row: Row, point: LoadPoint | None) -> Cell:
    """The cell with what was asked, and under which conditions; marked where the load test is doubtful."""
    if point is None or row.serving is None:
        return cell
    facts = f"{point.completed} of {point.requests} requests, prompts {point.prompts}; {conditions_text(row.serving)}"
    facts = "; ".join(filter(None, (cell.tooltip, facts)))
    why = doubt(point)
    if why is None:
        return cell.model_copy(update={"tooltip": facts})
    mark = {"tone": "warn", "second": "invalid" if point.invalid is not None else cell.second}
    return cell.model_copy(update=mark | {"tooltip": f"{why}; {facts}"})


def _costs(rows: list[Row], pricing: Pricing | None) -> list[_ColumnAndCells]:
    """What a million tokens cost; no column for a load that nobody asked for."""
    level = max(concurrencies(rows), default=None)
    if pricing is None or level is None:
        return []

    def measured(row: Row) -> Cell:
        found = model_cost(row, pricing, level)
        return _cost_cell(found.measured, found.measured_missing)

    def within_slo(row: Row) -> Cell:
        found = model_cost(row, pricing, level)
        at = load_text(found.within_slo.point) if found.within_slo else None
        return _cost_cell(found.within_slo, found.within_slo_missing).model_copy(update={"second": at})

    def column(load: str, hint: str) -> Column:
        return Column(title="cost", unit=f"{pricing.currency}, 1M tokens, {load}", hint=hint, group="cost")

    of = f"Price of a million tokens, {BLENDED},"
    drawn: list[_ColumnAndCells] = [(column(f"at {level}", f"{of} with {level} requests at a time."), measured)]
    if pricing.slo:
        drawn.append((column("in SLO", f"{of} at the highest load that kept the SLO, which stands below."), within_slo))
    return drawn


def _cost_cell(found: LoadCost | None, missing: str | None) -> Cell:
    return Cell(text=blended_text(found) or UNKNOWN, tooltip=cost_tooltip(found, missing))


def _energy(rows: list[Row]) -> list[_ColumnAndCells]:
    level = max(concurrencies(rows), default=0)
    if all(joules_text(row.closed_point(level)) is None for row in rows):
        return []
    hint = f"Energy of the device for each output token with {level} requests at a time, idle part included."
    column = Column(title="energy", unit=f"J/token at {level}", hint=hint, group="cost")
    return [(column, lambda row: Cell(text=joules_text(row.closed_point(level)) or UNKNOWN))]


def _checks() -> _ColumnAndCells:
    hint = "Proofs of batching, sharding and fairness that the server passed, of those that could be run."
    return Column(title="checks", hint=hint, group="cost"), _checks_cell


def _checks_cell(row: Row) -> Cell:
    checks = row.serving.checks if row.serving else []
    if not checks:
        return Cell(tooltip="no check of the server was made")
    ran = [check for check in checks if check.outcome != "not_run"]
    failing = [check.check for check in ran if check.outcome == "fail"]
    tooltip = "; ".join(map(check_text, checks))
    passed = f"{len(ran) - len(failing)} of {len(ran)}"
    if failing:
        which = failing[0] if len(failing) == 1 else str(len(failing))
        return Cell(text=f"{which} FAILED", second=passed, tone="bad", tooltip=tooltip)
    left_out = [f"{len(checks) - len(ran)} not run"] if len(ran) < len(checks) else []
    shared = [f"{count} on {name}" for name, count in Counter(check.proved_on for check in ran).items() if name]
    return Cell(text=passed if ran else UNKNOWN, second=", ".join(left_out + shared) or None, tooltip=tooltip)


def check_text(check: CheckRecord) -> str:
    """`batching failed: never more than one request at work`"""
    outcome = {"pass": "passed", "fail": "failed", "not_run": "not run"}[check.outcome]
    return f"{check.check} {outcome}: {check.reason}"


def _start_cell(row: Row) -> Cell:
    serving = row.measurement.serving if row.measurement else None
    if serving is None or serving.start_seconds is None:
        return Cell()
    return Cell(text=f"{serving.start_seconds:.0f}", second="beside other work" if serving.started_beside else None)


def _compared(value: float | None, base: float | None, text_of: Callable[[float], str], is_baseline: bool) -> Cell:
    """The value with its ratio to the baseline under it."""
    if value is None:
        return Cell()
    return Cell(text=text_of(value), second=f"{value / base:.2f}×" if base and not is_baseline else None)


def _peak_bytes(row: Row) -> int | None:
    return row.measurement.serving.memory.peak_process_bytes if row.measurement else None


def _footnotes(rows: list[Row], baseline: Row) -> list[str]:
    """One note for all models that are served in the same other dtype for the same reason."""
    named: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.measurement and _differs_in_dtype(row, baseline):
            engine = row.measurement.serving.engine
            why = (
                "to tell what the dtype costs"
                if row.method == UNQUANTIZED
                else f"{engine} serves this method in 16-bit types only"
                if engine_type(engine).serves_in_16_bits_only(row.artifact.method if row.artifact else None)
                else "so the recipe or this machine's dtype policy has it"
            )
            named.setdefault((row.measurement.serving.dtype, why), []).append(row.name)
    base = baseline.measurement.serving.dtype if baseline.measurement else ""
    return [
        f"{DTYPE_MARK} {', '.join(names)}: served in {dtype}, the baseline in {base} ({why}); "
        "quality and speed include that difference."
        for (dtype, why), names in named.items()
    ]


def _differs_in_dtype(row: Row, baseline: Row) -> bool:
    if row.measurement is None or baseline.measurement is None:
        return False
    return row.measurement.serving.dtype != baseline.measurement.serving.dtype


def mebibytes(size_bytes: float) -> str:
    """Bytes as a number of MiB with thousands separated."""
    mib = size_bytes / 2**20
    return f"{mib:,.0f}" if mib >= 100 else f"{mib:.1f}"


def with_stderr(value: float, stderr: float | None, digits: int = 2) -> str:
    """`0.83 ± 0.04`; the value alone where there is no standard error, and more digits rather than `± 0.00`."""
    if not stderr:
        return f"{value:.{digits}f}"
    while round(stderr, digits) == 0 and digits < _MOST_DIGITS:
        digits += 1
    return f"{value:.{digits}f} ± {stderr:.{digits}f}"


def printable(text: str) -> str:
    """`text` without terminal sequences and control characters: names and log lines come from outside."""
    return _CONTROL.sub("", text)


def plain(text: str) -> str:
    """`text` as one line without control characters, for metadata."""
    return " ".join(printable(text).split())
