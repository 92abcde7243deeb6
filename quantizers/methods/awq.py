"""AWQ (Lin et al., 2024, arXiv 2306.00978): scale the channels that matter before rounding, so that they lose less."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from quantizers.base import CalibratedMethodConfig, LinearShapes, MethodConfig, MixedMethodConfig, QuantizeOutcome
from quantizers.methods.rules import packed_violations
from quantizers.precision.rules import dynamic_rules
from registry.contracts.base import Device, DType

if TYPE_CHECKING:
    from quantizers.base import QuantizeJob
    from registry.stage_process import StageClock


class Config(CalibratedMethodConfig, MixedMethodConfig):
    """AWQ's parameters."""

    storable: ClassVar[tuple[int, ...]] = (4, 16)
    method: Literal["awq"] = "awq"
    bits: Literal[4] = 4
    """Bits per weight; vLLM serves AWQ in 4 bits only."""
    group_size: Literal[32, 64, 128] = 128
    """Weights of a row that share one scale and zero point. It must divide in_features."""
    zero_point: bool = True
    """A zero point a group (asymmetric); the only kind that vLLM serves for AWQ."""
    rounding: Literal["compensated", "nearest"] = "compensated"
    """Of the scaled weights: `compensated` as GPTQ does it, the rest of a row making up for each error, in ranges that
    lose least; `nearest` as published, in ranges that are clipped by a search."""


class AWQ:
    """AWQ through GPTQModel, its searches replaced by exact and faster ones, its rounding by GPTQ's."""

    config_type: ClassVar[type[MethodConfig]] = Config
    needs_calibration: ClassVar[bool] = True
    engine: ClassVar[str] = "gptqmodel"
    environment: ClassVar[str] = "main"
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
        if not config.zero_point:
            found.append("vLLM serves AWQ with zero points only; set zero_point to true")
        return found

    def quantize(self, job: QuantizeJob, clock: StageClock) -> QuantizeOutcome:
        """See `Quantizer.quantize`."""
        from quantizers.engines.gptqmodel_engine import run_engine

        config = cast(Config, job.config)
        engine_config = {
            "method": "awq",
            "format": "gemm",
            "bits": config.bits,
            "group_size": config.group_size,
            "sym": not config.zero_point,
            "dynamic": dynamic_rules(job.precision, config.bits, job.checkpoint.left_whole),
        }
        # The engine's default kernel for AWQ is compiled for CUDA; the torch kernel packs the same bytes.
        return run_engine(job, clock, engine_config, partial(_overrides, config.rounding), backend="AWQ_TORCH")


@contextlib.contextmanager
def _overrides(rounding: Literal["compensated", "nearest"], model: Any) -> Iterator[None]:
    from quantizers.engines.awq_clip import gram_clip_search
    from quantizers.engines.awq_fold import watched_folding
    from quantizers.engines.awq_round import compensated_rounding
    from quantizers.engines.awq_scale import quadratic_scale_search

    rounded = compensated_rounding() if rounding == "compensated" else gram_clip_search()
    with rounded, quadratic_scale_search(), watched_folding(model), _one_capture_pass():
        yield


@contextlib.contextmanager
def _one_capture_pass() -> Iterator[None]:
    """Capture the inputs of all of a layer's Linears in one forward pass.

    The engine runs a layer once for each group of Linears (looper/stage_subset.py), which GPTQ needs, since each group
    sees the rounded ones before it. AWQ rounds a layer once all of its groups were seen (`AWQProcessor.process`), so
    the four passes see the same weights and the same inputs.
    """
    from gptqmodel.looper.awq_processor import AWQProcessor

    original = AWQProcessor.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.execution_config.fwd_all_modules_in_single_pass = True

    AWQProcessor.__init__ = init
    try:
        yield
    finally:
        AWQProcessor.__init__ = original
