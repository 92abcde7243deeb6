"""What a model's tokens cost and what energy they take, from the load tests that are in its record. Pure.

A load test is a measured load, and its hour is shared among its tokens as a gateway's is (`cost_of`). All of its time
is paid for, that of requests that failed too, since the device is held meanwhile; the tokens are those of completed
requests only. A load test that is invalid or saturated has no cost: its speed is not that of the load it names.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pipelines.records.rows import ServedModel
from registry.contracts import SLO, LoadPoint, ServingRecord
from registry.contracts.token_cost import TokenCost
from registry.numerals import significant
from serving_checks.load import LoadConfig
from serving_checks.readings.cost import DevicePrice, MeasuredLoad, cost_of

MADE_UP = "MADE UP"
"""Stands beside every cost that comes from a price which nobody asks."""


class Pricing(NamedTuple):
    """What costs are computed from."""

    price: DevicePrice
    slo: SLO | None
    """What a load has to keep to be one that users could be served at; None where the config asks nothing."""
    keeping_share: float
    """Of its requests, that have to keep it."""

    @property
    def currency(self) -> str:
        """`USD`, or `USD, MADE UP`: never one without the other."""
        return f"{self.price.currency}, {MADE_UP}" if self.price.made_up else self.price.currency


class LoadCost(NamedTuple):
    """One load test that has a cost."""

    point: LoadPoint
    cost: TokenCost


class ModelCost(NamedTuple):
    """What a model costs under two loads; where one has no cost, why."""

    measured: LoadCost | None
    """At one level of the closed loop."""
    measured_missing: str | None
    within_slo: LoadCost | None
    """At the highest throughput of all load tests that kept the SLO."""
    within_slo_missing: str | None
    """None where there is one, and where no SLO is asked."""


def pricing_of(config: Mapping[str, Any], price: DevicePrice | None = None) -> Pricing | None:
    """The pricing of a recipe or a bench's config, as a record keeps it; None without a price.

    Args:
        price: For records that have none of their own.
    """
    told = config.get("price")
    known = DevicePrice.model_validate(told) if told else price
    if known is None:
        return None
    load = LoadConfig.model_validate(config.get("load") or {})
    return Pricing(known, load.slo, load.keeping_share)


def model_cost(row: ServedModel, pricing: Pricing, concurrency: int | None) -> ModelCost:
    """What a model costs at one level of the closed loop, and at the highest load that kept the SLO.

    Args:
        concurrency: The level; None where there is no closed loop.
    """
    if row.serving is None:
        return ModelCost(None, "it was not served", None, "it was not served" if pricing.slo else None)
    measured, why = _at_level(row, row.serving, pricing, concurrency)
    within, why_not = _within_slo(row.serving, pricing)
    return ModelCost(measured, why, within, why_not)


def point_cost(serving: ServingRecord, point: LoadPoint, price: DevicePrice) -> TokenCost | None:
    """What a million tokens cost under one load test; None where `no_cost` says why."""
    if no_cost(point) is not None:
        return None
    assert point.request_seconds is not None  # noqa: S101 - asked above
    load = MeasuredLoad(
        requests=point.completed,
        counted=point.completed,
        busy_seconds=point.duration_seconds,
        request_seconds=point.request_seconds,
        # All of the time is borne by what completed, so the seconds of those that failed are theirs too.
        counted_seconds=point.request_seconds,
        prefill_seconds=point.prefill_seconds or 0.0,
        decode_seconds=point.decode_seconds or 0.0,
        input_tokens=point.prompt_tokens,
        output_tokens=point.output_tokens,
    )
    return cost_of(load, price.model_copy(update={"devices": _devices(serving, price)}))


def no_cost(point: LoadPoint) -> str | None:
    """Why a load test has no cost; None where it has one."""
    if point.invalid is not None:
        return f"invalid: {point.invalid}"
    if point.saturated:
        return "saturated: arrivals outran the server"
    if not point.completed or not point.output_tokens:
        return f"none of {point.requests} requests completed"
    if not point.request_seconds or not point.duration_seconds > 0:
        return "measured before costs were told: measure again"
    return None


def cost_text(cost: TokenCost) -> str:
    """`12.3 USD a million tokens`, blended, with what it is worth where its price is made up; `–` for one not known."""
    known = "–" if cost.blended_per_million is None else significant(cost.blended_per_million)
    return f"{known} {cost.currency}{f' ({MADE_UP})' if cost.made_up else ''} a million tokens"


def joules_per_output_token(point: LoadPoint | None) -> float | None:
    """Of the device while the load test ran; None where it is not known, or the load test must not be believed."""
    if point is None or point.energy_joules is None or point.invalid is not None or not point.output_tokens:
        return None
    return point.energy_joules / point.output_tokens


def kept_share(point: LoadPoint) -> float | None:
    """Share of a load test's requests, failed ones too, that kept the SLO; None where none was asked."""
    if point.good_requests_per_second is None:
        return None
    return round(point.good_requests_per_second * point.duration_seconds) / point.requests


def _devices(serving: ServingRecord, price: DevicePrice) -> int:
    """That the server was on: a GPU a rank, whatever the price's own number says of others beside them."""
    ranks = max(serving.tensor_parallel_size, len(serving.memory.weights_bytes_by_rank or []))
    return max(price.devices, ranks) if serving.device == "cuda" else price.devices


def _at_level(
    row: ServedModel, serving: ServingRecord, pricing: Pricing, concurrency: int | None
) -> tuple[LoadCost | None, str | None]:
    point = None if concurrency is None else row.closed_point(concurrency)
    if point is None:
        return None, "no closed loop was run" if concurrency is None else f"{concurrency} at a time was not run"
    cost = point_cost(serving, point, pricing.price)
    return (LoadCost(point, cost), None) if cost else (None, no_cost(point))


def _within_slo(serving: ServingRecord, pricing: Pricing) -> tuple[LoadCost | None, str | None]:
    """Under the first prompt mix: a load of other prompts is no higher or lower one."""
    if pricing.slo is None:
        return None, None
    points = [point for point in serving.load_points if point.prompts == serving.load_points[0].prompts]
    costs = [LoadCost(point, cost) for point in points if (cost := point_cost(serving, point, pricing.price))]
    keeping = [one for one in costs if (kept_share(one.point) or 0.0) >= pricing.keeping_share]
    if keeping:
        return max(keeping, key=lambda one: one.point.output_tokens_per_second), None
    if not costs:
        return None, next((why for point in points if (why := no_cost(point))), "no load test was run")
    best = max(kept_share(one.point) or 0.0 for one in costs)
    wanted = f"{100 * pricing.keeping_share:g} % of requests have to"
    return None, f"no load test kept the SLO: at best {100 * best:.0f} % of requests did, {wanted}"
