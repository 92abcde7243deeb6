"""The review page's columns of cost and energy, and what is said where two runs' costs do not compare. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from pipelines.records.model_cost import Pricing, joules_per_output_token, model_cost, pricing_of
from pipelines.records.rows import ServedModel
from pipelines.review.page_data import Notice, PriceShown
from serving_checks.readings.cost import DevicePrice


class CostColumns(NamedTuple):
    """One model's values, by the names of `Models`."""

    cost_per_million: float | None
    cost_within_slo_per_million: float | None
    joules_per_token: float | None


def run_pricing(
    run_id: str, config: Mapping[str, Any], price: DevicePrice | None = None
) -> tuple[Pricing | None, list[Notice]]:
    """What a run's costs are computed from; None without a price, or where its record's price cannot be read.

    Args:
        price: For a run whose record has none.
    """
    try:
        return pricing_of(config, price), []
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "price"
        text = f"its price or load cannot be read ({where}: {first['msg']}), so no cost is shown: run the recipe again"
        return None, [Notice(about=run_id, text=text)]


def cost_columns(row: ServedModel, pricing: Pricing | None, concurrency: int | None) -> CostColumns:
    """Of one model, at a level of the closed loop: the highest of its run."""
    found = model_cost(row, pricing, concurrency) if pricing else None
    measured, within = (found.measured, found.within_slo) if found else (None, None)
    return CostColumns(
        measured.cost.blended_per_million if measured else None,
        within.cost.blended_per_million if within else None,
        None if concurrency is None else joules_per_output_token(row.closed_point(concurrency)),
    )


def price_shown(pricing: Pricing | None) -> PriceShown | None:
    """What a run's costs were computed from, as the page says it."""
    if pricing is None:
        return None
    price = pricing.price
    return PriceShown(
        currency=price.currency,
        device=price.device,
        per_hour=price.per_hour * price.devices,
        source=price.source,
        read_on=price.read_on.isoformat(),
        made_up=price.made_up,
    )


def price_notices(prices: Sequence[PriceShown | None]) -> list[Notice]:
    """What a reader of several runs' costs must know: numbers of two currencies, or of two prices, do not compare."""
    known = [one for one in prices if one]
    currencies = sorted({one.currency for one in known})
    notices = []
    if len(currencies) > 1:
        text = (
            f"costs are in {' and '.join(currencies)}: compare only runs of one currency, or give all runs without a"
            " price of their own the same one by --price"
        )
        notices.append(Notice(about="cost", text=text))
    if len({(one.per_hour, one.currency, one.made_up) for one in known}) > 1:
        text = "runs have different prices of an hour, so a difference in cost may be one in price and not in the model"
        notices.append(Notice(about="cost", text=text))
    return notices
