"""AutoGPTQ 0.7.1, the engine that GPTQModel came from, as its authors left it. With CUDA only.

It runs in an environment of its own, beside transformers 4.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast

from quantizers.base import CalibratedMethodConfig, QuantizeOutcome
from quantizers.checkpoints.tokenizer_files import carry_over
from quantizers.engines.engine_frame import check_complete, engine_at_work, read_rows
from registry.contracts import QuantizedModule

if TYPE_CHECKING:
    from quantizers.base import QuantizeJob
    from registry.stage_process import StageClock

ENGINE = "auto-gptq"
LIBRARIES = ("auto-gptq", "torch", "transformers")
"""Whose versions shape the weights."""

LOGGER = "auto_gptq.modeling._base"
_LAYER = re.compile(r"Start quantizing layer (?P<layer>\d+)/(?P<layers>\d+)")
"""The one place where the engine says how far it is."""


def run_engine(job: QuantizeJob, clock: StageClock, engine_config: Mapping[str, Any]) -> QuantizeOutcome:
    """Quantize `job.checkpoint_dir` by the engine and write a complete artifact into `job.output_dir`.

    Args:
        job: Its `calibration_dir` holds `rows.json`, lists of token ids.
        clock: Counts `import`, `load`, `quantize`, `save`.
        engine_config: Arguments of the engine's BaseQuantizeConfig.

    Raises:
        StageError: The engine failed, or left a Linear of the checkpoint unquantized.
    """
    config = cast(CalibratedMethodConfig, job.config)
    checkpoint_dir = job.checkpoint_dir.resolve()
    rows = read_rows(job.calibration_dir)[: config.calibration_rows]
    with engine_at_work(ENGINE, job) as output_dir:
        with clock.part("import"):
            import torch
            from auto_gptq import AutoGPTQForCausalLM, BaseQuantizeConfig
        with clock.part("load"):
            model = AutoGPTQForCausalLM.from_pretrained(
                str(checkpoint_dir),
                BaseQuantizeConfig(**engine_config, model_file_base_name="model"),
                trust_remote_code=False,
                torch_dtype=getattr(torch, job.dtype),
            )
        with clock.part("quantize"), _layers_told(clock):
            examples = [{"input_ids": torch.tensor([row]), "attention_mask": torch.ones(1, len(row))} for row in rows]
            model.quantize(examples, batch_size=1)
        modules = _quantized(model.model)
        check_complete(ENGINE, modules, job.checkpoint.linear_shapes)
        with clock.part("save"):
            model.save_quantized(str(output_dir), use_safetensors=True)
            # What config.json says too; servers that find it take it for a format of its own.
            (output_dir / "quantize_config.json").unlink(missing_ok=True)
            carry_over(checkpoint_dir, output_dir)
    return QuantizeOutcome(
        modules=modules, versions={library: version(library) for library in LIBRARIES}, engine=ENGINE
    )


@contextlib.contextmanager
def _layers_told(clock: StageClock) -> Iterator[None]:
    """Tell the clock of each layer that the engine's log begins."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if found := _LAYER.search(record.getMessage()):
                clock.progress("quantize", int(found["layer"]) - 1, int(found["layers"]))

    handler, logger = Handler(logging.INFO), logging.getLogger(LOGGER)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _quantized(model: Any) -> list[QuantizedModule]:
    """Every module that was packed; the engine tells its losses in its log alone."""
    packed = [name for name, one in model.named_modules() if hasattr(one, "qweight") and hasattr(one, "g_idx")]
    return [QuantizedModule(name=name) for name in sorted(packed)]
