"""What MLflow is told about serving: flat names, units in them, unknown values left out. Pure."""

import re

from pipelines.records.model_cost import Pricing, joules_per_output_token, model_cost
from pipelines.records.rows import Row
from registry.contracts import LoadPoint, Percentiles, ServingRecord
from serving_checks.readings.bounds import decode_share, prefill_share

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.\-]")
"""MLflow takes some more characters; a slash would make folders of its metrics."""
_LONGEST_TAG = 5000


def serving_metrics(serving: ServingRecord) -> dict[str, float | int | None]:
    """Memory, start, load tests, the rate search and the checks' numbers.

    Of a load test that is invalid only the counts are kept: its speeds would be compared as if they were true.
    """
    memory = serving.memory
    metrics: dict[str, float | int | None] = {
        "artifact_bytes": memory.artifact_bytes,
        "resident_weights_bytes": memory.resident_weights_bytes,
        "kv_cache_bytes": memory.kv_cache_bytes,
        "kv_cache_tokens": memory.kv_cache_tokens,
        "kv_cache_requests": memory.kv_cache_requests,
        "peak_process_bytes": memory.peak_process_bytes,
        "start_seconds": serving.start_seconds,
        "load_average": serving.load_average,
    }
    for rank, size in enumerate(memory.weights_bytes_by_rank or []):
        metrics[f"resident_weights_rank_{rank}_bytes"] = size
    for point in serving.load_points:
        metrics |= {f"{load_name(point)}.{name}": value for name, value in _point_metrics(point).items()}
        metrics |= {f"{load_name(point)}.{name}": value for name, value in _limit_metrics(serving, point).items()}
    if serving.limits:
        rates = serving.limits.serving.model_dump(exclude={"schema_version", "threads"})
        metrics |= {f"machine.{name}": value for name, value in rates.items()}
    if serving.rate_search:
        highest = serving.rate_search.highest_good_requests_per_second
        metrics["rate_search.highest_good_requests_per_second"] = highest
    for check in serving.checks:
        if check.proved_on is not None:
            continue  # measured on another model's server
        metrics |= {metric_name(f"check.{check.check}.{name}"): value for name, value in check.numbers.items()}
    return metrics


def check_tags(serving: ServingRecord) -> dict[str, str]:
    """Outcomes of the checks with their reasons."""
    tags: dict[str, str] = {}
    for check in serving.checks:
        tags |= {f"check.{check.check}": check.outcome, f"check.{check.check}.reason": check.reason[:_LONGEST_TAG]}
    return tags


def doubt_tags(serving: ServingRecord) -> dict[str, str]:
    """The load tests that are saturated or invalid."""
    tags: dict[str, str] = {}
    for point in serving.load_points:
        if point.saturated:
            tags[f"{load_name(point)}.saturated"] = "true"
        if point.invalid is not None:
            tags[f"{load_name(point)}.invalid"] = point.invalid[:_LONGEST_TAG]
    return tags


def cost_metrics(row: Row, pricing: Pricing | None, concurrency: int | None) -> dict[str, float | int | None]:
    """Prices of a million tokens, blended, and energy, at one level of the closed loop; see `price_tags`."""
    found = model_cost(row, pricing, concurrency) if pricing else None
    measured, within = (found.measured, found.within_slo) if found else (None, None)
    return {
        "cost_blended_per_million": measured.cost.blended_per_million if measured else None,
        "cost_within_slo_per_million": within.cost.blended_per_million if within else None,
        "joules_per_output_token": None
        if concurrency is None
        else joules_per_output_token(row.closed_point(concurrency)),
    }


def price_tags(pricing: Pricing | None) -> dict[str, str]:
    """Without which a cost is a number of nothing."""
    if pricing is None:
        return {}
    made_up = {"cost.made_up": "true"} if pricing.price.made_up else {}
    return {"cost.currency": pricing.price.currency, **made_up}


def load_name(point: LoadPoint) -> str:
    """Such as `load.short.concurrency_8` and `load.short.poisson_2.5_per_second`."""
    if point.concurrency is not None:
        load = f"concurrency_{point.concurrency}"
    else:
        rate = point.requests_per_second_offered
        load = "poisson" if rate is None else f"poisson_{rate:g}_per_second"
    return metric_name(f"load.{point.prompts}.{load}")


def _point_metrics(point: LoadPoint) -> dict[str, float | int | None]:
    counts: dict[str, float | int | None] = {
        "completed": point.completed,
        "failed": point.failed,
        "timed_out": point.timed_out,
    }
    if point.invalid is not None:
        return counts
    speeds = {
        "output_tokens_per_second": point.output_tokens_per_second,
        "requests_per_second": point.requests_per_second,
        "good_requests_per_second": point.good_requests_per_second,
        "requests_running_peak": point.requests_running_peak,
        "requests_waiting_peak": point.requests_waiting_peak,
    }
    if not point.completed:
        return counts | speeds
    latencies: dict[str, Percentiles] = {
        "ttft": point.ttft,
        "tpot": point.tpot,
        "itl": point.itl,
        "e2e": point.e2e,
        "client_queue": point.client_queue,
    }
    return (
        counts
        | speeds
        | {
            f"{name}_{share}_seconds": getattr(of, f"{share}_seconds")
            for name, of in latencies.items()
            for share in ("p50", "p90", "p95", "p99")
        }
    )


def _limit_metrics(serving: ServingRecord, point: LoadPoint) -> dict[str, float]:
    """Shares of the machine's limit; one that cannot be is left out, as the speeds of an invalid load test are."""
    shares = (decode_share(serving, point), prefill_share(serving, point))
    return {f"{one.phase}_share_of_limit": one.share for one in shares if one and one.share <= 1}


def metric_name(text: str) -> str:
    """As MLflow takes it."""
    return _NOT_IN_A_NAME.sub("_", text)[:250]
