"""GGUF, llama.cpp's format: weights in blocks of 32 or 256, each with a scale of its own, rounded without data.

llama.cpp's converter writes the checkpoint as one file with its tokenizer and its chat template, and llama.cpp's
quantizer rounds it. Types in `_k_m` mix precisions by a table of llama.cpp's: output, values and the MLP's last
matrices get more bits. Embeddings are rounded too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, cast

from quantizers.base import LinearShapes, MethodConfig, QuantizeOutcome
from registry.contracts.base import Device, DType

if TYPE_CHECKING:
    from quantizers.base import QuantizeJob
    from registry.stage_process import StageClock

BLOCK = 32
"""Weights of a row that share a scale, of the types without a k; they take what the others cannot."""


class Config(MethodConfig):
    """GGUF's parameters."""

    method: Literal["gguf"] = "gguf"
    type: Literal["q4_0", "q4_k_m", "q5_k_m", "q8_0"] = "q4_k_m"
    """llama.cpp's name for it; the figure is the bits of most weights. Those with a k take rows of a multiple of 256
    weights, and llama.cpp gives others a type with a bit more."""


class GGUF:
    """GGUF through llama.cpp itself, in an environment of its own."""

    config_type: ClassVar[type[MethodConfig]] = Config
    needs_calibration: ClassVar[bool] = False
    engine: ClassVar[str] = "cyllama"
    environment: ClassVar[str] = "llamacpp"
    float16_step: ClassVar[str] = "in which the scales of its blocks are kept"
    neighbours_matter: ClassVar[bool] = False

    def violations(
        self,
        config: MethodConfig,
        linear_shapes: LinearShapes,
        tensor_parallel: int,
        device: Device,
        quantize_dtype: DType,
    ) -> list[str]:
        """See `Quantizer.violations`; whole blocks, as llama.cpp rounds nothing else."""
        unfit = {name: columns for name, (_, columns) in linear_shapes.items() if columns % BLOCK}
        if not unfit:
            return []
        first = next(iter(unfit))
        return [
            f"GGUF's blocks of {BLOCK} weights do not divide the {unfit[first]} inputs of {first} ({len(unfit)} modules"
            " in all), which llama.cpp would leave in 16 bits; take bnb_nf4 or bnb_int8"
        ]

    def quantize(self, job: QuantizeJob, clock: StageClock) -> QuantizeOutcome:
        """See `Quantizer.quantize`."""
        from quantizers.engines.llamacpp_engine import run_engine

        return run_engine(job, clock, cast(Config, job.config).type)
