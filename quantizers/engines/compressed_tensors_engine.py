"""Round-to-nearest in the compressed-tensors format, by the library of that name: no data, no loss, seconds.

vLLM and transformers read such artifacts by that library too. It has the scales (`calculate_qparams`), the rounding and
the packing. What is ours is the order: each Linear is rounded in float32 by its scales as they are stored, so that no
second rounding of the scales comes between weights and codes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from configs.errors import StageError
from quantizers.base import QuantizeOutcome
from quantizers.checkpoints.expert_names import checkpoint_names
from quantizers.checkpoints.tokenizer_files import carry_over
from quantizers.engines.experts import name_as_checkpoint, take_apart
from quantizers.engines.left_whole import ignored, tell_servers
from quantizers.precision.units import unit_name
from registry.contracts import QuantizedModule
from registry.os_faults import check_not_refused

if TYPE_CHECKING:
    import torch

    from quantizers.base import QuantizeJob
    from registry.stage_process import StageClock

ENGINE = "compressed-tensors"
LIBRARIES = (ENGINE, "torch", "transformers")
"""Whose versions shape the weights."""


def run_compressed_tensors(
    job: QuantizeJob, clock: StageClock, weights: dict[str, Any], input_activations: dict[str, Any] | None = None
) -> QuantizeOutcome:
    """Round the Linears of `job.checkpoint_dir` and save the model with its tokenizer.

    Args:
        job: Its dtype is what the checkpoint is held in; a Linear is widened while it is rounded.
        clock: Counts `import`, `load`, `quantize`, `save`.
        weights: The library's QuantizationArgs for the weights.
        input_activations: Those for what comes in when the artifact is served; None leaves it as it is.

    Raises:
        StageError: The library failed, or left Linears unquantized.
    """
    with clock.part("import"):
        import torch
        from compressed_tensors.compressors import ModelCompressor
        from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
        from transformers import AutoModelForCausalLM, GenerationConfig
    torch.set_num_threads(job.threads)
    shapes = dict.fromkeys(job.quantized_linears)
    groups = _groups(job, weights, input_activations)
    ignore = [*ignored(job.checkpoint.left_whole), *job.left_alone]
    config = QuantizationConfig(config_groups=groups, ignore=ignore)
    try:
        with clock.part("load"):
            model = AutoModelForCausalLM.from_pretrained(
                job.checkpoint_dir, dtype=getattr(torch, job.dtype), device_map=job.device
            )
        with clock.part("quantize"):
            take_apart(model, shapes)
            apply_quantization_config(model, config)
            linears = {name: module for name, module in model.named_modules() if hasattr(module, "quantization_scheme")}
            for module in linears.values():
                _round(module, getattr(torch, job.checkpoint.dtype))
        with clock.part("save"):
            model.config.dtype = getattr(torch, job.checkpoint.dtype)
            compressor = ModelCompressor.from_pretrained_model(model)
            # The library refuses to save some generation configs; the source's own file comes in its place anyway.
            model.generation_config = GenerationConfig()
            model.save_pretrained(job.output_dir)
            name_as_checkpoint(job.output_dir, shapes)
            compressor.update_config(str(job.output_dir))
            tell_servers(job.output_dir, job.checkpoint.left_whole)
    except Exception as error:  # The library raises whatever it stumbles over.
        check_not_refused(error, f"{ENGINE} at {job.name}", job.output_dir)
        raise StageError(
            f"{ENGINE} gave up on {job.name}: {type(error).__name__}: {error}",
            remedy="it would do so again: take another method; the traceback is in the stage's log",
            blame="engine",
        ) from error
    made = _made(linears, shapes)
    carry_over(job.checkpoint_dir, job.output_dir)
    return QuantizeOutcome(
        modules=[QuantizedModule(name=name) for name in sorted(made)],
        versions={library: version(library) for library in LIBRARIES},
        engine=ENGINE,
    )


@contextlib.contextmanager
def integer_experts_read() -> Iterator[None]:
    """Have transformers read experts in plain integers inside the block, as it reads those in FP8.

    Both are weights and scales of their own names. transformers 5.19 takes for packed what is not FP8
    (quantizers/quantizer_compressed_tensors.py, `update_weight_conversions`), looks for words that are not there, and
    leaves the experts out.
    """
    from transformers.quantizers import quantizer_compressed_tensors as theirs

    original = theirs.get_experts_scheme

    def scheme_of_experts(config: Any) -> Any:
        found = original(config)
        if found.weights.type != "int" or (found.format or config.format) != "int-quantized":
            return found
        return found.model_copy(update={"weights": found.weights.model_copy(update={"type": "float"})})

    theirs.get_experts_scheme = scheme_of_experts
    try:
        yield
    finally:
        theirs.get_experts_scheme = original


def _made(linears: Iterable[str], shapes: Mapping[str, object]) -> set[str]:
    """The checkpoint's names of the Linears that were rounded, which have to be all (StageError)."""
    known = checkpoint_names(shapes)
    made = {known.get(name, name) for name in linears}
    left = sorted(set(shapes) - made)
    if left:
        raise StageError(
            f"{ENGINE} left {len(left)} Linears unquantized: {', '.join(left[:3])}",
            remedy="check that the versions in the environment are those of the lock file",
            blame="engine",
        )
    return made


def _groups(
    job: QuantizeJob, weights: dict[str, Any], input_activations: dict[str, Any] | None
) -> dict[str, dict[str, Any]]:
    """The library's schemes, one for each precision; those that name modules come first.

    vLLM looks for the name of the matrix that it has made of several Linears before it looks for a class.
    """
    named: dict[int, list[str]] = {}
    for module in job.quantized_linears:
        bits = job.bits_of_module(module)
        if bits is not None:
            named.setdefault(bits, []).append(module)
    schemes = {
        f"linear_{bits}_bits": (list(dict.fromkeys([*modules, *map(unit_name, modules)])), {"num_bits": bits})
        for bits, modules in named.items()
    } | {"linear": (["Linear"], {})}
    return {
        name: {"targets": targets, "weights": weights | other, "input_activations": input_activations}
        for name, (targets, other) in schemes.items()
    }


def _round(linear: Any, stored: torch.dtype) -> None:
    """Give a Linear its scales, in the dtype `stored`, and its rounded and packed weights."""
    import torch
    from compressed_tensors.compressors.base import compress_module
    from compressed_tensors.quantization.utils import calculate_qparams

    args = linear.quantization_scheme.weights
    weight = linear.weight.detach().float()
    grouped = weight.unflatten(-1, (-1, args.group_size or weight.shape[-1]))
    scales, zeros = calculate_qparams(grouped.amin(-1), grouped.amax(-1), args)
    scales = scales.to(stored)
    linear.weight.data = weight
    linear.weight_scale.data = scales.float()
    if not args.symmetric:
        linear.weight_zero_point.data = zeros
    with torch.no_grad():
        compress_module(linear)
    linear.weight_scale.data = scales
