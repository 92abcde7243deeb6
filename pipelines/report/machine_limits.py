"""The machine's limits in words and as a table. Pure."""

from pipelines.report.table import UNKNOWN
from registry.contracts import MachineLimits, Rates, ServingRecord


def limit_rows(limits: MachineLimits) -> list[tuple[str, str, list[str]]]:
    """What was measured, its unit, and a value for each of `limit_titles`."""
    columns = _columns(limits)
    return [
        ("memory, read", "GiB/s", [_number(rates.memory_bytes_per_second, 2**30, 1) for rates in columns]),
        ("float32", "GFLOP/s", [_number(rates.float32_flop_per_second, 1e9) for rates in columns]),
        ("bfloat16", "GFLOP/s", [_number(rates.bfloat16_flop_per_second, 1e9) for rates in columns]),
        ("int8", "Gop/s", [_number(rates.int8_op_per_second, 1e9) for rates in columns]),
    ]


def limit_titles(limits: MachineLimits) -> list[str]:
    """One thread and as many as a server has, where these are two."""
    return [_where(rates) for rates in _columns(limits)]


def limit_lines(serving: ServingRecord) -> list[str]:
    """What stands below a table of load tests: the rates in a sentence, and each doubt and gap; none without limits."""
    limits = serving.limits
    if limits is None:
        return []
    rates = ", ".join(f"{name} {values[-1]} {unit}" for name, unit, values in limit_rows(limits))
    return [f"the machine's limits on {_where(limits.serving)}: {rates}", *limits.doubts, *limits.notes]


def _columns(limits: MachineLimits) -> list[Rates]:
    if limits.alone is None or limits.alone.threads == limits.serving.threads:
        return [limits.serving]
    return [limits.alone, limits.serving]


def _where(rates: Rates) -> str:
    return "the GPU" if rates.threads is None else "1 thread" if rates.threads == 1 else f"{rates.threads} threads"


def _number(value: float | None, unit: float, digits: int = 0) -> str:
    return UNKNOWN if value is None else f"{value / unit:,.{digits}f}"
