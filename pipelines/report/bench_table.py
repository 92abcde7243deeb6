"""A bench in the terminal: a row a load test, the checks, and where everything is."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.records.bench_result import BenchResult
from pipelines.records.model_cost import cost_text, model_cost
from pipelines.records.rows import BenchedModel
from pipelines.report.cost import cost_part, joules_text, point_cost_text
from pipelines.report.load import doubt, load_text, milliseconds, slo_text
from pipelines.report.table import mebibytes, printable
from registry.contracts import LoadPoint, ServingRecord
from registry.contracts.serving import RateSearch
from registry.numerals import significant

_STYLES = {"pass": "green", "fail": "bold red", "not_run": "yellow"}
_NONE = "–"


def print_bench(console: Console, result: BenchResult) -> None:
    """Print the load tests, the checks, the warnings, and where record and page are."""
    record = result.record
    table = Table(box=box.SIMPLE_HEAVY, header_style="bold")
    table.add_column(f"{result.name}\n{record.engine} {record.engine_version}")
    priced = [f"{result.pricing.currency}\n1M tokens"] if result.pricing else []
    metered = ["J/token"] if any(joules_text(point) for point in record.load_points) else []
    for title in ("prompts", "completed", "tokens/s", "TTFT ms\np50, p99", "TPOT ms\np50, p99", *priced, *metered, ""):
        table.add_column(title, justify="right" if title else "left")
    for point in record.load_points:
        cost = [point_cost_text(record, point, result.pricing) or _NONE for _ in priced]
        energy = [joules_text(point) or _NONE for _ in metered]
        *cells, doubts = _cells(point)
        table.add_row(*map(_text, [*cells, *cost, *energy, doubts]), style="yellow" if doubt(point) else "")
    console.print(table)
    for note in _cost_notes(result):
        console.print(_text(note), soft_wrap=True)
    if record.rate_search:
        console.print(_text(_rate(record.rate_search)), soft_wrap=True)
    console.print(_text(_memory(record)))
    for check in record.checks:
        style = _STYLES[check.outcome]
        console.print(_text(f"{check.check} {check.outcome.replace('_', ' ')}: {check.reason}", style), soft_wrap=True)
    for warning in record.warnings:
        console.print(_text(warning, "yellow"), soft_wrap=True)
    for what, where in (("report", result.page), ("record", result.directory)):
        console.print(_text(f"{what}: {where}"), soft_wrap=True)


def _cells(point: LoadPoint) -> list[str]:
    times = [
        f"{milliseconds(of.p50_seconds)}, {milliseconds(of.p99_seconds)}" if point.completed else _NONE
        for of in (point.ttft, point.tpot)
    ]
    completed = f"{point.completed} of {point.requests}"
    speed = significant(point.output_tokens_per_second)
    return [load_text(point), point.prompts, completed, speed, *times, doubt(point) or ""]


def _cost_notes(result: BenchResult) -> list[str]:
    """What costs and energy are, and what the highest load that kept the SLO costs."""
    row = BenchedModel(name=result.name, served=result.record)
    notes = cost_part([row], result.pricing).notes
    found = model_cost(row, result.pricing, None) if result.pricing else None
    if found and found.within_slo:
        within = f"{cost_text(found.within_slo.cost)}, {load_text(found.within_slo.point)}"
        notes.append(f"at the highest load that kept the SLO: {within}")
    elif found and found.within_slo_missing:
        notes.append(f"no cost within the SLO: {found.within_slo_missing}")
    return notes


def _rate(search: RateSearch) -> str:
    highest = search.highest_good_requests_per_second
    told = "even the lowest rate tried did not" if highest is None else f"{significant(highest)} requests/s"
    return f"highest rate at which {100 * search.share:g} % of requests kept {slo_text(search.slo)}: {told}"


def _memory(record: ServingRecord) -> str:
    memory = record.memory
    known = {
        "resident weights": memory.resident_weights_bytes,
        "KV cache": memory.kv_cache_bytes,
        "peak": memory.peak_process_bytes,
    }
    told = [f"{name} {mebibytes(value)} MiB" for name, value in known.items() if value is not None]
    return "memory: " + ", ".join([*told, *memory.notes])


def _text(text: str, style: str = "") -> Text:
    """Text without markup: notes hold lines of logs."""
    return Text(printable(text), style=style)
