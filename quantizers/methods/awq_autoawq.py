"""AWQ (Lin et al., 2024, arXiv 2306.00978) by AutoAWQ, which GPTQModel's came from: to hold the successor against."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, cast

from quantizers.base import CalibratedMethodConfig, LinearShapes, MethodConfig, QuantizeOutcome
from quantizers.methods.rules import packed_violations
from registry.contracts.base import Device, DType

if TYPE_CHECKING:
    from quantizers.base import QuantizeJob
    from registry.stage_process import StageClock


class Config(CalibratedMethodConfig):
    """AutoAWQ's parameters."""

    method: Literal["awq_autoawq"] = "awq_autoawq"
    bits: Literal[4] = 4
    """Bits per weight; AutoAWQ packs 4 only."""
    group_size: Literal[32, 64, 128] = 128
    """Weights of a row that share one scale and zero point. It must divide in_features."""


class AutoAWQ:
    """AWQ through AutoAWQ 0.2.9, in an environment of its own."""

    config_type: ClassVar[type[MethodConfig]] = Config
    needs_calibration: ClassVar[bool] = True
    engine: ClassVar[str] = "autoawq"
    environment: ClassVar[str] = "autoawq"
    float16_step: ClassVar[str] = "in which its packed weights are multiplied"
    neighbours_matter: ClassVar[bool] = False

    def violations(
        self,
        config: MethodConfig,
        linear_shapes: LinearShapes,
        tensor_parallel: int,
        device: Device,
        quantize_dtype: DType,
    ) -> list[str]:
        """See `Quantizer.violations`; shapes as in vllm/model_executor/layers/quantization/auto_awq.py."""
        config = cast(Config, config)
        found = packed_violations(linear_shapes, config.bits, config.group_size, tensor_parallel, device)
        # Its clip search goes through 256 rows at a time, or 64 (quantize/quantizer.py, `_compute_best_clip`).
        found += [
            f"{name}: AutoAWQ clips 64 rows at a time, and this one has {rows}; take awq"
            for name, (rows, _) in linear_shapes.items()
            if rows % 64
        ]
        return found

    def quantize(self, job: QuantizeJob, clock: StageClock) -> QuantizeOutcome:
        """See `Quantizer.quantize`."""
        from quantizers.engines.autoawq_engine import run_engine

        config = cast(Config, job.config)
        engine_config = {"zero_point": True, "q_group_size": config.group_size, "w_bit": config.bits, "version": "GEMM"}
        return run_engine(job, clock, engine_config)
