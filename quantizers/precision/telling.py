"""The bits of an artifact's modules in words: a line that says which have how many."""

from __future__ import annotations

import re

from quantizers.precision.config import AS_IT_IS
from quantizers.precision.units import unit_name
from registry.contracts import PrecisionRecord


def told_precision(precision: PrecisionRecord) -> str:
    """Such as: `within 4.6 bits: 8 bits: mlp.down_proj of layers 0, 29; all others 4 bits`."""
    units: dict[int, dict[str, None]] = {}
    for module, bits in precision.module_bits.items():
        units.setdefault(bits, {})[unit_name(module)] = None
    own = min(units)
    told = [
        f"{'as they are' if bits == AS_IT_IS else f'{bits} bits'}: {_by_part(list(names))}"
        for bits, names in sorted(units.items(), reverse=True)
        if bits != own
    ]
    return f"within {precision.budget}: {'; '.join([*told, f'all others {own} bits'])}"


def _by_part(units: list[str]) -> str:
    """Units that differ in their layer only become one."""
    parts: dict[str, list[str]] = {}
    for unit in units:
        found = re.fullmatch(r".*?\.(\d+)\.(.+)", unit)
        parts.setdefault(found[2] if found else unit, []).append(found[1] if found else "")
    return ", ".join(
        f"{part} of layer{'s' if len(layers) > 1 else ''} {', '.join(layers)}" if layers[0] else part
        for part, layers in parts.items()
    )
