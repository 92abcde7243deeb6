"""W4A16: weights in 4 bits by GPTQ (Frantar et al., 2023, arXiv 2210.17323), in the compressed-tensors format.

Beside `gptq`, whose search and format are GPTQModel's: what vLLM's own tool makes, as most served checkpoints are.
Columns are rounded in order of falling activation and kept as they lie, which costs nothing to serve.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, cast

from pydantic import Field

from configs.quantities import Share
from quantizers.base import CalibratedMethodConfig, LinearShapes, MethodConfig, QuantizeOutcome
from quantizers.methods.rules import packed_violations
from registry.contracts.base import Device, DType

if TYPE_CHECKING:
    from quantizers.base import QuantizeJob
    from registry.stage_process import StageClock


class Config(CalibratedMethodConfig):
    """llm-compressor's parameters."""

    method: Literal["w4a16_gptq"] = "w4a16_gptq"
    group_size: Literal[-1, 32, 64, 128] = 128
    """Weights of a row that share one scale; -1 is the whole row. It must divide in_features."""
    symmetric: bool = True
    """One scale a group and no zero point."""
    damp_percent: Share = Field(default=0.01, gt=0, lt=1)
    """Share of the mean Hessian diagonal that is added to the diagonal (GPTQ's dampening); llm-compressor's default."""


class W4A16GPTQ:
    """GPTQ through llm-compressor, in an environment of its own."""

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
        """See `Quantizer.violations`; shapes as in vllm/model_executor/kernels/linear/mixed_precision."""
        return packed_violations(linear_shapes, 4, cast(Config, config).group_size, tensor_parallel, device)

    def quantize(self, job: QuantizeJob, clock: StageClock) -> QuantizeOutcome:
        """See `Quantizer.quantize`."""
        from quantizers.engines.llmcompressor_engine import run_engine

        config = cast(Config, job.config)
        weights = {"num_bits": 4, "symmetric": config.symmetric}
        grouped = (
            {"strategy": "channel"}
            if config.group_size == -1
            else {"strategy": "group", "group_size": config.group_size}
        )
        return run_engine(job, clock, {"weights": {**weights, **grouped}}, dampening=config.damp_percent)
