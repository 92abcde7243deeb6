"""NF4 (QLoRA, Dettmers et al., 2023, arXiv 2305.14314, section 3): 16 quantiles of a normal distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, cast

from quantizers.base import LinearShapes, MethodConfig, QuantizeOutcome
from quantizers.engines.bitsandbytes_engine import block_violations, run_bitsandbytes
from registry.contracts.base import Device, DType

if TYPE_CHECKING:
    from quantizers.base import QuantizeJob
    from registry.stage_process import StageClock

_BLOCK = 64
"""Weights that share an absolute maximum; bitsandbytes' default, which transformers does not expose."""


class Config(MethodConfig):
    """NF4's parameters."""

    method: Literal["bnb_nf4"] = "bnb_nf4"
    double_quant: bool = True
    """Quantize the blocks' maxima too: 0.37 bits a weight less (QLoRA, section 3)."""
    compute_dtype: Literal["bfloat16", "float16"] = "bfloat16"
    """What the matrix products run in."""


class BitsAndBytesNF4:
    """NF4 through transformers and bitsandbytes."""

    config_type: ClassVar[type[MethodConfig]] = Config
    needs_calibration: ClassVar[bool] = False
    engine: ClassVar[str] = "bitsandbytes"
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
        """See `Quantizer.violations`."""
        found = block_violations(linear_shapes, _BLOCK, device)
        if quantize_dtype == "float32":
            # The serving plugin works out the packed shape from 2-byte weights and asserts otherwise.
            found.append("NF4 artifacts written from float32 are not served by vLLM; quantize in bfloat16")
        return found

    def quantize(self, job: QuantizeJob, clock: StageClock) -> QuantizeOutcome:
        """See `Quantizer.quantize`."""
        config = cast(Config, job.config)
        return run_bitsandbytes(
            job,
            clock,
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=config.double_quant,
            bnb_4bit_compute_dtype=config.compute_dtype,
        )
