"""GPTQModel, the engine behind GPTQ and AWQ: loading, quantizing and saving in its terms, its log read in ours."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from quantizers.base import CalibratedMethodConfig, MixtureMethodConfig, QuantizeOutcome
from quantizers.checkpoints.expert_names import checkpoint_names, has_experts
from quantizers.checkpoints.sources import read_config
from quantizers.checkpoints.tokenizer_files import carry_over
from quantizers.engines.engine_frame import check_complete, engine_at_work, read_rows
from quantizers.engines.experts import (
    by_engine_names,
    counted_tokens,
    name_as_checkpoint,
    refuse_unreached,
    told_unreached,
)
from quantizers.engines.fused_linears import left_fused
from quantizers.engines.layer_kinds import own_positions
from quantizers.engines.packing import whole_tensor_packing
from registry.contracts import QuantizedModule
from registry.contracts.base import format_of
from registry.files import write_text_atomically
from registry.stand_in_modules import stand_in_for_torchvision

if TYPE_CHECKING:
    from quantizers.base import QuantizeJob
    from registry.stage_process import StageClock

ENGINE = "gptqmodel"
LIBRARIES = ("gptqmodel", "torch", "transformers")
"""Whose versions shape the weights."""

_IN_LAYER = re.compile(r"^.*\.layers\.\d+\.")
_GAVE_UP_LOSS = 999999999
"""What the engine logs for a module that it rounded to nearest while fallbacks are off (quantization/gptq.py)."""


def import_engine(threads: int) -> Any:
    """Import `gptqmodel`, ready for a machine with `threads` cores and no torchvision.

    Its CPU pool refuses to start with fewer than two workers, and it imports torchvision for one image model.
    """
    os.environ["GPTQMODEL_CPU_WORKERS"] = str(max(2, threads))
    import torch
    from transformers import PreTrainedModel  # noqa: F401

    torch.set_num_threads(threads)
    stand_in_for_torchvision()
    import gptqmodel

    return gptqmodel


def run_engine(
    job: QuantizeJob,
    clock: StageClock,
    engine_config: Mapping[str, Any],
    overrides: Callable[[Any], contextlib.AbstractContextManager[None]],
    backend: str = "AUTO",
) -> QuantizeOutcome:
    """Quantize `job.checkpoint_dir` by the engine and write a complete artifact into `job.output_dir`.

    Args:
        job: Its `calibration_dir` holds `rows.json`, lists of token ids.
        clock: Counts `import`, `load`, `quantize`, `save`; progress is told by decoder layer.
        engine_config: Arguments of the engine's QuantizeConfig, `device` and disk policy excepted.
        overrides: Given the model, what is entered around the quantization: replaced functions, put back on exit.
        backend: Name of a member of the engine's BACKEND.

    Raises:
        RequestError: The calibration rows are longer than a window that only some layers have.
        StageError: The engine failed, or left a Linear of the checkpoint unquantized.
    """
    config = cast(CalibratedMethodConfig, job.config)
    job = job.model_copy(update={"checkpoint_dir": job.checkpoint_dir.resolve()})
    rows = [
        {"input_ids": row, "attention_mask": [1] * len(row)}
        for row in read_rows(job.calibration_dir)[: config.calibration_rows]
    ]
    with engine_at_work(ENGINE, job) as output_dir:
        with clock.part("import"):
            gptqmodel = import_engine(job.threads)
        model_type = read_config(job.checkpoint_dir)["model_type"]
        with left_fused(model_type, job.checkpoint.linear_shapes):
            with clock.part("load"):
                model = _load(gptqmodel, job, engine_config)
            with (
                clock.part("quantize"),
                whole_tensor_packing(),
                own_positions(model.model),
                overrides(model.model),
                counted_tokens(model.model) as tokens,
            ):
                _report_layers(model, clock, job)
                model.quantize(calibration=rows, batch_size=1, backend=getattr(gptqmodel.BACKEND, backend))
            modules = _made(model, job, tokens)
            # With fallbacks off, it leaves a module that saw no tokens as it was.
            check_complete(ENGINE, modules, job.quantized_linears)
            if not (isinstance(config, MixtureMethodConfig) and config.unreached_experts == "round"):
                refuse_unreached(modules)
            with clock.part("save"):
                _restore_dtype(model, job)
                model.save(str(output_dir))
                name_as_checkpoint(output_dir, job.checkpoint.linear_shapes)
                _finish_artifact(job.checkpoint_dir, output_dir)
                _name_left_alone(job, output_dir)
    return QuantizeOutcome(
        modules=modules, versions={library: version(library) for library in LIBRARIES}, engine=ENGINE
    )


def _made(model: Any, job: QuantizeJob, tokens: Mapping[str, int]) -> list[QuantizedModule]:
    """The engine's log, by the checkpoint's names, without modules that its definition names and the model lacks."""
    shapes = job.checkpoint.linear_shapes
    known = checkpoint_names(shapes)
    logged = told_unreached(read_quant_log(model.quant_log, model.extract_layers_node()), tokens)
    modules = [module.model_copy(update={"name": known.get(module.name, module.name)}) for module in logged]
    # The engine logs in the order its workers finished; equal work is to give equal records.
    return sorted((module for module in modules if module.name in shapes), key=lambda module: module.name)


def _load(gptqmodel: Any, job: QuantizeJob, engine_config: Mapping[str, Any]) -> Any:
    import torch

    config = gptqmodel.QuantizeConfig(
        **engine_config,
        device=job.device,
        # The weights fit in memory beside a layer's activations; offloading would also write its path into config.json.
        offload_to_disk=False,
    )
    # The engine turns a missing value into its default (fallback on), so it is set afterwards. An expert that saw no
    # token has to be rounded somehow: it is packed like all others, and `refuse_unreached` judges it.
    config.fallback = _only_without_tokens() if has_experts(job.checkpoint.linear_shapes) else None
    return gptqmodel.GPTQModel.load(str(job.checkpoint_dir), config, dtype=getattr(torch, job.dtype))


def load_artifact(folder: Path, kind: str, device: str, dtype: Any, threads: int) -> Any:
    """A quantized model of transformers' class, read by the engine with its kernels of plain torch."""
    gptqmodel = import_engine(threads)
    backend = gptqmodel.BACKEND.AWQ_TORCH if kind == "awq" else gptqmodel.BACKEND.TORCH
    with by_engine_names(folder.resolve()) as readable:
        return gptqmodel.GPTQModel.load(str(readable), device=device, dtype=dtype, backend=backend).model


def _only_without_tokens() -> Any:
    from gptqmodel.quantization.config import Fallback

    return Fallback(threshold=1)


def _restore_dtype(model: Any, job: QuantizeJob) -> None:
    """Give embeddings and norms the checkpoint's dtype again, where they were widened for the work."""
    import torch

    dtype = getattr(torch, job.checkpoint.dtype)
    for parameter in model.model.parameters():
        parameter.data = parameter.data.to(dtype)
    model.model.config.dtype = dtype


def _report_layers(model: Any, clock: StageClock, job: QuantizeJob) -> None:
    """Have the engine tell `clock` of every finished decoder layer."""
    total = model.model.config.num_hidden_layers
    print(f"{ENGINE}: {job.name}, {total} layers in {job.dtype} on {job.device}", file=sys.stderr)

    def layer_complete(layer_idx: int, submodule_finalized: bool) -> None:
        if not submodule_finalized:
            clock.progress("quantize", layer_idx + 1, total)

    model.layer_callback = layer_complete


def read_quant_log(quant_log: Sequence[Mapping[str, Any]], layers_node: Sequence[str] | str) -> list[QuantizedModule]:
    """Read the engine's own log, one entry a module.

    The in-memory log is read and not `quant_log.csv`, whose rows do not match their header (models/writer.py). A loss
    may be a number, a number in a string, "not applicable" (AWQ, where a module is not scaled), or a string that tells
    of a fallback: "rtn fallback", "fallback(rtn): 0.0012".

    Args:
        quant_log: `model.quant_log`: entries with `layer`, `module`, `loss`.
        layers_node: Where the decoder layers lie, such as `model.layers`.
    """
    prefix = layers_node if isinstance(layers_node, str) else layers_node[0]
    return [_read_entry(f"{prefix}.{entry['layer']}.{entry['module']}", entry.get("loss")) for entry in quant_log]


def _read_entry(name: str, loss: Any) -> QuantizedModule:
    try:
        value = float(loss)
    except (TypeError, ValueError):
        text = str(loss)
        return QuantizedModule(name=name, fallback=text if "fallback" in text else None)
    if value >= _GAVE_UP_LOSS:
        return QuantizedModule(name=name, fallback="round-to-nearest: its Hessian could not be inverted")
    return QuantizedModule(name=name, loss=value)


def _name_left_alone(job: QuantizeJob, output_dir: Path) -> None:
    """Write what was left as it is where others look for it: they do not know `dynamic`, the engine's own.

    Readers of AWQ look for names of modules, or for parts of them, so these are whole: `gate` is a part of
    `gate_up_proj`. Of GPTQ, transformers looks for a layer's modules that are packed; mixtures it does not read.
    """
    told: dict[str, Any] = {}
    left_whole, linears = job.checkpoint.left_whole, job.quantized_linears
    if format_of(job.config.method) == "awq" and (left_alone := [*job.left_alone, *left_whole]):
        told = {"modules_to_not_convert": left_alone}
    if format_of(job.config.method) == "gptq" and left_whole and not has_experts(linears):
        told = {"modules_in_block_to_quantize": [sorted({_IN_LAYER.sub("", one) for one in linears})]}
    if told:
        config = read_config(output_dir)
        config["quantization_config"] |= told
        write_text_atomically(output_dir / "config.json", json.dumps(config, indent=2) + "\n")


def _finish_artifact(checkpoint_dir: Path, output_dir: Path) -> None:
    """Put the source's own tokenizer files in place and drop what the engine adds for itself.

    The engine rewrites `tokenizer_class` on saving (models/writer.py), and its `quant_log.csv` holds wall times, which
    would give equal weights different digests.
    """
    (output_dir / "quant_log.csv").unlink(missing_ok=True)
    carry_over(checkpoint_dir, output_dir)
