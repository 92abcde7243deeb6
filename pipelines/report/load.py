"""Load tests in words: which load, whether to believe it, under which conditions. Pure, for terminal and page alike."""

from collections.abc import Sequence

from pipelines.records.rows import ServedModel
from registry.contracts import SLO, LoadPoint, ServingRecord
from registry.contracts.base import Record
from registry.numerals import significant


class Conditions(Record):
    """What belongs beside every throughput number: what all models share, and a column for each fact that differs."""

    alike: dict[str, str]
    differing: list[str]
    rows: list[tuple[str, list[str | None]]]
    """A model's name and its `differing` facts; None where the engine does not say."""


def prompt_mixes(rows: Sequence[ServedModel]) -> list[str]:
    """Names of the prompt mixes, in the order in which they were sent."""
    return list(dict.fromkeys(point.prompts for row in rows for point in row.load_points))


def load_text(point: LoadPoint) -> str:
    """The load in a few words, such as `8 at a time` or `2.5/s arriving`."""
    if point.concurrency is not None:
        return f"{point.concurrency} at a time"
    rate = point.requests_per_second_offered
    return "at an unknown rate" if rate is None else f"{rate:g}/s arriving"


def doubt(point: LoadPoint) -> str | None:
    """Why the point's numbers are not to be taken for what they seem; None where nothing speaks against them."""
    if point.invalid is not None:
        return f"invalid: {point.invalid}"
    if not point.completed:
        return f"none of {point.requests} requests completed"
    if point.saturated:
        return "saturated: arrivals outran the server, so latencies grew for as long as the test went on"
    return None


def slo_of(rows: Sequence[ServedModel]) -> SLO | None:
    """The service level that a rate was searched for; one recipe asks the same of all its models."""
    searches = [row.serving.rate_search for row in rows if row.serving and row.serving.rate_search]
    return searches[0].slo if searches else None


def slo_text(slo: SLO) -> str:
    """Such as `TTFT ≤ 500 ms, TPOT ≤ 50 ms`."""
    limits = (("TTFT", slo.ttft_seconds), ("TPOT", slo.tpot_seconds), ("end to end", slo.e2e_seconds))
    told = [f"{name} ≤ {milliseconds(limit)} ms" for name, limit in limits if limit is not None]
    return ", ".join(told) or "no limit at all"


def keeps_highest_rate(row: ServedModel, point: LoadPoint) -> bool:
    """Whether this is the highest rate at which the row kept the SLO."""
    search = row.serving.rate_search if row.serving else None
    highest = search.highest_good_requests_per_second if search else None
    return highest is not None and point.requests_per_second_offered == highest


def conditions(rows: Sequence[ServedModel]) -> Conditions:
    """What the measured models were served with, told apart by whether it is the same for all."""
    facts = {row.name: _facts(row.serving) for row in rows if row.serving}
    titles = list(next(iter(facts.values()), {}))
    same = [title for title in titles if len(facts) > 1 and len({of[title] for of in facts.values()}) == 1]
    first = next(iter(facts.values()), {})
    differing = [title for title in titles if title not in same]
    return Conditions(
        alike={title: first[title] or "not told by the engine" for title in same},
        differing=differing,
        rows=[(name, [of[title] for title in differing]) for name, of in facts.items()],
    )


def conditions_text(serving: ServingRecord) -> str:
    """All of a model's conditions in one line."""
    return " · ".join(f"{title} {value}" for title, value in _facts(serving).items() if value is not None)


def not_run(rows: Sequence[ServedModel]) -> list[tuple[str, str, list[str]]]:
    """Check, reason and models of all checks that were not run, a line for each reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for check in row.serving.checks if row.serving else []:
            if check.outcome == "not_run":
                found.setdefault((check.check, check.reason), []).append(row.name)
    return [(check, reason, names) for (check, reason), names in found.items()]


def _facts(serving: ServingRecord) -> dict[str, str | None]:
    caching = None if serving.prefix_caching is None else "on" if serving.prefix_caching else "off"
    return {
        "device": serving.device_name,
        "engine": f"{serving.engine} {serving.engine_version}",
        "dtype": serving.dtype,
        "kernel": serving.quantization_kernel,
        "graphs": None if serving.eager is None else "none, eager" if serving.eager else "compiled",
        "prefix caching": caching,
        "most sequences at once": None if serving.max_num_seqs is None else str(serving.max_num_seqs),
        "tensor-parallel ranks": str(serving.tensor_parallel_size),
        "threads": None if serving.threads is None else str(serving.threads),
        "load average before": f"{serving.load_average:.2f}",
    }


def milliseconds(seconds: float) -> str:
    """Seconds as milliseconds of three digits."""
    return significant(1000 * seconds)
