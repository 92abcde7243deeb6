"""Experts while an engine works: taken apart where transformers packed them, counted where calibration reaches them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from configs.errors import StageError
from quantizers.checkpoints.expert_names import expert_of, has_experts
from registry.contracts import QuantizedModule

UNREACHED = "round-to-nearest: no calibration token reached this expert"


def take_apart(model: Any, linear_shapes: Mapping[str, object]) -> None:
    """Make Linears of the experts that transformers 5 packed into one tensor a layer; GPTQModel's library does it."""
    if has_experts(linear_shapes):
        import defuser

        defuser.convert_model(model, cleanup_original=True)


@contextlib.contextmanager
def counted_tokens(model: Any) -> Iterator[dict[str, int]]:
    """Count the tokens that reach each expert inside the block: expert's name -> tokens, some of them repeatedly."""
    tokens: dict[str, int] = {}

    def counter(name: str) -> Any:
        def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = args[0] if args else next(iter(kwargs.values()))
            tokens[name] += given.numel() // given.shape[-1]

        return hook

    hooks = []
    for name, module in model.named_modules():
        if name.split(".")[-2:-1] == ["experts"]:
            tokens[name] = 0
            hooks.append(module.register_forward_pre_hook(counter(name), with_kwargs=True))
    try:
        yield tokens
    finally:
        for hook in hooks:
            hook.remove()


def told_unreached(modules: Sequence[QuantizedModule], tokens: Mapping[str, int]) -> list[QuantizedModule]:
    """The engine's log, by its own names, with each module of an expert that saw no token marked as a fallback."""
    return [
        module.model_copy(update={"fallback": UNREACHED, "loss": None})
        if tokens.get(expert_of(module.name) or "", 1) == 0
        else module
        for module in modules
    ]


def unreached_experts(modules: Sequence[QuantizedModule]) -> list[str]:
    """Names of the experts that no calibration token reached."""
    found = {expert_of(module.name) for module in modules if module.fallback == UNREACHED}
    return sorted(name for name in found if name)


def refuse_unreached(modules: Sequence[QuantizedModule]) -> None:
    """Raise StageError where experts saw no calibration token."""
    if not (unreached := unreached_experts(modules)):
        return
    total = len({expert for module in modules if (expert := expert_of(module.name))})
    raise StageError(
        f"no calibration token reached {len(unreached)} of {total} experts: {', '.join(unreached[:4])}"
        + (f" and {len(unreached) - 4} more" if len(unreached) > 4 else ""),
        remedy="raise calibration.samples, or calibrate with text of more kinds; gptq rounds them to nearest"
        " instead where its entry says unreached_experts: round",
        blame="recipe",
    )
