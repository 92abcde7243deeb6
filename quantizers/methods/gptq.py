"""GPTQ (Frantar et al., 2023, arXiv 2210.17323): round column by column, the rest of the row makes up for the error."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal, cast

from pydantic import Field

from configs.quantities import Share
from quantizers.base import LinearShapes, MethodConfig, MixedMethodConfig, MixtureMethodConfig, QuantizeOutcome
from quantizers.checkpoints.expert_names import has_experts
from quantizers.methods.rules import packed_violations
from quantizers.precision.rules import dynamic_rules
from registry.contracts.base import Device, DType

if TYPE_CHECKING:
    from quantizers.base import QuantizeJob
    from registry.stage_process import StageClock


class Config(MixtureMethodConfig, MixedMethodConfig):
    """GPTQ's parameters."""

    storable: ClassVar[tuple[int, ...]] = (4, 8, 16)
    method: Literal["gptq"] = "gptq"
    bits: Literal[4, 8] = 4
    """Bits per weight."""
    group_size: Literal[-1, 32, 64, 128] = 128
    """Weights of a row that share one scale; -1 is the whole row. It must divide in_features."""
    symmetric: bool = True
    """One scale a group and no zero point; the only kind that vLLM serves for GPTQ."""
    desc_act: bool = False
    """Columns in order of falling activation over group borders: a little better, slower to serve."""
    damp_percent: Share = Field(default=0.05, gt=0, lt=1)
    """Share of the mean Hessian diagonal that is added to the diagonal (the paper's dampening, section 3.3)."""
    range_search: bool = True
    """Take of each group's range what loses least in GPTQ's own measure; false takes the whole range."""


class GPTQ:
    """GPTQ through GPTQModel."""

    config_type: ClassVar[type[MethodConfig]] = Config
    needs_calibration: ClassVar[bool] = True
    engine: ClassVar[str] = "gptqmodel"
    environment: ClassVar[str] = "main"
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
        """See `Quantizer.violations`; symmetric only as in vllm/model_executor/layers/quantization/auto_gptq.py."""
        config = cast(Config, config)
        found = packed_violations(linear_shapes, config.bits, config.group_size, tensor_parallel, device)
        if not config.symmetric:
            found.append("vLLM serves symmetric GPTQ only; set symmetric to true")
        return found

    def quantize(self, job: QuantizeJob, clock: StageClock) -> QuantizeOutcome:
        """See `Quantizer.quantize`."""
        from quantizers.engines.gptqmodel_engine import run_engine

        config = cast(Config, job.config)
        engine_config = {
            "method": "gptq",
            "bits": config.bits,
            "group_size": config.group_size,
            "sym": config.symmetric,
            "desc_act": config.desc_act,
            "act_group_aware": not config.desc_act and config.group_size > 0,
            "damp_percent": config.damp_percent,
            "dynamic": dynamic_rules(job.precision, config.bits, job.checkpoint.left_whole),
        }
        return run_engine(job, clock, engine_config, lambda _: _overrides(job, clock))


@contextlib.contextmanager
def _overrides(job: QuantizeJob, clock: StageClock) -> Iterator[None]:
    from quantizers.engines.gptq_forward import one_forward_pass
    from quantizers.engines.gptq_kept import kept_linears, taken_up
    from quantizers.engines.gptq_round import whole_row_rounding

    is_mixture = has_experts(job.checkpoint.linear_shapes)
    # Waiting rows keep a layer's activations alive, which a CPU has room for; on CUDA the passes are cheap anyway.
    # Each expert reads tokens of its own, where the one pass wants a group of Linears to share what they read.
    one_pass = job.device == "cpu" and not is_mixture
    kept = kept_linears(job)
    if count := kept.count():
        told = f"quantize, {count} of {len(job.quantized_linears)} Linears were kept"
        print(told, file=sys.stderr)
        clock.progress(told)
    with (
        whole_row_rounding(cast(Config, job.config).range_search),
        one_forward_pass() if one_pass else contextlib.nullcontext(),
        taken_up(kept, whole_groups=not is_mixture),
    ):
        yield
