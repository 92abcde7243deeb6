"""Mixtures of experts, by the names of their tensors: which Linears are experts', and which choose among them.

Checkpoints keep each expert's matrices apart, in two spellings; transformers 5 packs them into one tensor a layer when
it loads, and engines that quantize take them apart again, all in one spelling. A Linear is known by the checkpoint's
name.
"""

import re
from collections.abc import Iterable

_EXPERT = re.compile(r"^(?P<block>.+\.experts)\.(?P<number>\d+)\.")
_ROUTERS = frozenset({"gate", "router", "classifier", "shared_expert_gate"})
"""What chooses experts, or weighs a shared one: thousands of weights, which all engines leave in 16 bits."""
_SPELLINGS = {".block_sparse_moe.": ".mlp.", ".w1": ".gate_proj", ".w3": ".up_proj", ".w2": ".down_proj"}
"""Mixtral's and PhiMoE's names -> those of all others."""


def is_router(module: str) -> bool:
    """Whether a module of this name chooses experts, or is a part of what does."""
    return not _ROUTERS.isdisjoint(module.split(".")[-2:])


def is_expert(module: str) -> bool:
    """Whether a module of this name belongs to one of the experts that tokens are sent to."""
    return _EXPERT.match(module) is not None


def expert_of(module: str) -> str | None:
    """The expert that a module belongs to, such as `model.layers.0.mlp.experts.3`; None outside of experts."""
    found = _EXPERT.match(module)
    return f"{found['block']}.{found['number']}" if found else None


def has_experts(modules: Iterable[str]) -> bool:
    """Whether the model that these modules are of is a mixture of experts."""
    return any(map(is_expert, modules))


def engine_name(module: str) -> str:
    """The name that engines which take experts apart give a module of the checkpoint."""
    if is_expert(module):
        for ours, theirs in _SPELLINGS.items():
            module = module.replace(ours, theirs)
    return module


def checkpoint_names(modules: Iterable[str]) -> dict[str, str]:
    """Engine's name -> checkpoint's, of the checkpoint's modules."""
    return {engine_name(module): module for module in modules}
