"""NVFP4: weights and activations in 4-bit floating point (E2M1), 16 to a scale in FP8 and one float32 scale over all.

The activations' float32 scale is measured on the calibration rows and the weights are rounded by GPTQ; the scales of 16
activations are taken when they come. The format is NVIDIA's, of Blackwell GPUs; older ones multiply in 16 bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from pydantic import Field

from configs.quantities import Share
from quantizers.base import CalibratedMethodConfig, LinearShapes, MethodConfig, QuantizeOutcome
from quantizers.methods.rules import group_size_violations
from registry.contracts.base import Device, DType

if TYPE_CHECKING:
    from quantizers.base import QuantizeJob
    from registry.stage_process import StageClock

_GROUP_SIZE = 16


class Config(CalibratedMethodConfig):
    """NVFP4's parameters."""

    method: Literal["nvfp4"] = "nvfp4"
    damp_percent: Share = Field(default=0.01, gt=0, lt=1)
    """Share of the mean Hessian diagonal that is added to the diagonal (GPTQ's dampening); llm-compressor's default."""


class NVFP4:
    """NVFP4 through llm-compressor, in an environment of its own."""

    config_type: ClassVar[type[MethodConfig]] = Config
    needs_calibration: ClassVar[bool] = True
    engine: ClassVar[str] = "llmcompressor"
    environment: ClassVar[str] = "llmcompressor"
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
        """See `Quantizer.violations`; whole groups of 16."""
        return group_size_violations(linear_shapes, _GROUP_SIZE, tensor_parallel)

    def quantize(self, job: QuantizeJob, clock: StageClock) -> QuantizeOutcome:
        """See `Quantizer.quantize`."""
        from quantizers.engines.llmcompressor_engine import run_engine

        floats: dict[str, Any] = {
            "num_bits": 4,
            "type": "float",
            "symmetric": True,
            "strategy": "tensor_group",
            "group_size": _GROUP_SIZE,
            "scale_dtype": "torch.float8_e4m3fn",
            "zp_dtype": "torch.float8_e4m3fn",
        }
        scheme = {
            "weights": floats,
            "input_activations": {**floats, "dynamic": "local", "observer": "static_minmax"},
        }
        return run_engine(job, clock, scheme, dampening=cast(Config, job.config).damp_percent)
