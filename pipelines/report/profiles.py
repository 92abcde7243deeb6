"""Where the time of a few engine steps went, in the terminal: the dearest operators of each model."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.records.run_record import RunRecord
from pipelines.report.table import printable
from registry.store import Store

_SHOWN = 5


def print_profiles(console: Console, record: RunRecord, store: Store) -> None:
    """Print a table for each model that has a profile, with the place of its trace; nothing where none has."""
    objects = {outcome.name: outcome.result.object for outcome in record.outcomes}
    for row in record.rows:
        profile = row.measurement.serving.profile if row.measurement else None
        found = objects.get(f"measure:{row.name}")
        if profile is None or found is None:
            continue
        table = Table(box=box.SIMPLE_HEAVY, header_style="bold")
        table.add_column(f"{row.name}: operator")
        table.add_column("own ms", justify="right")
        table.add_column("share", justify="right")
        for name, own_seconds, share in profile.operators[:_SHOWN]:
            table.add_row(Text(printable(name)), f"{1000 * own_seconds:.2f}", f"{100 * share:.0f} %")
        console.print(table)
        trace = store.path(found.digest) / profile.trace_file
        console.print(Text(f"trace, for Perfetto or chrome://tracing: {printable(str(trace))}"), soft_wrap=True)
