"""AutoRound 0.16: rounding and ranges of a decoder layer learned together, by the sign of the gradient of its error.

It leaves rows out that are shorter than the length it is told, goes on with fewer than it was asked for, and takes a
pass that a model does not implement for a finished one, all by a warning at most. So it gets rows of one length, and
what the model was shown is compared with them.

It runs in an environment of its own: its transformers is newer than the serving engine's.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from configs.errors import StageError
from configs.reading.json_text import read_json_object
from quantizers.base import CalibratedMethodConfig, LinearShapes, QuantizeOutcome
from quantizers.checkpoints.expert_names import checkpoint_names, has_experts
from quantizers.checkpoints.tokenizer_files import carry_over
from quantizers.engines.engine_frame import check_complete, engine_at_work, one_length, read_rows
from quantizers.engines.experts import counted_routes, name_as_checkpoint, refuse_unreached, told_unreached
from registry.contracts import QuantizedModule
from registry.files import write_text_atomically

if TYPE_CHECKING:
    from quantizers.base import QuantizeJob
    from registry.stage_process import StageClock

ENGINE = "auto-round"
LIBRARIES = ("auto-round", "torch", "transformers")
"""Whose versions shape the weights."""

_FORMAT = "auto_gptq"
"""What vLLM, transformers and the inspection read as GPTQ's; the engine's own format holds the same tensors."""
_BATCH_ROWS = 8
"""In one step of the learning; the engine's own default."""


def run_engine(job: QuantizeJob, clock: StageClock, engine_config: Mapping[str, Any]) -> QuantizeOutcome:
    """Quantize `job.checkpoint_dir` by the engine and write a complete artifact into `job.output_dir`.

    Args:
        job: Its `calibration_dir` holds `rows.json`, lists of token ids, all of one length.
        clock: Counts `import`, `load`, `quantize`, `save`.
        engine_config: The engine's own arguments of bits, groups and learning.

    Raises:
        StageError: Rows of several lengths, or the engine failed, left rows out, or left a Linear unquantized.
    """
    config = cast(CalibratedMethodConfig, job.config)
    checkpoint_dir = job.checkpoint_dir.resolve()
    rows = read_rows(job.calibration_dir)[: config.calibration_rows]
    length = one_length(ENGINE, rows, "leave the shorter ones out")
    with engine_at_work(ENGINE, job) as output_dir:
        with clock.part("import"):
            import torch
            from auto_round import AutoRound
            from transformers import AutoModelForCausalLM, AutoTokenizer
        torch.set_num_threads(job.threads)
        with clock.part("load"):
            model = AutoModelForCausalLM.from_pretrained(checkpoint_dir, dtype=getattr(torch, job.dtype))
        print(f"{ENGINE}: {job.name}, {len(rows)} calibration rows, all of each", file=sys.stderr)
        with clock.part("quantize"), _shown_all(model, rows):
            work = AutoRound(
                model,
                AutoTokenizer.from_pretrained(checkpoint_dir),
                **engine_config,
                dataset=[torch.tensor([row]) for row in rows],
                nsamples=len(rows),
                seqlen=length,
                batch_size=min(_BATCH_ROWS, len(rows)),
                device_map=job.device,
                # Whole layers are learned from in the dtype of the work, and nothing is compiled for minutes first.
                amp=job.dtype != "float32",
                enable_torch_compile=False,
                enable_deterministic_algorithms=True,
                low_cpu_mem_usage=False,
                ignore_layers=",".join(job.checkpoint.left_whole),
                format=_FORMAT,
            )
            with counted_routes(model) as tokens:
                work.quantize()
        with clock.part("save"):
            _restore_dtype(model, job.checkpoint.dtype)
            work.save_quantized(str(output_dir), format=_FORMAT)
            modules = _quantized(model, job.checkpoint.linear_shapes, tokens)
            refuse_unreached(modules)
            check_complete(ENGINE, modules, job.checkpoint.linear_shapes)
            name_as_checkpoint(output_dir, job.checkpoint.linear_shapes)
            _finish_artifact(checkpoint_dir, output_dir, job.checkpoint.dtype)
    return QuantizeOutcome(
        modules=modules, versions={library: version(library) for library in LIBRARIES}, engine=ENGINE
    )


@contextlib.contextmanager
def _shown_all(model: Any, rows: Sequence[Sequence[int]]) -> Iterator[None]:
    """Raise StageError where the model was not shown each of `rows` in the block."""
    shown = set[tuple[int, ...]]()

    def look(_: Any, inputs: tuple[Any, ...]) -> None:
        shown.update(tuple(row) for row in inputs[0].tolist())

    hook = model.get_input_embeddings().register_forward_pre_hook(look)
    try:
        yield
    finally:
        hook.remove()
    left = sum(tuple(row) not in shown for row in rows)
    if left:
        raise StageError(
            f"{ENGINE} left {left} of {len(rows)} calibration rows out",
            remedy="take another method for this model, and read this stage's log for the engine's warning",
            blame="engine",
        )


def _restore_dtype(model: Any, dtype: str) -> None:
    """Give embeddings and norms the checkpoint's dtype again, in which they were not held during the work."""
    import torch

    for parameter in model.parameters():
        parameter.data = parameter.data.to(getattr(torch, dtype))
    model.config.dtype = getattr(torch, dtype)


def _finish_artifact(checkpoint_dir: Path, output_dir: Path, dtype: str) -> None:
    """Have config.json say what the tensors are, and put the source's own tokenizer files in place.

    The engine writes float16 there for whatever it saved (export_to_autogptq/export.py), and keeps a second copy of the
    quantization's part.
    """
    config = read_json_object(output_dir / "config.json")
    config.pop("torch_dtype", None)
    write_text_atomically(output_dir / "config.json", json.dumps({**config, "dtype": dtype}, indent=2) + "\n")
    (output_dir / "quantization_config.json").unlink(missing_ok=True)
    carry_over(checkpoint_dir, output_dir)


def _quantized(model: Any, linear_shapes: LinearShapes, tokens: Mapping[str, int]) -> list[QuantizedModule]:
    """Every module that was packed; the engine tells the losses of whole layers in its log alone."""
    if has_experts(linear_shapes) and not tokens:
        raise StageError(
            f"{ENGINE} works on experts whose tokens cannot be counted: transformers 5 has not packed them",
            remedy="take another method for this model",
            blame="engine",
        )
    packed = [QuantizedModule(name=name) for name, one in model.named_modules() if hasattr(one, "qweight")]
    known = checkpoint_names(linear_shapes)
    modules = [one.model_copy(update={"name": known.get(one.name, one.name)}) for one in told_unreached(packed, tokens)]
    return sorted(modules, key=lambda module: module.name)
