"""Which modules get more bits: a knapsack by gain per byte, the same for equal numbers. Pure.

Every unit begins with the method's own bits. Among all steps up that still fit into the budget, the one that saves most
loss a byte is taken, until none is left. Losses of units are added up, as if each were rounded alone: measured on the
whole model where a trial was made, else estimated, and corrected by what the trials showed of estimates.
"""

from __future__ import annotations

import difflib
import statistics
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from configs.errors import RequestError
from quantizers.precision.config import AS_IT_IS, MixedPrecision, parse_budget
from quantizers.precision.storage import ITEM_BYTES, Packing, stored_bytes
from quantizers.precision.units import Unit, units_of
from registry.contracts import CheckpointRecord, PrecisionRecord, SensitivityRecord, UnitSensitivity
from registry.hashing import digest_of

_HEADER_BYTES = 512
"""Of a safetensors file's header, for the tensors of one Linear: they are part of the file's size."""


class _Room(NamedTuple):
    """What a budget leaves for the Linears, and what they take."""

    budget_bytes: int
    """Of the Linears, or of all files, as the budget says."""
    beside_bytes: int
    """What counts and is no Linear: none where bits are given."""
    cost: dict[str, dict[int, int]]
    """Unit -> bits -> bytes."""

    def taken(self, bits: Mapping[str, int]) -> int:
        """Bytes of the same as the budget, with these bits of each unit."""
        return self.beside_bytes + sum(self.cost[unit][chosen] for unit, chosen in bits.items())


class _Step(NamedTuple):
    """From a unit's present bits to more of them."""

    unit: str
    bits: int
    saved_nats: float
    bytes: int

    @property
    def order(self) -> tuple[float, str, int]:
        return -self.saved_nats / self.bytes, self.unit, self.bits


def choose_precision(
    mixed: MixedPrecision, packing: Packing, checkpoint: CheckpointRecord, sensitivity: SensitivityRecord
) -> PrecisionRecord:
    """The bits of every Linear.

    Args:
        mixed: What the recipe asks for.
        packing: How the method stores modules.
        checkpoint: The model's.
        sensitivity: What was measured of this checkpoint.

    Raises:
        RequestError: The budget or a named module is not of this model (`precision_violations`).
    """
    found = precision_violations(mixed, packing, checkpoint)
    if found:
        raise RequestError("; ".join(found), remedy="change `mixed_precision` of this method as said")
    room, units = _room(mixed, packing, checkpoint), units_of(checkpoint.linear_shapes)
    named = _named(mixed, units)
    own = mixed.choices[0]
    losses, why = _losses(sensitivity, mixed.choices)
    bits = {unit.name: named.get(unit.name, own) for unit in units}
    left = room.budget_bytes - room.taken(bits)
    while steps := _steps(bits, named, mixed.choices, losses, room, left):
        best = min(steps, key=lambda step: step.order)
        bits[best.unit] = best.bits
        left -= best.bytes
    return PrecisionRecord(
        budget=mixed.budget,
        budget_bytes=room.budget_bytes,
        expected_bytes=room.taken(bits),
        module_bits={module: bits[unit.name] for unit in units for module in unit.modules},
        chosen_by={
            unit: "the recipe names it"
            if unit in named
            else f"{losses[unit][own] - losses[unit][chosen]:.3g} nats a token saved"
            f" with {room.cost[unit][chosen] - room.cost[unit][own]:,} bytes, {why[unit]}"
            for unit, chosen in bits.items()
            if chosen != own
        },
        expected_nats=sum(losses[unit][chosen] for unit, chosen in bits.items()),
        uniform_nats=sum(loss[own] for loss in losses.values()),
        sensitivity_digest=digest_of(sensitivity.model_dump(mode="json")),
    )


def precision_violations(mixed: MixedPrecision, packing: Packing, checkpoint: CheckpointRecord) -> list[str]:
    """Why no choice keeps what `mixed_precision` asks for; empty where one does."""
    units = units_of(checkpoint.linear_shapes)
    found = _name_violations(mixed, units)
    if found:
        return found
    room, named = _room(mixed, packing, checkpoint), _named(mixed, units)
    least = room.taken({unit.name: named.get(unit.name, mixed.choices[0]) for unit in units})
    most = room.taken({unit.name: AS_IT_IS for unit in units})
    if room.budget_bytes < least:
        return [
            f"mixed_precision.budget {mixed.budget} is less than the least there is,"
            f" {_in_units(least, mixed, checkpoint)} with {_all_in(mixed, named)}; raise it, or raise group_size"
        ]
    if room.budget_bytes >= most:
        return [
            f"mixed_precision.budget {mixed.budget} holds the whole model as it is,"
            f" {_in_units(most, mixed, checkpoint)}; lower it: nothing would be quantized"
        ]
    return []


def _all_in(mixed: MixedPrecision, named: Mapping[str, int]) -> str:
    rest = f" and {len(named)} units as `modules` says" if named else ""
    return f"all modules in {mixed.choices[0]} bits{rest}"


def _in_units(taken: int, mixed: MixedPrecision, checkpoint: CheckpointRecord) -> str:
    """Bytes in the budget's own unit."""
    if parse_budget(mixed.budget).bits_per_weight is None:
        return f"{taken / 1e6:.2f} MB"
    return f"{8 * taken / _weights(checkpoint):.3f} bits"


def _room(mixed: MixedPrecision, packing: Packing, checkpoint: CheckpointRecord) -> _Room:
    shapes, dtype = checkpoint.linear_shapes, checkpoint.dtype
    budget = parse_budget(mixed.budget)
    per_module = 0 if budget.file_bytes is None else _HEADER_BYTES
    cost = {
        unit.name: {
            bits: sum(stored_bytes(packing, shapes[module], bits, dtype) + per_module for module in unit.modules)
            for bits in {*mixed.choices, AS_IT_IS}
        }
        for unit in units_of(shapes)
    }
    if budget.file_bytes is not None:
        beside = checkpoint.size_bytes - _weights(checkpoint) * ITEM_BYTES[dtype]
        return _Room(budget.file_bytes, beside, cost)
    assert budget.bits_per_weight is not None, "one of both is given"  # noqa: S101
    return _Room(int(budget.bits_per_weight * _weights(checkpoint) / 8), 0, cost)


def _weights(checkpoint: CheckpointRecord) -> int:
    return sum(rows * columns for rows, columns in checkpoint.linear_shapes.values())


def _steps(
    bits: Mapping[str, int],
    named: Mapping[str, int],
    choices: Sequence[int],
    losses: Mapping[str, Mapping[int, float]],
    room: _Room,
    left: int,
) -> list[_Step]:
    """Every step up that saves something and fits into what is left."""
    steps = [
        _Step(
            unit,
            more,
            losses[unit][present] - losses[unit][more],
            room.cost[unit][more] - room.cost[unit][present],
        )
        for unit, present in bits.items()
        if unit not in named
        for more in choices
        if more > present
    ]
    return [step for step in steps if step.saved_nats > 0 and step.bytes <= left]


def _losses(
    sensitivity: SensitivityRecord, choices: Sequence[int]
) -> tuple[dict[str, dict[int, float]], dict[str, str]]:
    """Unit -> bits -> nats a token, and unit -> where the number is from."""
    correction = _correction(sensitivity.units)
    losses, why = {}, {}
    for unit in sensitivity.units:
        losses[unit.name] = {
            bits: 0.0
            if bits == AS_IT_IS
            else unit.measured_nats.get(bits, correction * unit.estimated_nats.get(bits, 0.0))
            for bits in choices
        }
        why[unit.name] = "measured" if choices[0] in unit.measured_nats else "estimated"
    return losses, why


def _correction(units: list[UnitSensitivity]) -> float:
    """What estimates are multiplied by: the median of measured over estimated."""
    ratios = [
        measured / unit.estimated_nats[bits]
        for unit in units
        for bits, measured in unit.measured_nats.items()
        if measured > 0 and unit.estimated_nats[bits] > 0
    ]
    return statistics.median(ratios) if ratios else 1.0


def _matching(pattern: str, unit: Unit) -> list[str]:
    if fnmatchcase(unit.name, pattern):
        return list(unit.modules)
    return [module for module in unit.modules if fnmatchcase(module, pattern)]


def _named(mixed: MixedPrecision, units: list[Unit]) -> dict[str, int]:
    """Unit -> the bits that `modules` gives it."""
    return {unit.name: bits for pattern, bits in mixed.modules.items() for unit in units if _matching(pattern, unit)}


def _name_violations(mixed: MixedPrecision, units: list[Unit]) -> list[str]:
    found = []
    for pattern in mixed.modules:
        if not any(_matching(pattern, unit) for unit in units):
            names = [name for unit in units for name in (unit.name, *unit.modules)]
            near = difflib.get_close_matches(pattern, names, n=1)
            found.append(
                f"mixed_precision.modules names {pattern}, which is no Linear of this model;"
                + (f" did you mean {near[0]}?" if near else f" such as {units[0].name}")
            )
    for unit in units:
        given = [
            {bits for pattern, bits in mixed.modules.items() if module in _matching(pattern, unit)}
            for module in unit.modules
        ]
        if len(set().union(*given)) > 1:
            found.append(f"mixed_precision.modules gives {unit.name} several precisions; give it one")
        elif any(given) and not all(given):
            left_out = [module for module, bits in zip(unit.modules, given, strict=True) if not bits]
            found.append(
                f"mixed_precision.modules leaves out {', '.join(left_out)}, served as one matrix with what it names;"
                f" name {unit.name}"
            )
    return found
