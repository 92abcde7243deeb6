"""A search over serving parameters in the terminal: a row a cell, the best first."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.recipe.tune_config import TuneConfig, deciding_point, shown
from pipelines.records.tune_record import TABLE_FILE, TuneCell, TuneRecord
from pipelines.report.table import printable
from registry.contracts import LoadPoint, ServingRecord
from serving_checks.readings.bounds import decode_share

_NONE = "-"


def print_tune(console: Console, record: TuneRecord) -> None:
    """Print the cells, which one is taken and why, and where everything is."""
    table = Table(box=box.SIMPLE_HEAVY, header_style="bold")
    names = list(record.cells[0].parameters)
    for name in names:
        table.add_column(name, justify="right")
    for title in ("goodput\nrequests/s", "TTFT p95\ns", "TPOT p95\ns", "E2E p95\ns", "tokens/s", "peak\nMiB"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("")
    for cell in record.cells:
        is_winner = cell.parameters == record.winner
        style = "bold green" if is_winner else "" if cell.goodput_requests_per_second else "dim"
        parameters = [shown(cell.parameters[name]) for name in names]
        note = "; ".join(filter(None, ("taken" if is_winner else "", cell.note)))
        table.add_row(*(_text(text, style) for text in (*parameters, *_numbers(cell, record.tune), note)))
    console.print()
    console.print(table)
    console.print(_text(record.reason, "bold" if record.winner else "bold yellow"))
    for cell in record.cells:
        if cell.failure:
            console.print(_text(f"{cell.name}: {cell.failure.remedy}", "dim"))
    for what, where in (("serving parameters", record.winner_file), ("table", record.run_dir / TABLE_FILE)):
        if where:
            console.print(_text(f"{what}: {where}"), soft_wrap=True)


def _numbers(cell: TuneCell, tune: TuneConfig) -> list[str]:
    goodput = cell.goodput_requests_per_second
    point = deciding_point(cell.serving, tune.objective) if cell.serving else None
    peak = cell.serving.memory.peak_process_bytes if cell.serving else None
    times = (point.ttft, point.tpot, point.e2e) if point else ()
    return [
        _NONE if goodput is None else f"{goodput:.3g}",
        *([f"{time.p95_seconds:.3f}" for time in times] or [_NONE] * 3),
        _speed(cell.serving, point) if cell.serving and point else _NONE,
        _NONE if peak is None else f"{peak / 2**20:.0f}",
    ]


def _speed(serving: ServingRecord, point: LoadPoint) -> str:
    share = decode_share(serving, point)
    return f"{point.output_tokens_per_second:.1f}" + (f" ({share.percent} of the limit)" if share else "")


def _text(text: str, style: str = "") -> Text:
    """Text without markup: notes hold lines of logs."""
    return Text(printable(text), style=style)
