"""AutoAWQ 0.2.9, the engine that GPTQModel's AWQ came from, as its authors left it but for one fault.

Its search keeps "a copy" of a module's weights by `.cpu()` (quantize/quantizer.py, `_compute_best_scale`), which is no
copy on a CPU: from the second candidate on, what is scaled are the ruins of the first one, and the artifact answers
rubbish, with ordinary losses. Here the module hands out copies. On CUDA nothing changes.

It runs in an environment of its own, beside transformers 4.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast

from quantizers.base import CalibratedMethodConfig, QuantizeOutcome
from quantizers.checkpoints.tokenizer_files import carry_over
from quantizers.engines.engine_frame import check_complete, engine_at_work, one_length, read_rows
from registry.contracts import QuantizedModule

if TYPE_CHECKING:
    from quantizers.base import QuantizeJob
    from registry.stage_process import StageClock

ENGINE = "autoawq"
LIBRARIES = ("autoawq", "torch", "transformers")
"""Whose versions shape the weights."""


def run_engine(job: QuantizeJob, clock: StageClock, engine_config: Mapping[str, Any]) -> QuantizeOutcome:
    """Quantize `job.checkpoint_dir` by the engine and write a complete artifact into `job.output_dir`.

    Args:
        job: Its `calibration_dir` holds `rows.json`, lists of token ids, all of one length: the engine joins rows end
            to end and cuts them anew, which leaves rows of one length as they are.
        clock: Counts `import`, `load`, `quantize`, `save`; progress is told by decoder layer.
        engine_config: The engine's `quant_config`.

    Raises:
        StageError: Rows of several lengths, or the engine failed, or left a Linear of the checkpoint unquantized.
    """
    config = cast(CalibratedMethodConfig, job.config)
    checkpoint_dir = job.checkpoint_dir.resolve()
    rows = read_rows(job.calibration_dir)[: config.calibration_rows]
    length = one_length(ENGINE, rows, "join them end to end and cut them anew")
    with engine_at_work(ENGINE, job) as output_dir:
        with clock.part("import"):
            import torch
            from awq import AutoAWQForCausalLM
        torch.set_num_threads(job.threads)
        with clock.part("load"):
            model = AutoAWQForCausalLM.from_pretrained(
                str(checkpoint_dir),
                safetensors=True,
                trust_remote_code=False,
                torch_dtype=getattr(torch, job.dtype),
                device_map=job.device,
            )
        with clock.part("quantize"):
            model.quantize(
                quant_config=dict(engine_config),
                calib_data=rows,
                max_calib_samples=len(rows),
                max_calib_seq_len=length,
                quantizer_cls=_quantizer(clock, model.model.config.num_hidden_layers),
            )
        modules = _quantized(model.model)
        check_complete(ENGINE, modules, job.checkpoint.linear_shapes)
        with clock.part("save"):
            _restore_dtype(model.model, job.checkpoint.dtype)
            model.save_quantized(str(output_dir), safetensors=True)
            carry_over(checkpoint_dir, output_dir)
    return QuantizeOutcome(
        modules=modules, versions={library: version(library) for library in LIBRARIES}, engine=ENGINE
    )


def _quantizer(clock: StageClock, layers: int) -> Any:
    """The engine's own class, which tells of each layer and keeps the weights that candidates are made from."""
    from awq.quantize.quantizer import AwqQuantizer

    class Quantizer(AwqQuantizer):  # type: ignore[misc]
        layer = 0

        def _get_input_feat(self, *args: Any) -> Any:
            clock.progress("quantize", self.layer, layers)
            self.layer += 1
            return super()._get_input_feat(*args)

        def _compute_best_scale(self, x: Any, w_mean: Any, x_mean: Any, module2inspect: Any, *rest: Any) -> Any:
            with _copied_weights(module2inspect):
                return super()._compute_best_scale(x, w_mean, x_mean, module2inspect, *rest)

    return Quantizer


@contextlib.contextmanager
def _copied_weights(module: Any) -> Iterator[None]:
    """Have `module.state_dict()` give copies inside the block."""
    whole = module.state_dict
    module.state_dict = lambda: {name: tensor.clone() for name, tensor in whole().items()}
    try:
        yield
    finally:
        del module.state_dict


def _quantized(model: Any) -> list[QuantizedModule]:
    """Every module that was packed; the engine tells no losses."""
    from awq.modules.linear import WQLinear_GEMM

    return [QuantizedModule(name=name) for name, one in sorted(model.named_modules()) if isinstance(one, WQLinear_GEMM)]


def _restore_dtype(model: Any, dtype: str) -> None:
    """Give embeddings and norms the checkpoint's dtype again, in which they were not held during the work."""
    import torch

    for parameter in model.parameters():
        parameter.data = parameter.data.to(getattr(torch, dtype))
    model.config.torch_dtype = getattr(torch, dtype)
