"""AutoRound (Cheng et al., 2023, arXiv 2309.05516): each weight's rounding and the width of its range, learned.

A decoder layer at a time, some hundred steps of descent by the gradient's sign against the layer's own outputs.
It costs many times GPTQ's work; the artifact is in GPTQ's format and is served as one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, cast

from pydantic import Field

from configs.quantities import Count, Seed
from quantizers.base import CalibratedMethodConfig, LinearShapes, MethodConfig, QuantizeOutcome
from quantizers.methods.rules import packed_violations
from registry.contracts.base import Device, DType

if TYPE_CHECKING:
    from quantizers.base import QuantizeJob
    from registry.stage_process import StageClock


class Config(CalibratedMethodConfig):
    """AutoRound's parameters."""

    method: Literal["autoround"] = "autoround"
    bits: Literal[4, 8] = 4
    """Bits per weight."""
    group_size: Literal[-1, 32, 64, 128] = 128
    """Weights of a row that share one scale; -1 is the whole row. It must divide in_features."""
    iterations: Count = Field(default=200, ge=1)
    """Steps of learning for each decoder layer; the paper's and the engine's default."""
    seed: Seed = 0
    """Of the order in which rows are taken."""


class AutoRound:
    """AutoRound through its authors' library, in an environment of its own; symmetric, which is what vLLM serves."""

    config_type: ClassVar[type[MethodConfig]] = Config
    needs_calibration: ClassVar[bool] = True
    engine: ClassVar[str] = "auto-round"
    environment: ClassVar[str] = "autoround"
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
        """See `Quantizer.violations`; shapes as for packed GPTQ weights."""
        config = cast(Config, config)
        return packed_violations(linear_shapes, config.bits, config.group_size, tensor_parallel, device)

    def quantize(self, job: QuantizeJob, clock: StageClock) -> QuantizeOutcome:
        """See `Quantizer.quantize`."""
        from quantizers.engines.autoround_engine import run_engine

        config = cast(Config, job.config)
        engine_config = {
            "bits": config.bits,
            "group_size": config.group_size,
            "sym": True,
            "iters": config.iterations,
            "seed": config.seed,
        }
        return run_engine(job, clock, engine_config)
