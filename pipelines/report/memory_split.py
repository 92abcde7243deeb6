"""The memory split: four numbers a model that must not be mixed, and the room that freed weights give. Pure."""

from collections.abc import Callable, Sequence

from pipelines.records.rows import ServedModel
from pipelines.report.memory import more_tokens, more_tokens_sentence
from pipelines.report.svg import series
from pipelines.report.table import UNKNOWN, mebibytes
from registry.contracts import MemoryRecord
from registry.contracts.base import Record
from registry.numerals import with_minus


class MemoryCell(Record):
    """One of the four numbers, with a bar."""

    text: str = UNKNOWN
    second: str | None = None
    tooltip: str | None = None
    parts: list[float] = []
    """Lengths of the bar's parts, one a rank where ranks differ, as shares of the column's largest value."""


class MemoryLine(Record):
    """One model's four numbers, in the order of `MEMORY_COLUMNS`, and what its freed weights would hold."""

    name: str
    series: str
    """CSS class of the model's colour."""
    cells: list[MemoryCell]
    gain: MemoryCell


_Parts = Callable[[MemoryRecord], list[float]]

MEMORY_COLUMNS: dict[str, tuple[str, _Parts]] = {
    "on disk": ("safetensors", lambda memory: [memory.artifact_bytes]),
    "resident weights": ("what the engine holds, all ranks", lambda memory: list(memory.weights_bytes_by_rank or [])),
    "KV cache": ("tokens that fit the budget", lambda memory: _known(memory.kv_cache_tokens)),
    "peak": ("of the server's process tree", lambda memory: _known(memory.peak_process_bytes)),
}
"""Title -> what it is, and the parts of its bar."""


def memory_lines(rows: Sequence[ServedModel]) -> list[MemoryLine]:
    """A line for each model that was measured."""
    measured = [(row, row.serving.memory) for row in rows if row.serving]
    base = rows[0].serving.memory if rows[0].serving else None
    largest = {title: max([sum(of(memory)) for _, memory in measured], default=0) for title, (_, of) in _columns()}
    return [
        MemoryLine(
            name=row.name,
            series=series(rows.index(row)),
            cells=[
                _cell(title, of(memory), memory, base if row is not rows[0] else None, largest[title])
                for title, (_, of) in _columns()
            ],
            gain=_gain(memory, base) if row is not rows[0] else MemoryCell(tooltip="this is what the others free"),
        )
        for row, memory in measured
    ]


def budgets_differ(rows: Sequence[ServedModel]) -> bool:
    """Whether models were given unequal KV-cache budgets, so that their capacities do not compare."""
    return len({row.serving.memory.kv_cache_bytes for row in rows if row.serving}) > 1


def room_gained(rows: Sequence[ServedModel]) -> list[tuple[str, str]]:
    """Artifact and the sentence about its KV cache, where there are the numbers for it."""
    base, *artifacts = rows
    if base.serving is None:
        return []
    texts = [
        (row.name, more_tokens_sentence(base.serving.memory, row.serving.memory)) for row in artifacts if row.serving
    ]
    return [(name, text) for name, text in texts if text]


def _columns() -> list[tuple[str, tuple[str, _Parts]]]:
    return list(MEMORY_COLUMNS.items())


def _known(value: float | None) -> list[float]:
    return [] if value is None else [value]


def _cell(
    title: str, parts: list[float], memory: MemoryRecord, base: MemoryRecord | None, largest: float
) -> MemoryCell:
    if not parts:
        return MemoryCell(tooltip="; ".join(memory.notes) or "the engine did not say, and nobody noted why")
    total = sum(parts)
    before = sum(MEMORY_COLUMNS[title][1](base)) if base else 0
    told = [f"{total / before:.2f}×"] if before else []
    tooltip = None
    if title == "KV cache":
        told += _capacity(memory)
    elif len(parts) > 1:
        told.append(f"{len(parts)} ranks")
        tooltip = "; ".join(f"rank {rank}: {mebibytes(part)} MiB" for rank, part in enumerate(parts))
    return MemoryCell(
        text=f"{total:,.0f} tokens" if title == "KV cache" else f"{mebibytes(total)} MiB",
        second=", ".join(told) or None,
        tooltip=tooltip,
        parts=[part / largest for part in parts] if largest > 0 else [],
    )


def _capacity(memory: MemoryRecord) -> list[str]:
    told = []
    if memory.kv_cache_requests is not None:
        told.append(f"{memory.kv_cache_requests:,.1f} requests of full context")
    if memory.kv_cache_bytes is not None:
        told.append(f"in {mebibytes(memory.kv_cache_bytes)} MiB{_of_each_rank(memory)}")
    return told


def _of_each_rank(memory: MemoryRecord) -> str:
    return " of each rank" if len(memory.weights_bytes_by_rank or []) > 1 else ""


def _gain(memory: MemoryRecord, base: MemoryRecord | None) -> MemoryCell:
    tokens = more_tokens(base, memory) if base else None
    if tokens is None or not memory.kv_cache_tokens:
        return MemoryCell(
            tooltip="needs the resident weights of baseline and artifact on equally many ranks, and the KV cache's"
            " budget and tokens"
        )
    share = 100 * tokens / memory.kv_cache_tokens
    return MemoryCell(text=with_minus(f"{tokens:+,} tokens"), second=with_minus(f"{share:+.0f} %"))
