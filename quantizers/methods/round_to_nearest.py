"""Round-to-nearest: each weight becomes the closest level of its group. Without data, and the floor for all others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from quantizers.base import LinearShapes, MethodConfig, MixedMethodConfig, QuantizeOutcome
from quantizers.methods.rules import packed_violations
from registry.contracts.base import Device, DType

if TYPE_CHECKING:
    from quantizers.base import QuantizeJob
    from registry.stage_process import StageClock


class Config(MixedMethodConfig):
    """Round-to-nearest's parameters."""

    storable: ClassVar[tuple[int, ...]] = (4, 8, 16)
    method: Literal["rtn"] = "rtn"
    bits: Literal[4, 8] = 4
    """Bits per weight."""
    group_size: Literal[-1, 32, 64, 128] = 128
    """Weights of a row that share one scale; -1 is the whole row. It must divide in_features."""
    symmetric: bool = True
    """One scale a group and no zero point; otherwise a zero point a group."""


class RoundToNearest:
    """Round-to-nearest through compressed-tensors."""

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
        """See `Quantizer.violations`; the kernels are those of packed GPTQ weights."""
        config = cast(Config, config)
        return packed_violations(linear_shapes, config.bits, config.group_size, tensor_parallel, device)

    def quantize(self, job: QuantizeJob, clock: StageClock) -> QuantizeOutcome:
        """See `Quantizer.quantize`."""
        from quantizers.engines.compressed_tensors_engine import run_compressed_tensors

        config = cast(Config, job.config)
        grouping: dict[str, Any] = {"strategy": "channel"}
        if config.group_size > 0:
            grouping = {"strategy": "group", "group_size": config.group_size}
        return run_compressed_tensors(job, clock, {"num_bits": config.bits, "symmetric": config.symmetric, **grouping})
