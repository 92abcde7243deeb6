"""Mixtures of experts, by the names of their tensors: which Linears are experts', and which choose among them.

Checkpoints keep each expert's matrices apart, in two spellings; transformers 5 packs them into one tensor a layer when
it loads, and engines that quantize take them apart again, all in one spelling. A Linear is known by the checkpoint's
name.
"""

import re
from collections.abc import Collection, Iterable, Mapping

_EXPERT = re.compile(r"^(?P<block>.+\.experts)\.(?P<number>\d+)\.")
ROUTERS = frozenset({"gate", "router", "classifier", "shared_expert_gate"})
"""What chooses experts, or weighs a shared one: thousands of weights, which all engines leave in 16 bits."""
_BLOCKS = {".block_sparse_moe.": ".mlp."}
_LINEARS = {".w1": ".gate_proj", ".w3": ".up_proj", ".w2": ".down_proj"}
"""Mixtral's, MiniMax's and PhiMoE's names -> those of all others."""


def is_router(module: str) -> bool:
    """Whether a module of this name chooses experts, or is a part of what does."""
    return not ROUTERS.isdisjoint(module.split(".")[-2:])


def is_expert(module: str) -> bool:
    """Whether a module of this name belongs to one of the experts that tokens are sent to."""
    return _EXPERT.match(module) is not None


def expert_of(module: str) -> str | None:
    """The expert that a module belongs to, such as `model.layers.0.mlp.experts.3`; None outside of experts."""
    found = _EXPERT.match(module)
    return f"{found['block']}.{found['number']}" if found else None


def packed_experts(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Tensors of a checkpoint's layers that hold all of a layer's experts, which no method takes apart.

    Args:
        shapes: Of all tensors. Those of a convolution have three dimensions too.
    """
    return [name for name, shape in shapes.items() if len(shape) == 3 and ".layers." in name and "conv" not in name]


def packed_name(tensor: str) -> tuple[str, int] | None:
    """What a tensor of one of the experts is called where all of a layer lie in one, and its place there.

    In the engines' spelling, such as (`model.layers.0.mlp.experts.gate_proj.weight`, 3); None outside of experts.
    """
    found = _EXPERT.match(engine_name(tensor))
    return (f"{found['block']}.{found.string[found.end() :]}", int(found["number"])) if found else None


def has_experts(modules: Iterable[str]) -> bool:
    """Whether the model that these modules are of is a mixture of experts."""
    return any(map(is_expert, modules))


def engine_name(name: str) -> str:
    """What engines that take experts apart call a module or a tensor of the checkpoint."""
    for ours, theirs in _BLOCKS.items():
        name = name.replace(ours, theirs)
    if is_expert(name):
        for ours, theirs in _LINEARS.items():
            name = name.replace(ours, theirs)
    return name


def checkpoint_names(modules: Iterable[str]) -> dict[str, str]:
    """Engine's name -> checkpoint's, of the checkpoint's modules."""
    return {engine_name(module): module for module in modules}


def checkpoint_tensors(tensors: Iterable[str], modules: Collection[str]) -> dict[str, str]:
    """Tensors' names -> those that the checkpoint of these modules has for them.

    Args:
        tensors: As an engine that takes experts apart names them, or as transformers has restored them: the block's
            name, and not those of the Linears in it.
        modules: The checkpoint's Linears.
    """
    experts = [module for module in modules if is_expert(module)]
    blocks = {theirs: ours for ours, theirs in _BLOCKS.items() if any(ours in one for one in experts)}
    linears = {
        f"{theirs}.": f"{ours}." for ours, theirs in _LINEARS.items() if any(one.endswith(ours) for one in experts)
    }

    def restored(name: str) -> str:
        # A dense MLP beside the experts has the checkpoint's name already.
        if name.rpartition(".")[0] not in modules:
            for theirs, ours in (blocks | (linears if is_expert(name) else {})).items():
                name = name.replace(theirs, ours)
        return name

    return {name: restored(name) for name in tensors}
