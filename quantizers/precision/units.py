"""What is loaded as one matrix when a model is served, and so has one precision: the unit of every choice."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

_FUSED = {
    **dict.fromkeys((".q_proj", ".k_proj", ".v_proj"), ".qkv_proj"),
    **dict.fromkeys((".gate_proj", ".up_proj"), ".gate_up_proj"),
    **dict.fromkeys((".in_proj_qkv", ".in_proj_z"), ".in_proj_qkvz"),
    **dict.fromkeys((".in_proj_b", ".in_proj_a"), ".in_proj_ba"),
}
"""What vLLM loads as one matrix, and how it calls it."""

_LAST = re.compile(r"(?:[^.]+\.)?\d+$|[^.]+$")


class Unit(NamedTuple):
    """Linears that are served as one."""

    name: str
    """vLLM's, which is the module's own where it is served alone."""
    modules: tuple[str, ...]
    weights: int


def fused_name(module: str) -> str:
    """The name of the matrix that vLLM loads a Linear into."""
    return re.sub(r"\.[^.]+$", lambda match: _FUSED.get(match[0], match[0]), module)


def unit_name(module: str) -> str:
    """The unit that a Linear belongs to; a layer's experts are one, since vLLM has one scheme for all of them."""
    layer, experts, _ = module.partition(".experts.")
    return f"{layer}.experts" if experts else fused_name(module)


def last_names(modules: Iterable[str]) -> list[str]:
    """The ends of the modules' names, and of the matrices that vLLM loads them into: its own tree differs before them.

    The last part, with the one before it where that is a number: `in_proj_a`, `altup_projections.0`.
    """
    names = {name for module in modules for name in (module, unit_name(module))}
    return sorted({end[0] for name in names if (end := _LAST.search(name))})


def units_of(linear_shapes: Mapping[str, tuple[int, int]]) -> list[Unit]:
    """All units of a model, in the order of its Linears."""
    members: dict[str, list[str]] = {}
    for module in linear_shapes:
        members.setdefault(unit_name(module), []).append(module)
    return [
        Unit(
            name if len(modules) > 1 else modules[0],
            tuple(modules),
            sum(linear_shapes[module][0] * linear_shapes[module][1] for module in modules),
        )
        for name, modules in members.items()
    ]
