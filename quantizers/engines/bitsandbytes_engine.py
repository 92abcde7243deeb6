"""bitsandbytes through transformers: what NF4 and INT8 share. No calibration, no loss, a matter of seconds."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any

from configs.errors import StageError
from quantizers.base import LinearShapes, QuantizeOutcome
from quantizers.checkpoints.tokenizer_files import carry_over
from quantizers.engines.left_whole import OUTPUT_LAYER
from quantizers.precision.units import last_names
from registry.contracts import QuantizedModule
from registry.contracts.base import Device
from registry.os_faults import check_not_refused

if TYPE_CHECKING:
    from quantizers.base import QuantizeJob
    from registry.stage_process import StageClock

_LIBRARIES = ("bitsandbytes", "transformers", "torch")


def block_violations(linear_shapes: LinearShapes, block: int, device: Device) -> list[str]:
    """Layers whose weights do not fill whole blocks of `block` values; each row has to on a CPU, by its kernel."""
    on_cpu = device == "cpu"
    return [
        f"the {'rows of the ' if on_cpu else ''}{rows} x {columns} weights of {name} do not fill blocks of {block};"
        " use bnb_int8"
        for name, (rows, columns) in linear_shapes.items()
        if (columns if on_cpu else rows * columns) % block
    ]


def run_bitsandbytes(job: QuantizeJob, clock: StageClock, **parameters: Any) -> QuantizeOutcome:
    """Load the checkpoint through `BitsAndBytesConfig(**parameters)` and save it with its tokenizer.

    Raises:
        StageError: The library failed, or left Linears unquantized.
    """
    with clock.part("import"):
        import torch
        from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GenerationConfig
    torch.set_num_threads(job.threads)
    if left_whole := job.checkpoint.left_whole:
        # The library leaves the output layer alone by itself as long as it is told nothing.
        parameters["llm_int8_skip_modules"] = [OUTPUT_LAYER, *last_names(left_whole)]
    try:
        with clock.part("quantize"):
            model = AutoModelForCausalLM.from_pretrained(
                job.checkpoint_dir,
                dtype=getattr(torch, job.dtype),
                device_map=job.device,
                quantization_config=BitsAndBytesConfig(**parameters),
            )
        quantized = {
            name for name, module in model.named_modules() if type(module).__module__.startswith("bitsandbytes")
        }
        with clock.part("save"):
            # Embeddings and norms go back to the checkpoint's dtype, where they were widened for the work.
            stored = getattr(torch, job.checkpoint.dtype)
            for parameter in model.parameters():
                if parameter.is_floating_point():
                    parameter.data = parameter.data.to(stored)
            model.config.dtype = stored
            # The library refuses to save some generation configs; the source's own file comes in its place anyway.
            model.generation_config = GenerationConfig()
            model.save_pretrained(job.output_dir)
    except Exception as error:  # The library raises whatever it stumbles over.
        check_not_refused(error, f"bitsandbytes at {job.name}", job.output_dir)
        raise StageError(
            f"bitsandbytes gave up on {job.name}: {type(error).__name__}: {error}",
            remedy="it would do so again: take another method or dtype; the traceback is in the stage's log",
            blame="engine",
        ) from error
    left = sorted(set(job.checkpoint.linear_shapes) - quantized)
    if left:
        raise StageError(
            f"bitsandbytes left {len(left)} Linears unquantized: {', '.join(left[:3])}",
            remedy="check that the versions in the environment are those of the lock file",
            blame="engine",
        )
    carry_over(job.checkpoint_dir, job.output_dir)
    return QuantizeOutcome(
        modules=[QuantizedModule(name=name) for name in sorted(quantized)],
        versions={name: importlib.metadata.version(name) for name in _LIBRARIES},
        engine="bitsandbytes",
    )
