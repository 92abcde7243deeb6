"""W8A8 for models whose activations have outliers: SmoothQuant (Xiao et al., 2023, arXiv 2211.10438), then GPTQ.

SmoothQuant divides what a norm gives by a factor for each channel and multiplies the weights behind by it, so that the
few channels of large numbers do not take the 8 bits of all the others. GPTQ rounds the weights then. The artifact is
what `w8a8` makes: integers by output channel, activations by token when they come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, cast

from pydantic import Field

from configs.quantities import Share
from quantizers.base import CalibratedMethodConfig, LinearShapes, MethodConfig, QuantizeOutcome
from registry.contracts.base import Device, DType

if TYPE_CHECKING:
    from quantizers.base import QuantizeJob
    from registry.stage_process import StageClock


class Config(CalibratedMethodConfig):
    """Parameters of SmoothQuant and GPTQ."""

    method: Literal["w8a8_gptq"] = "w8a8_gptq"
    smoothing_strength: Share | None = Field(default=0.8, ge=0, le=1)
    """How much of the activations' range goes into the weights: 0 nothing, 1 all; null leaves the norms as they are."""
    damp_percent: Share = Field(default=0.01, gt=0, lt=1)
    """Share of the mean Hessian diagonal that is added to the diagonal (GPTQ's dampening); llm-compressor's default."""


class W8A8GPTQ:
    """W8A8 through llm-compressor, in an environment of its own."""

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
        """See `Quantizer.violations`; any shape is served."""
        return []

    def quantize(self, job: QuantizeJob, clock: StageClock) -> QuantizeOutcome:
        """See `Quantizer.quantize`."""
        from quantizers.engines.llmcompressor_engine import run_engine

        config = cast(Config, job.config)
        integers = {"num_bits": 8, "symmetric": True}
        scheme = {
            "weights": {**integers, "strategy": "channel"},
            "input_activations": {**integers, "strategy": "token", "dynamic": True},
        }
        return run_engine(job, clock, scheme, dampening=config.damp_percent, smoothing=config.smoothing_strength)
