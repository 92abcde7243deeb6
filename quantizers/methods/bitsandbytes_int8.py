"""LLM.int8() (Dettmers et al., 2022, arXiv 2208.07339): 8-bit rows, outlier features multiplied in 16 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, cast

from configs.quantities import Ratio
from quantizers.base import LinearShapes, MethodConfig, QuantizeOutcome
from quantizers.engines.bitsandbytes_engine import run_bitsandbytes
from registry.contracts.base import Device, DType

if TYPE_CHECKING:
    from quantizers.base import QuantizeJob
    from registry.stage_process import StageClock


class Config(MethodConfig):
    """LLM.int8()'s parameters."""

    method: Literal["bnb_int8"] = "bnb_int8"
    threshold: Ratio = 6.0
    """Features with an activation beyond this are multiplied in 16 bits (paper, section 3.2); read when serving. With 0
    none is, and a token's answer no longer depends on those that are computed beside it."""


class BitsAndBytesInt8:
    """LLM.int8() through transformers and bitsandbytes."""

    config_type: ClassVar[type[MethodConfig]] = Config
    needs_calibration: ClassVar[bool] = False
    engine: ClassVar[str] = "bitsandbytes"
    environment: ClassVar[str] = "main"
    float16_step: ClassVar[str] = "to which its rows are rounded first"
    neighbours_matter: ClassVar[bool] = True

    def violations(
        self,
        config: MethodConfig,
        linear_shapes: LinearShapes,
        tensor_parallel: int,
        device: Device,
        quantize_dtype: DType,
    ) -> list[str]:
        """See `Quantizer.violations`."""
        return []

    def quantize(self, job: QuantizeJob, clock: StageClock) -> QuantizeOutcome:
        """See `Quantizer.quantize`."""
        return run_bitsandbytes(job, clock, load_in_8bit=True, llm_int8_threshold=cast(Config, job.config).threshold)
