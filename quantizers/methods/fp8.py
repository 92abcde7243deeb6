"""FP8: weights in 8-bit floating point (E4M3) by output channel, activations by token while serving.

Rounded to nearest without data; the activations' scales are taken from each token when it comes. The format is of
Micikevicius et al., 2022, arXiv 2209.05433. Of the formats in 8 bits it is the one that H100 and later GPUs multiply.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from quantizers.base import LinearShapes, MethodConfig, QuantizeOutcome
from registry.contracts.base import Device, DType

if TYPE_CHECKING:
    from quantizers.base import QuantizeJob
    from registry.stage_process import StageClock


class Config(MethodConfig):
    """FP8 has no parameters."""

    method: Literal["fp8"] = "fp8"


class FP8:
    """FP8 through compressed-tensors."""

    config_type: ClassVar[type[MethodConfig]] = Config
    needs_calibration: ClassVar[bool] = False
    engine: ClassVar[str] = "compressed-tensors"
    environment: ClassVar[str] = "main"
    float16_step: ClassVar[str] = ""
    neighbours_matter: ClassVar[bool] = False

    def violations(
        self,
        config: MethodConfig,
        linear_shapes: LinearShapes,
        tensor_parallel: int,
        device: Device,
        quantize_dtype: DType,
    ) -> list[str]:
        """See `Quantizer.violations`; any shape is served."""
        return []

    def quantize(self, job: QuantizeJob, clock: StageClock) -> QuantizeOutcome:
        """See `Quantizer.quantize`."""
        from quantizers.engines.compressed_tensors_engine import run_compressed_tensors

        floats = {"num_bits": 8, "type": "float", "symmetric": True}
        return run_compressed_tensors(
            job, clock, {**floats, "strategy": "channel"}, {**floats, "strategy": "token", "dynamic": True}
        )
