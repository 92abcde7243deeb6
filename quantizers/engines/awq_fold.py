"""Where AWQ's scales go: into what feeds a group of Linears, found out by watching the layer, and proved by running it.

GPTQModel 7.3.6 takes the norm that its definition of an architecture names before a group (models/base.py,
`awq_get_modules_for_scaling`; quantization/awq/quantize/scale.py). Three things go wrong there, and all losses look
ordinary:

1. The norm is another one. Gemma 2 and 3 have one more before the MLP, OLMo 2 and EXAONE 4 have none.
2. Others read the same norm and are not scaled: the router of a mixture of experts, which then chooses other experts.
3. The norm multiplies by one plus its weights (Gemma 3, and whatever the engine has no name of).

Here a layer is run once, which shows who reads the outputs of which norm. All who do are scaled, the norm's own
multiplier is found out, Linears behind no norm are left unscaled (they are rounded all the same), and the layer has to
compute afterwards what it computed before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from configs.errors import StageError
from quantizers.checkpoints.expert_names import is_expert

if TYPE_CHECKING:
    import torch

_MOST_CHANGE = 0.05
"""Of a layer's output, relative to its norm: wide enough for bfloat16, where a wrong norm moves it by 0.1 to 1."""


class Watched(NamedTuple):
    """One run of a layer."""

    output: torch.Tensor
    norms: dict[str, str]
    """Module -> the norm whose output it reads."""


def fold(layer: Any, scales_list: Sequence[Any], input_feat_dict: dict[str, Any] | None, call: Any) -> None:
    """Stand in for the engine's `apply_scale`.

    Args:
        layer: The decoder layer.
        scales_list: Of each group: name of the module before it, names of its Linears, scales [in_features], loss.
        input_feat_dict: Linear's name -> its inputs, which are divided by the scales.
        call: Positional and keyword arguments that the layer was last called with.

    Raises:
        StageError: The layer computes something else with its scales.
    """
    import torch
    from gptqmodel.quantization.awq.quantize.scale import apply_scale

    before = _watch(layer, call)
    for entry in scales_list:
        previous, names, scales, _ = entry
        if isinstance(layer.get_submodule(previous), torch.nn.Linear):
            apply_scale(layer, [entry], input_feat_dict=input_feat_dict)
            continue
        norm = _norm_before(names[0], before.norms)
        if norm is None:
            continue
        _scale_readers(layer, norm, names, scales, before.norms)
        for name in names:
            if input_feat_dict is not None and name in input_feat_dict:
                inputs = input_feat_dict[name]
                inputs.div_(scales.view(1, -1).to(inputs.device))
    after = _watch(layer, call).output
    change = float((after - before.output).norm() / before.output.norm())
    if not change < _MOST_CHANGE:
        raise StageError(
            f"AWQ's scales change what a decoder layer computes by {change:.2g} of its output: GPTQModel does not know"
            f" how the parts of {type(layer).__name__} hang together",
            remedy="take gptq or rtn for this model",
            blame="engine",
        )


def _watch(layer: Any, call: Any) -> Watched:
    import torch

    made: dict[int, tuple[str, Any]] = {}
    norms: dict[str, str] = {}

    def produced(name: str) -> Any:
        def hook(_: Any, __: Any, output: Any) -> None:
            made[output.data_ptr()] = (name, output)  # The tensor is kept, or another would come to lie there.

        return hook

    def read(name: str) -> Any:
        def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = args[0] if args else kwargs.get("hidden_states")
            if isinstance(given, torch.Tensor) and given.data_ptr() in made:
                norms[name] = made[given.data_ptr()][0]

        return hook

    hooks = []
    for name, module in layer.named_modules():
        if name:
            hooks.append(module.register_forward_pre_hook(read(name), with_kwargs=True))
        if _is_norm(module):
            hooks.append(module.register_forward_hook(produced(name)))
    try:
        args, kwargs = call
        with torch.inference_mode():
            output = layer(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    output = output[0] if isinstance(output, tuple) else output
    return Watched(output.detach().float(), norms)


def _is_norm(module: Any) -> bool:
    weight = getattr(module, "weight", None)
    return weight is not None and weight.ndim == 1 and "norm" in type(module).__name__.lower()


def _norm_before(linear: str, norms: dict[str, str]) -> str | None:
    """The norm that a Linear reads; an expert's reads what its block does, a few tokens of it at a time."""
    parts = linear.split(".")
    names = [linear]
    if is_expert(linear):
        names += [".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]
    return next((norms[name] for name in names if name in norms), None)


def _scale_readers(layer: Any, norm: str, names: Sequence[str], scales: torch.Tensor, norms: dict[str, str]) -> None:
    """Divide a norm by `scales`, and multiply the columns of all that read it."""
    import torch

    readers = {name for name, read in norms.items() if read == norm} | set(names)
    with torch.inference_mode():
        module = layer.get_submodule(norm)
        own = scales.to(module.weight.device)
        offset = _offset(module)
        module.weight.copy_((module.weight + offset) / own - offset)
        if getattr(module, "bias", None) is not None:
            module.bias.div_(own)
        for name in sorted(readers):
            weight = getattr(layer.get_submodule(name), "weight", None)
            if weight is not None and weight.ndim == 2 and weight.shape[1] == len(scales):
                weight.mul_(scales.to(weight.device))


def _offset(norm: Any) -> float:
    """What a norm adds to its weights before it multiplies by them: 0 mostly, 1 in Gemma's."""
    import torch

    kept = norm.weight.clone()
    norm.weight.zero_()
    given = torch.linspace(-1, 1, len(kept), dtype=kept.dtype, device=kept.device)[None]
    made = norm(given)
    norm.weight.copy_(kept)
    bias = getattr(norm, "bias", None)
    return float((made if bias is None else made - bias).abs().max() > 0)


@contextlib.contextmanager
def watched_folding(model: Any) -> Iterator[None]:
    """Have the engine fold scales by `fold` inside the block.

    Args:
        model: The causal language model of transformers that is quantized.
    """
    from gptqmodel.looper import awq_processor

    calls: dict[int, Any] = {}
    found: list[StageError] = []

    def remember(layer: Any, args: Any, kwargs: Any) -> None:
        calls[id(layer)] = (args, kwargs)

    def apply_scale(layer: Any, scales_list: Sequence[Any], input_feat_dict: dict[str, Any] | None = None) -> None:
        call = calls.pop(id(layer))
        try:
            fold(layer, scales_list, input_feat_dict, call)
        except StageError as error:
            # The engine ends the process where its workers raise.
            found.append(error)

    original = awq_processor.apply_scale
    hooks = [layer.register_forward_pre_hook(remember, with_kwargs=True) for layer in _layers(model)]
    awq_processor.apply_scale = apply_scale
    try:
        yield
    finally:
        awq_processor.apply_scale = original
        for hook in hooks:
            hook.remove()
    if found:
        raise found[0]


def _layers(model: Any) -> Any:
    return getattr(model.model, "decoder", model.model).layers
