"""GPTQ (Frantar et al., 2023, arXiv 2210.17323) by AutoGPTQ, which GPTQModel came from: to compare it with."""

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
    """AutoGPTQ's parameters."""

    method: Literal["gptq_autogptq"] = "gptq_autogptq"
    bits: Literal[4, 8] = 4
    """Bits per weight."""
    group_size: Literal[-1, 32, 64, 128] = 128
    """Weights of a row that share one scale; -1 is the whole row. It must divide in_features."""
    desc_act: bool = False
    """Columns in order of falling activation over group borders: a little better, slower to serve."""
    damp_percent: Share = Field(default=0.01, gt=0, lt=1)
    """Share of the mean Hessian diagonal that is added to the diagonal; AutoGPTQ's own default."""


class AutoGPTQ:
    """GPTQ through AutoGPTQ 0.7.1, in an environment of its own; symmetric, which is what vLLM serves."""

    config_type: ClassVar[type[MethodConfig]] = Config
    needs_calibration: ClassVar[bool] = True
    engine: ClassVar[str] = "auto-gptq"
    environment: ClassVar[str] = "autogptq"
    float16_step: ClassVar[str] = "in which its scales are kept"
    neighbours_matter: ClassVar[bool] = False

    def violations(
        self,
        config: MethodConfig,
        linear_shapes: LinearShapes,
        tensor_parallel: int,
        device: Device,
        quantize_dtype: DType,
    ) -> list[str]:
        """See `Quantizer.violations`; the device as in auto_gptq/modeling/_base.py, `from_pretrained`."""
        config = cast(Config, config)
        found = packed_violations(linear_shapes, config.bits, config.group_size, tensor_parallel, device)
        if device == "cpu":
            found.append(
                "AutoGPTQ quantizes with CUDA only (`requires CUDA available`); take gptq, or a machine with a GPU"
            )
        return found

    def quantize(self, job: QuantizeJob, clock: StageClock) -> QuantizeOutcome:
        """See `Quantizer.quantize`."""
        from quantizers.engines.autogptq_engine import run_engine

        config = cast(Config, job.config)
        engine_config = {
            "bits": config.bits,
            "group_size": config.group_size,
            "damp_percent": config.damp_percent,
            "desc_act": config.desc_act,
            "sym": True,
        }
        return run_engine(job, clock, engine_config)
