"""From single requests to a load test's numbers."""

from collections.abc import Iterable, Sequence

import numpy as np

from registry.contracts.serving import SLO, LoadPoint, Percentiles
from serving_checks.load.adapter import Load, Sent
from serving_checks.load.requests import RequestRow
from serving_checks.load.saturation import is_saturated
from serving_checks.load.watch import ServerCounts


def load_point(
    load: Load,
    sent: Sent,
    asked_output_tokens: int,
    counts: ServerCounts,
    slo: SLO | None,
    energy_joules: float | None = None,
) -> LoadPoint:
    """The numbers of one load test.

    Args:
        load: What was asked for.
        sent: What became of it; at least one request completed.
        asked_output_tokens: Of each answer, for what the server may have done for requests that did not complete.
        counts: The server's own view.
        slo: For the goodput; none without.
        energy_joules: Of the device meanwhile.
    """
    rows, duration = sent.rows, sent.duration_seconds
    completed = [row for row in rows if row.outcome == "ok"]
    output_tokens = sum(row.output_tokens for row in completed)
    good = sum(keeps(row, slo) for row in rows) / duration if slo else None
    # An answer of one piece does not show where reading ended and writing began.
    first_tokens = [(row.ttft_seconds, row.e2e_seconds) for row in completed if row.itl_seconds and row.ttft_seconds]
    return LoadPoint(
        profile=load.profile,
        prompts=load.mix,
        concurrency=load.concurrency,
        requests_per_second_offered=load.requests_per_second,
        requests=len(rows),
        completed=len(completed),
        failed=len(rows) - len(completed),
        timed_out=sum(row.outcome == "timed_out" for row in rows),
        duration_seconds=duration,
        prompt_tokens=sum(row.prompt_tokens for row in completed),
        output_tokens=output_tokens,
        output_tokens_per_second=output_tokens / duration,
        requests_per_second=len(completed) / duration,
        good_requests_per_second=good,
        ttft=percentiles(row.ttft_seconds for row in completed),
        tpot=percentiles(row.tpot_seconds for row in completed),
        itl=percentiles(gap for row in completed for gap in row.itl_seconds),
        e2e=percentiles(row.e2e_seconds for row in completed),
        client_queue=percentiles(row.queue_seconds for row in completed),
        server_prompt_tokens=counts.prompt_tokens,
        server_output_tokens=counts.output_tokens,
        requests_running_peak=counts.running_peak,
        requests_waiting_peak=counts.waiting_peak,
        saturated=load.concurrency is None and is_saturated(rows),
        invalid=disagreement(rows, asked_output_tokens, counts),
        request_seconds=sum(row.e2e_seconds for row in rows),
        prefill_seconds=sum(first for first, _ in first_tokens),
        decode_seconds=sum(whole - first for first, whole in first_tokens),
        energy_joules=energy_joules,
    )


def percentiles(values: Iterable[float | None]) -> Percentiles:
    """Of all values, linear between neighbours; zeros where there is none, such as the gaps of one-piece answers."""
    told = [value for value in values if value is not None] or [0.0]
    p50, p90, p95, p99 = (float(value) for value in np.percentile(told, [50, 90, 95, 99]))
    return Percentiles(p50_seconds=p50, p90_seconds=p90, p95_seconds=p95, p99_seconds=p99)


def keeps(row: RequestRow, slo: SLO) -> bool:
    """Whether a request completed within the SLO, counted from its arrival and not from when the client sent it."""
    if row.outcome != "ok" or row.ttft_seconds is None:
        return False
    measured = (
        (row.ttft_seconds + row.queue_seconds, slo.ttft_seconds),
        (row.tpot_seconds or 0.0, slo.tpot_seconds),
        (row.e2e_seconds + row.queue_seconds, slo.e2e_seconds),
    )
    return all(limit is None or value <= limit for value, limit in measured)


def good_share(rows: Sequence[RequestRow], slo: SLO) -> float:
    """Share of all requests, failed ones included, that kept the SLO."""
    return sum(keeps(row, slo) for row in rows) / len(rows)


def disagreement(rows: Sequence[RequestRow], asked_output_tokens: int, counts: ServerCounts) -> str | None:
    """Why client and server cannot both be right about the tokens; None where they agree or the server does not count.

    For a request that did not complete the server may have counted anything between nothing and all of it.
    """
    pairs = (
        ("prompt", counts.prompt_tokens, [(row.prompt_tokens, row.prompt_tokens) for row in rows]),
        ("output", counts.output_tokens, [(row.output_tokens, asked_output_tokens) for row in rows]),
    )
    for what, served, tokens in pairs:
        low = sum(done for (done, _), row in zip(tokens, rows, strict=True) if row.outcome == "ok")
        high = low + sum(asked for (_, asked), row in zip(tokens, rows, strict=True) if row.outcome != "ok")
        if served is not None and not low <= served <= high:
            expected = str(low) if low == high else f"{low} to {high}"
            return f"the server counted {served} {what} tokens, the client {expected}: others were served, or some lost"
    return None
