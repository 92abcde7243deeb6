"""W8A8: weights in 8-bit integers by output channel, activations by token while serving; both multiplied as integers.

Rounded to nearest and symmetric, without data; the activations' scales are taken from each token when it comes. It is
the vector-wise scheme of LLM.int8() (Dettmers et al., 2022, arXiv 2208.07339, section 3.1) without the outliers in 16
bits, which is what makes it fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from quantizers.base import LinearShapes, MethodConfig, MixedMethodConfig, QuantizeOutcome
from registry.contracts.base import Device, DType

if TYPE_CHECKING:
    from quantizers.base import QuantizeJob
    from registry.stage_process import StageClock


class Config(MixedMethodConfig):
    """W8A8 has no parameters but the modules that it leaves as they are."""

    storable: ClassVar[tuple[int, ...]] = (8, 16)
    method: Literal["w8a8"] = "w8a8"


class W8A8:
    """W8A8 through compressed-tensors."""

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

        integers = {"num_bits": 8, "symmetric": True}
        return run_compressed_tensors(
            job, clock, {**integers, "strategy": "channel"}, {**integers, "strategy": "token", "dynamic": True}
        )
