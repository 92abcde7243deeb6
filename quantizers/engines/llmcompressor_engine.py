"""llm-compressor 0.14, whose GPTQ writes compressed-tensors: integers for the activations too, and NVFP4.

What is ours around it: rows are handed over one at a time as they are, so that it can cut and mix none; each Linear's
own count of rows is read back, since it would go on with fewer; SmoothQuant's scales go into the norms that feed the
Linears, where its table of architectures names another norm (of Gemma's four, the one behind attention).

It runs in an environment of its own, beside another compressed-tensors than the serving engine's.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast

from configs.errors import StageError
from quantizers.base import CalibratedMethodConfig, QuantizeOutcome
from quantizers.checkpoints.expert_names import checkpoint_names
from quantizers.checkpoints.tokenizer_files import carry_over
from quantizers.engines.engine_frame import check_complete, engine_at_work, read_rows
from quantizers.engines.experts import name_as_checkpoint
from quantizers.engines.left_whole import ignored, tell_servers
from registry.contracts import QuantizedModule

if TYPE_CHECKING:
    import torch

    from quantizers.base import QuantizeJob
    from registry.stage_process import StageClock

ENGINE = "llmcompressor"
LIBRARIES = ("llmcompressor", "compressed-tensors", "torch", "transformers")
"""Whose versions shape the weights."""

_BEHIND_ATTENTION_S_NORM = (("q_proj", "k_proj", "v_proj"), ("qkv_proj",))
_BEHIND_MLP_S_NORM = (("gate_proj", "up_proj"), ("gate_up_proj",))
"""Linears that read one norm, apart or fused."""


def run_engine(
    job: QuantizeJob,
    clock: StageClock,
    scheme: Mapping[str, Any],
    *,
    dampening: float,
    smoothing: float | None = None,
) -> QuantizeOutcome:
    """Quantize `job.checkpoint_dir` by GPTQ and write a complete artifact into `job.output_dir`.

    Args:
        job: Its `calibration_dir` holds `rows.json`, lists of token ids.
        clock: Counts `import`, `load`, `quantize`, `save`; progress is told by Linear.
        scheme: `weights` and `input_activations` as compressed-tensors' QuantizationArgs.
        dampening: Share of the mean Hessian diagonal that is added to the diagonal.
        smoothing: SmoothQuant's strength, how much of the activations' range goes into the weights before; None: none.

    Raises:
        StageError: The engine failed, left a Linear unquantized, or gave a Linear other rows than it got itself; or
            the model has no norms that smoothing could go into.
    """
    config = cast(CalibratedMethodConfig, job.config)
    checkpoint_dir = job.checkpoint_dir.resolve()
    rows = read_rows(job.calibration_dir)[: config.calibration_rows]
    with engine_at_work(ENGINE, job) as output_dir:
        with clock.part("import"):
            import torch
            from llmcompressor import oneshot
            from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
        torch.set_num_threads(job.threads)
        with clock.part("load"):
            model = AutoModelForCausalLM.from_pretrained(
                checkpoint_dir, dtype=getattr(torch, job.dtype), device_map=job.device
            )
        modules: list[QuantizedModule] = []
        modifiers = [_rounding(clock, modules, len(rows), job, scheme, dampening)]
        if smoothing is not None:
            modifiers.insert(0, _smoothing(model, smoothing))
        print(f"{ENGINE}: {job.name}, {len(rows)} calibration rows, all of each", file=sys.stderr)
        with clock.part("quantize"):
            oneshot(
                model=model,
                processor=AutoTokenizer.from_pretrained(checkpoint_dir),
                dataset=_one_at_a_time(rows),
                recipe=modifiers,
            )
        modules.sort(key=lambda module: module.name)
        check_complete(ENGINE, modules, job.checkpoint.linear_shapes)
        with clock.part("save"):
            model.generation_config = GenerationConfig()  # some are refused, and the source's own file comes anyway
            _pack(model, getattr(torch, job.checkpoint.dtype))
            model.save_pretrained(output_dir)
            name_as_checkpoint(output_dir, job.checkpoint.linear_shapes)
            tell_servers(output_dir, job.checkpoint.left_whole)
            (output_dir / "recipe.yaml").unlink(missing_ok=True)  # README.md and config.json have all of it
            carry_over(checkpoint_dir, output_dir)
    return QuantizeOutcome(
        modules=modules, versions={library: version(library) for library in LIBRARIES}, engine=ENGINE
    )


def smoothed(modules: Sequence[str]) -> list[tuple[list[str], str]]:
    """SmoothQuant's mappings of a model: Linears that read one norm, and the norm, as patterns of module names.

    Args:
        modules: Names of the model's modules. Where experts are among them, attention alone is smoothed: the router
            reads the MLP's norm too, and would send tokens to others.

    Raises:
        StageError: A norm feeds other Linears than these, or none: the model would be another one.
    """
    kinds = {name.rsplit(".", 1)[-1] for name in modules}
    # The norm of that name stands before the MLP where there are two, and behind attention where there are four.
    of_mlp = "pre_feedforward_layernorm" if "pre_feedforward_layernorm" in kinds else "post_attention_layernorm"
    parts: list[tuple[tuple[tuple[str, ...], ...], str]] = [(_BEHIND_ATTENTION_S_NORM, "input_layernorm")]
    if "experts" not in kinds:
        parts.append((_BEHIND_MLP_S_NORM, of_mlp))
    found = [(next((linears for linears in choices if kinds >= set(linears)), None), norm) for choices, norm in parts]
    # One norm for both parts would be attention's and, unseen here, the experts'.
    if not (kinds >= {"input_layernorm", of_mlp} and all(linears for linears, _ in found)):
        norms = ", ".join(sorted(kind for kind in kinds if "norm" in kind)) or "none"
        raise StageError(
            f"{ENGINE} smooths models with a norm of their own before attention's Linears and before the MLP's, and the"
            f" norms of this one are {norms}",
            remedy="set smoothing_strength to null, or take w8a8",
            blame="recipe",
        )
    return [([f"re:.*[.]{one}$" for one in linears or ()], f"re:.*[.]{norm}$") for linears, norm in found]


def _smoothing(model: Any, strength: float) -> Any:
    from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

    return SmoothQuantModifier(
        smoothing_strength=strength, mappings=smoothed([name for name, _ in model.named_modules()])
    )


def _one_at_a_time(rows: Sequence[Sequence[int]]) -> Any:
    """A DataLoader of the rows in their order, each a batch of its own and whole."""
    import torch
    from torch.utils.data import DataLoader

    def batch(row: list[list[int]]) -> dict[str, torch.Tensor]:
        ids = torch.tensor(row)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    return DataLoader(cast(Any, rows), batch_size=1, shuffle=False, collate_fn=batch)


def _rounding(
    clock: StageClock,
    modules: list[QuantizedModule],
    rows: int,
    job: QuantizeJob,
    scheme: Mapping[str, Any],
    dampening: float,
) -> Any:
    """The engine's GPTQ, which tells of each Linear in `modules` and refuses one that saw other than `rows` rows."""
    import torch
    from compressed_tensors.quantization import QuantizationScheme
    from llmcompressor.modifiers.gptq import GPTQModifier

    stored = getattr(torch, job.checkpoint.dtype)
    known = checkpoint_names(job.checkpoint.linear_shapes)

    class Modifier(GPTQModifier):  # type: ignore[misc]
        def compress_module_list(self, module_list: Sequence[Any]) -> None:
            for module in module_list:
                name = known.get(self._module_names[module], self._module_names[module])
                seen = int(self._num_samples[module])
                if seen != rows:
                    raise StageError(
                        f"{ENGINE} showed {name} {seen} of {rows} calibration rows",
                        remedy="take another method for this model: it calibrates a part of it on other text",
                        blame="engine",
                    )
                fallbacks = len(self._rtn_fallback_module_names)
                with _losses() as losses, _scales_as_stored(module.weight_observer, stored):
                    super().compress_module_list([module])
                fell_back = len(self._rtn_fallback_module_names) > fallbacks
                fallback = "round-to-nearest: its Hessian could not be inverted" if fell_back else None
                modules.append(QuantizedModule(name=name, loss=None if fell_back else losses[0], fallback=fallback))
                clock.progress("quantize", len(modules), len(job.checkpoint.linear_shapes))

    Modifier.__name__ = GPTQModifier.__name__
    linears = QuantizationScheme(targets=["Linear"], **scheme)
    return Modifier(
        config_groups={"linear": linears},
        ignore=ignored(job.checkpoint.left_whole),
        dampening_frac=dampening,
        batched_quantization=None,
    )


@contextlib.contextmanager
def _losses() -> Iterator[list[float]]:
    """The engine's own losses of the matrices that are rounded inside the block."""
    from llmcompressor.modifiers.gptq import base

    original, told = base.quantize_weight, list[float]()

    def quantize_weight(*args: Any, **options: Any) -> Any:
        quantized, losses, fell_back = original(*args, **options)
        told.extend(losses.tolist())
        return quantized, losses, fell_back

    base.quantize_weight = quantize_weight
    try:
        yield told
    finally:
        base.quantize_weight = original


@contextlib.contextmanager
def _scales_as_stored(observer: Any, dtype: torch.dtype) -> Iterator[None]:
    """Have `observer` give scales that `dtype` holds: rounded later, they would move the levels below the weights.

    Scales below a global one are rounded by the engine itself.
    """
    original = observer.get_qparams

    def get_qparams() -> dict[str, Any]:
        found: dict[str, Any] = original()
        if found["global_scale"] is None:
            found["scale"] = found["scale"].to(dtype).to(found["scale"].dtype)
        return found

    observer.get_qparams = get_qparams
    try:
        yield
    finally:
        del observer.get_qparams


def _pack(model: Any, dtype: torch.dtype) -> None:
    """Pack the quantized Linears, and give all that is in floating point `dtype`, the checkpoint's."""
    from compressed_tensors.compressors import ModelCompressor

    held = model.dtype
    ModelCompressor.from_pretrained_model(model).compress_model(model)
    for name, parameter in model.named_parameters():
        if parameter.dtype == held and not name.endswith("_global_scale"):
            parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype
