"""Each module's bits as `dynamic` in a config.json, which GPTQModel and vLLM read, each by its own names.

vLLM looks for the name of the matrix that it has made of several Linears (model_executor/layers/quantization/utils/
gptq_utils.py, `get_dynamic_override`), GPTQModel for each Linear's own (quantization/config.py). A rule that knows one
name only is passed over by the other without a word, so each names both.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from quantizers.precision.config import AS_IT_IS
from quantizers.precision.units import last_names, unit_name
from registry.contracts import PrecisionRecord

_LEAVE, _OVERRIDE = "-:", "+:"


def dynamic_rules(
    precision: PrecisionRecord | None, own_bits: int, left_whole: Collection[str] = ()
) -> dict[str, dict[str, Any]] | None:
    """Pattern -> overrides, one for each unit with other bits than the method's own; None where there is none.

    Args:
        precision: What was chosen, where bits are mixed.
        own_bits: The method's.
        left_whole: Linears that are left alone in any case; those of all layers have one pattern.
    """
    rules: dict[str, dict[str, Any]] = {}
    if left_whole:
        ends = "|".join(map(re.escape, last_names(left_whole)))
        rules[rf"{_LEAVE}.*\.(?:{ends})$"] = {}
    if precision is None:
        return rules or None
    members: dict[str, list[str]] = {}
    for module, bits in precision.module_bits.items():
        if bits != own_bits:
            members.setdefault(unit_name(module), []).append(module)
    for unit, modules in members.items():
        names = "|".join(re.escape(name) for name in dict.fromkeys([*modules, unit]))
        bits = precision.module_bits[modules[0]]
        rules[f"{_LEAVE if bits == AS_IT_IS else _OVERRIDE}(?:{names})$"] = {} if bits == AS_IT_IS else {"bits": bits}
    return rules or None


def declared_bits(quantization_config: Mapping[str, Any], name: str) -> int:
    """What `dynamic` says of a name, as both readers resolve it: the first rule that matches, rules that leave modules
    alone before all others in GPTQModel."""
    rules = quantization_config.get("dynamic") or {}
    for pattern in rules:
        if pattern.startswith(_LEAVE) and re.match(pattern.removeprefix(_LEAVE), name):
            return AS_IT_IS
    for pattern, overrides in rules.items():
        if not pattern.startswith(_LEAVE) and re.match(pattern.removeprefix(_OVERRIDE), name):
            return int(overrides.get("bits", quantization_config["bits"]))
    return int(quantization_config["bits"])
