"""Cost and energy in words: what a million tokens cost under two loads, and what that is computed from. Pure.

A price that nobody asks is marked beside every number, or in its column's title.
"""

from collections.abc import Sequence
from typing import NamedTuple

from pipelines.records.model_cost import (
    MADE_UP,
    LoadCost,
    ModelCost,
    Pricing,
    joules_per_output_token,
    model_cost,
    point_cost,
)
from pipelines.records.rows import ServedModel, concurrencies
from pipelines.report.load import load_text, slo_text
from registry.contracts import LoadPoint, ServingRecord
from registry.contracts.token_cost import TokenCost
from registry.numerals import significant

BLENDED = "three input tokens to one output token"
_JOULES_PER_KILOWATT_HOUR = 3.6e6


class CostLine(NamedTuple):
    """A model in the page's table of costs; texts are empty where nothing is known."""

    name: str
    measured: list[str]
    """Input, output, blended and all as they came, a million tokens each."""
    measured_missing: str | None
    within_slo: str
    within_slo_load: str
    """Which load that was, or why there is none."""
    joules: str
    """Per output token."""
    kilowatt_hours: str
    """Per million output tokens."""


class CostPart(NamedTuple):
    """What the page says of cost and energy."""

    pricing: Pricing | None
    level: int | None
    """Of the closed loop, at which costs and energy are told."""
    lines: list[CostLine]
    metered: bool
    """Whether any model's energy is known."""
    notes: list[str]


def cost_part(rows: Sequence[ServedModel], pricing: Pricing | None) -> CostPart:
    """All of the page's part; without lines where there is neither a price nor energy."""
    level = max(concurrencies(rows), default=None)
    measured = [row for row in rows if row.serving]
    metered = any(_joules(row, level) is not None for row in measured)
    lines = [_line(row, pricing, level) for row in measured] if pricing or metered else []
    return CostPart(pricing, level, lines, metered, [*([price_text(pricing)] if pricing else []), *energy_notes(rows)])


def price_text(pricing: Pricing) -> str:
    """What costs are computed from, in a sentence or two."""
    price = pricing.price
    devices = "" if price.devices == 1 else f", {price.devices} of them for a server"
    where = f"{MADE_UP}: nobody asks this price" if price.made_up else f"source: {price.source}"
    slo = f" SLO: {slo_text(pricing.slo)} for {100 * pricing.keeping_share:g} % of requests." if pricing.slo else ""
    return (
        f"Cost: {price.per_hour:g} {price.currency} an hour for {price.device}{devices}, {where}, read on"
        f" {price.read_on}. Blended is {BLENDED}; time between load tests and electricity are not in it.{slo}"
    )


def energy_notes(rows: Sequence[ServedModel]) -> list[str]:
    """What was read, and what was not, each once; nothing of records from before energy was read."""
    servings = [(row.name, row.serving) for row in rows if row.serving]
    sources = dict.fromkeys(serving.energy_source for _, serving in servings if serving.energy_source)
    told = [f"Energy: {source}, of the whole device while requests were sent." for source in sources]
    missing: dict[str, list[str]] = {}
    for name, serving in servings:
        for note in serving.energy_notes:
            missing.setdefault(note, []).append(name)
    everywhere = len(servings)
    return told + [
        f"Energy: {note}." if len(names) == everywhere else f"Energy, {', '.join(names)}: {note}."
        for note, names in missing.items()
    ]


def blended_text(found: LoadCost | None) -> str | None:
    """Of a million tokens; None where it is not known."""
    known = found.cost.blended_per_million if found else None
    return None if known is None else significant(known)


def cost_tooltip(found: LoadCost | None, missing: str | None) -> str | None:
    """The load and the parts of a cost, or why there is none."""
    if found is None:
        return missing
    cost = found.cost
    if cost.blended_per_million is None:
        return (
            f"{load_text(found.point)}: input and output cannot be told apart, since no answer came in pieces; together"
            f" {significant(cost.all_per_million)} {cost.currency}"
        )
    parts = zip(("input", "output", "all as they came"), _parts(cost)[:2] + _parts(cost)[3:], strict=True)
    told = ", ".join(f"{name} {value}" for name, value in parts)
    marked = f" ({MADE_UP})" if cost.made_up else ""
    return f"{load_text(found.point)}: {told} {cost.currency}{marked}; {cost.mean_in_flight:.1f} requests in flight"


def point_cost_text(serving: ServingRecord, point: LoadPoint, pricing: Pricing | None) -> str | None:
    """Blended, of one load test; None where it has none."""
    cost = point_cost(serving, point, pricing.price) if pricing else None
    return blended_text(LoadCost(point, cost)) if cost else None


def joules_text(point: LoadPoint | None) -> str | None:
    """Per output token; None where it is not known."""
    joules = joules_per_output_token(point)
    return None if joules is None else significant(joules)


def _line(row: ServedModel, pricing: Pricing | None, level: int | None) -> CostLine:
    found = model_cost(row, pricing, level) if pricing else ModelCost(None, None, None, None)
    joules = _joules(row, level)
    within = found.within_slo
    return CostLine(
        name=row.name,
        measured=_parts(found.measured.cost) if found.measured else [""] * 4,
        measured_missing=found.measured_missing,
        within_slo=blended_text(within) or "",
        within_slo_load=load_text(within.point) if within else found.within_slo_missing or "",
        joules="" if joules is None else significant(joules),
        kilowatt_hours="" if joules is None else significant(joules * 1e6 / _JOULES_PER_KILOWATT_HOUR),
    )


def _joules(row: ServedModel, level: int | None) -> float | None:
    return None if level is None else joules_per_output_token(row.closed_point(level))


def _parts(cost: TokenCost) -> list[str]:
    parts = (cost.input_per_million, cost.output_per_million, cost.blended_per_million, cost.all_per_million)
    return ["" if part is None else significant(part) for part in parts]
