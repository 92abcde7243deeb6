"""The inspect stage: is the artifact what it says it is? Asked of the files, not of the engine that wrote them."""

from __future__ import annotations

import importlib.metadata
import math
import statistics
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantizers.base import LinearShapes, bits_of
from quantizers.checkpoints.expert_names import checkpoint_names, expert_of, has_experts, is_expert, is_router
from quantizers.checkpoints.gguf_tensors import GgufFile
from quantizers.checkpoints.safetensors_header import TensorInfo, read_headers
from quantizers.checkpoints.sources import read_config
from quantizers.checkpoints.stored_model import gguf_file, stored_headers
from quantizers.checkpoints.tokenizer_files import tokenizer_files
from quantizers.engines.compressed_tensors_engine import integer_experts_read
from quantizers.engines.experts import unreached_experts
from quantizers.inspection.agreement import compare_weights
from quantizers.inspection.dequantize import PACKED, TensorFiles, stored_name, tensors_of
from quantizers.inspection.embeddings import check_embeddings
from quantizers.inspection.gguf_file import (
    check_metadata,
    check_rounded_embeddings,
    check_vocabulary,
    read_as_source,
)
from quantizers.inspection.precision import check_budget, check_precision
from quantizers.precision.config import AS_IT_IS
from registry.contracts import ArtifactRecord, CheckpointRecord, InspectionCheck, InspectionRecord, StageJob
from registry.contracts.base import Device, DType, format_of, is_imported
from registry.hashing import manifest_of
from registry.os_faults import check_not_refused

if TYPE_CHECKING:
    from registry.stage_process import StageClock

MIN_CORRELATION = 0.9
"""Sound 4-bit weights of real models give 0.99 and more, an artifact that an engine had ruined gave 0.10."""

MAX_ERROR_WITHOUT_VARIANCE = math.sqrt(1 - MIN_CORRELATION**2)
"""The relative error of the best fit of two matrices of mean 0 that correlate by MIN_CORRELATION."""

MAX_ERROR = 1.0
"""A correlation does not see a factor: weights that are off by more than they are themselves are not the source's."""

_MAX_OVERHEAD_BITS = 2.0
"""Scales, zeros and tables, per weight; large only in models of a few thousand weights a layer."""
_SIZE_TOLERANCE = 0.10

_PROBE_PROMPT = "The capital of France is"
_KERNELS_OF_ANY_SHAPE = {"gptq": "gptq_torch", "awq": "torch_awq"}
"""By the artifact's quant_method: what transformers calls gptqmodel's kernels of plain torch."""
_PROBE_TOKENS = 16
_PROBE_TEXTS = (
    _PROBE_PROMPT,
    "def add(a, b):\n    return a + b\n",
    "  two  spaces, a tab\t, Zürich, 東京, \N{GRINNING FACE}",
    "3.14159 * 2,000 = 6,283.18",
)


class InspectJob(StageJob):
    """Compare an artifact with its source."""

    checkpoint_dir: Path
    checkpoint: CheckpointRecord
    artifact_dir: Path
    artifact: ArtifactRecord
    device: Device
    dtype: DType
    """What the artifact is reloaded in for the probe prompt."""
    threads: int


def inspect(job: InspectJob, clock: StageClock) -> tuple[InspectionRecord, dict[str, str]]:
    """Answer every question; a failed check is a result here, and no exception.

    Returns:
        The record, and distribution name -> version of the libraries that the reload used.
    """
    with clock.part("hash"):
        checks = [_check_digest(job)]
    if not checks[0].passed:
        return _record(job, checks), {}
    with clock.part("import"):
        import torch
    torch.set_num_threads(job.threads)
    headers, source_headers = stored_headers(job.artifact_dir, job.checkpoint_dir), read_headers(job.checkpoint_dir)
    checks.append(check_packed(headers, job.checkpoint, job.artifact))
    checks.append(check_size(headers, job.checkpoint, job.artifact, source_headers))
    if precision := job.artifact.precision:
        shapes, declared = job.checkpoint.linear_shapes, read_config(job.artifact_dir)["quantization_config"]
        checks.append(check_precision(headers, shapes, job.artifact, precision, declared))
        checks.append(check_budget(bits_per_weight(headers, shapes), job.artifact_dir, precision))
    if has_experts(job.checkpoint.linear_shapes):
        checks.append(check_expert_names(headers, source_headers, job.checkpoint.linear_shapes))
        checks.append(check_experts(job.artifact))
    correlation: dict[str, float | None] = {}
    error: dict[str, float] = {}
    if checks[1].passed:
        with (
            clock.part("compare"),
            TensorFiles(job.checkpoint_dir) as source,
            tensors_of(job.artifact_dir, source_headers) as artifact,
        ):
            correlation, error = compare_weights(
                source,
                artifact,
                job.checkpoint,
                job.artifact.method,
                read_config(job.artifact_dir)["quantization_config"],
                lambda done, total: clock.progress("compare", done, total),
            )
            if isinstance(artifact, GgufFile):
                checks.append(check_rounded_embeddings(source, artifact, MIN_CORRELATION))
            elif is_imported(job.artifact.method):
                checks.append(check_embeddings(source, artifact))
        checks.append(check_agreement(correlation, error))
    # Imported here, or the first part that needs them would be charged for it.
    with clock.part("import"):
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401
    with clock.part("tokenizer"):
        checks.append(check_tokenizer(job.checkpoint_dir, job.artifact_dir))
        if path := gguf_file(job.artifact_dir):
            checks += [check_vocabulary(path), check_metadata(path, job.checkpoint_dir)]
    with clock.part("import"):
        _import_engine_of(job)
    with clock.part("reload"):
        reload, answer = _reload(job)
    checks.append(reload)
    versions = {name: importlib.metadata.version(name) for name in ("transformers", "torch", "safetensors")}
    return _record(job, checks, correlation, error, answer), versions


def bits_per_weight(headers: dict[str, TensorInfo], linear_shapes: LinearShapes) -> float:
    """Bits on disk for the Linears, biases left out, over the number of their weights."""
    modules = linear_shapes.keys() | checkpoint_names(linear_shapes).keys()
    stored = sum(
        info.size_bytes
        for name, info in headers.items()
        if _module_of(name, modules) is not None and not name.endswith(".bias")
    )
    return 8 * stored / sum(rows * columns for rows, columns in linear_shapes.values())


def check_packed(
    headers: dict[str, TensorInfo], checkpoint: CheckpointRecord, artifact: ArtifactRecord
) -> InspectionCheck:
    """Every Linear has to be stored in the method's packed dtype."""
    name, dtypes = PACKED[format_of(artifact.method)]
    shapes = checkpoint.linear_shapes
    stored = {module: headers.get(f"{stored_name(headers, module, artifact.method)}.{name}") for module in shapes}
    unpacked = [module for module, info in stored.items() if info is None or info.dtype not in dtypes]
    asked = artifact.precision.module_bits if artifact.precision else {}
    plain = [module for module in unpacked if asked.get(module) != AS_IT_IS]
    total = sum(rows * columns for rows, columns in shapes.values())
    share = 1 - sum(shapes[module][0] * shapes[module][1] for module in unpacked) / total
    counted = Counter(info.dtype for info in stored.values() if info and info.dtype in dtypes)
    told = ", ".join(f"{dtype} ({count})" if len(counted) > 1 else dtype for dtype, count in counted.most_common())
    detail = f"{100 * share:.1f} % of the Linear weights are stored as {told or ' or '.join(dtypes)}"
    if len(unpacked) > len(plain):
        detail += f", {len(unpacked) - len(plain)} modules are left as they are, as asked"
    if plain:
        detail += f"; not so: {', '.join(plain[:3])} ({len(plain)} in all). The engine left them out: read its log"
    return InspectionCheck(name="packed_dtypes", passed=not plain, detail=detail)


def check_size(
    headers: dict[str, TensorInfo],
    checkpoint: CheckpointRecord,
    artifact: ArtifactRecord,
    source_headers: dict[str, TensorInfo],
) -> InspectionCheck:
    """Bits per weight have to fit what was asked for, and the rest of the model has to be as large as it was."""
    bits = bits_per_weight(headers, checkpoint.linear_shapes)
    nominal = _nominal_bits(artifact, checkpoint.linear_shapes)
    size, source_size = _total(headers), _total(source_headers)
    weights = sum(rows * columns for rows, columns in checkpoint.linear_shapes.values())
    linear = sum(source_headers[f"{module}.weight"].size_bytes for module in checkpoint.linear_shapes)
    dropped = sum(source_headers[name].size_bytes for name in checkpoint.passed_over if name not in headers)
    expected = source_size - linear - dropped + weights * bits / 8
    # GGUF rounds the embeddings too; how well is a check of its own.
    least = weights * bits / 8 if format_of(artifact.method) == "gguf" else expected * (1 - _SIZE_TOLERANCE)
    passed = nominal <= bits <= nominal + _MAX_OVERHEAD_BITS and least <= size <= expected * (1 + _SIZE_TOLERANCE)
    detail = (
        f"{bits:.2f} bits per weight where {nominal:.4g} were asked for; {size} bytes, {100 * size / source_size:.1f} %"
        f" of the source, where {expected:.0f} were expected"
    )
    if not passed:
        detail += "; compare the tensors of both folders: something is stored twice, widened or missing"
    return InspectionCheck(name="size", passed=passed, detail=detail)


def _nominal_bits(artifact: ArtifactRecord, linear_shapes: LinearShapes) -> float:
    """Bits of a weight's code, on average where modules differ."""
    if artifact.precision is None:
        return bits_of(artifact)
    sizes = {module: rows * columns for module, (rows, columns) in linear_shapes.items()}
    of_all = sum(size * artifact.precision.module_bits[module] for module, size in sizes.items())
    return of_all / sum(sizes.values())


def check_agreement(correlation: dict[str, float | None], error: dict[str, float]) -> InspectionCheck:
    """Dequantized weights have to follow the source's in every module, and to be as large."""
    defined = {name: value for name, value in correlation.items() if value is not None}
    bad = [
        f"{name} {value:.2f}" for name, value in sorted(defined.items(), key=itemgetter(1)) if value < MIN_CORRELATION
    ]
    bad += [
        f"{name} (without variance; relative error {error[name]:.2g})"
        for name, value in correlation.items()
        if value is None and error[name] > MAX_ERROR_WITHOUT_VARIANCE
    ]
    bad += [
        f"{name} (relative error {error[name]:.2g})"
        for name, value in defined.items()
        if value >= MIN_CORRELATION and error[name] > MAX_ERROR
    ]
    lowest = min(defined, key=defined.__getitem__, default=None)
    detail = f"{len(correlation)} modules, " + (
        f"lowest correlation {defined[lowest]:.4f} ({lowest})" if lowest else "none with a correlation"
    )
    detail += f", median relative error {statistics.median(error.values()):.4f}"
    if bad:
        detail += (
            f"; below {MIN_CORRELATION} or too far off: {', '.join(bad[:3])} ({len(bad)} in all). The artifact does not"
            " hold the source's weights: throw it away and quantize again, in another dtype if the engine has one"
        )
    return InspectionCheck(name="weight_agreement", passed=not bad, detail=detail)


def check_expert_names(
    headers: Mapping[str, object], source_headers: Iterable[str], linear_shapes: LinearShapes
) -> InspectionCheck:
    """Experts, and what chooses among them, have to have the checkpoint's names: vLLM knows them by no others."""
    stored = {name.rpartition(".")[0] for name in headers}
    layers = {module.partition(".mlp.")[0].partition(".block_sparse_moe.")[0] for module in linear_shapes}
    routers = {
        module
        for name in source_headers
        if is_router(module := name.rpartition(".")[0]) and any(module.startswith(f"{layer}.") for layer in layers)
    }
    experts = {module for module in linear_shapes if is_expert(module)}
    lost = sorted((experts | routers) - stored)
    detail = f"{len(experts)} Linears of experts and {len(routers)} modules that choose among them have their names"
    if lost:
        detail = (
            f"{len(lost)} of {len(experts | routers)} modules have other names than in the checkpoint, such as"
            f" {', '.join(lost[:3])}: servers would not find them. Take another method, or another version of it"
        )
    return InspectionCheck(name="expert_names", passed=not lost, detail=detail)


def check_experts(artifact: ArtifactRecord) -> InspectionCheck:
    """Experts that calibration did not reach were rounded to nearest: allowed where the recipe says so, told always."""
    total = {expert for module in artifact.quantized_modules if (expert := expert_of(module.name))}
    unreached = unreached_experts(artifact.quantized_modules)
    allowed = artifact.parameters.get("unreached_experts") == "round"
    detail = f"{len(total)} experts, their routers in 16 bits; {len(unreached)} of them saw no calibration token"
    if unreached:
        detail += f" and were rounded to nearest: {', '.join(unreached[:3])}"
        detail += ", as unreached_experts allows" if allowed else "; calibrate with more text"
    return InspectionCheck(name="experts", passed=allowed or not unreached, detail=detail)


def check_tokenizer(checkpoint_dir: Path, artifact_dir: Path) -> InspectionCheck:
    """Vocabulary, special tokens, chat template and the ids of probe texts have to be the source's."""
    if _same_tokenizer_files(checkpoint_dir, artifact_dir):
        # Loading both takes seconds; that the artifact's does load is seen when the model is.
        detail = "the tokenizer's files and the chat template equal the source's byte for byte"
        return InspectionCheck(name="tokenizer", passed=True, detail=detail)
    from transformers import AutoTokenizer

    try:
        source, copy = (AutoTokenizer.from_pretrained(folder) for folder in (checkpoint_dir, artifact_dir))
    except (OSError, ValueError, KeyError) as error:
        check_not_refused(error, "loading the tokenizers", artifact_dir)
        return InspectionCheck(
            name="tokenizer", passed=False, detail=f"the tokenizer does not load: {error}; copy the source's files"
        )
    facts = [_tokenizer_facts(tokenizer) for tokenizer in (source, copy)]
    different = [what for what in facts[0] if facts[0][what] != facts[1][what]]
    detail = (
        f"not the source's: {', '.join(different)}; copy the source's tokenizer files into the artifact"
        if different
        else f"{len(source)} tokens, special tokens, chat template and probe ids equal the source's"
    )
    return InspectionCheck(name="tokenizer", passed=not different, detail=detail)


def _same_tokenizer_files(checkpoint_dir: Path, artifact_dir: Path) -> bool:
    files = [{file.name: file.read_bytes() for file in tokenizer_files(one)} for one in (checkpoint_dir, artifact_dir)]
    return bool(files[0]) and files[0] == files[1]


def _tokenizer_facts(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocabulary": tokenizer.get_vocab(),
        "special tokens": (tokenizer.special_tokens_map, tokenizer.all_special_ids),
        "chat template": tokenizer.chat_template,
        "probe ids": [tokenizer(text)["input_ids"] for text in _PROBE_TEXTS],
    }


def _check_digest(job: InspectJob) -> InspectionCheck:
    digest = manifest_of(job.artifact_dir).digest
    passed = digest == job.artifact.digest
    detail = digest if passed else f"the folder is {digest}, the record says {job.artifact.digest}; quantize again"
    return InspectionCheck(name="digest", passed=passed, detail=detail)


def _import_engine_of(job: InspectJob) -> None:
    """What transformers reads the artifact through: GPTQ through optimum and gptqmodel, AWQ through gptqmodel."""
    if format_of(job.artifact.method) in ("gptq", "awq"):
        from quantizers.engines.gptqmodel_engine import import_engine

        import_engine(job.threads)


def _config_to_reload(artifact_dir: Path, device: Device) -> Any:
    """The artifact's config, with the kernel named that takes every shape where the engine would choose by the GPU.

    Left to itself on a Hopper GPU, gptqmodel 7.3.6 takes Machete, which refuses layers whose rows are no multiple of
    128, and elsewhere Marlin, which it compiles for two minutes first. Eight tokens need neither.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(artifact_dir)
    kernel = _KERNELS_OF_ANY_SHAPE.get(config.quantization_config["quant_method"])
    if device == "cuda" and kernel is not None:
        config.quantization_config["backend"] = kernel
    return config


def _engine_reads(job: InspectJob) -> bool:
    """Whether GPTQModel has to read the artifact: of experts that it packed, transformers 5.19 keeps a layer's in one
    tensor and would fill it with random numbers; modules of several precisions (`dynamic`) it takes for alike."""
    kind = format_of(job.artifact.method)
    if has_experts(job.checkpoint.linear_shapes):
        return kind in ("gptq", "awq")
    return kind == "gptq" and job.artifact.precision is not None


def _reload(job: InspectJob) -> tuple[InspectionCheck, str]:
    """Load as a user of the artifact would, and answer the probe prompt greedily."""
    import torch
    from transformers import AutoTokenizer

    reader = "gptqmodel" if _engine_reads(job) else "transformers"
    try:
        tokenizer = AutoTokenizer.from_pretrained(job.artifact_dir)
        model, unlike = _loaded(job)
        if unlike:
            detail = f"transformers fills {len(unlike)} tensors with random numbers, such as {min(unlike)}"
            return InspectionCheck(name="reload", passed=False, detail=detail), ""
        prompt = tokenizer(_PROBE_PROMPT, return_tensors="pt").to(job.device)
        with torch.inference_mode():
            finite = bool(torch.isfinite(model(**prompt).logits).all())
            output = model.generate(**prompt, max_new_tokens=_PROBE_TOKENS, min_new_tokens=1, do_sample=False)
    except Exception as error:  # Whatever else stops it, the artifact does not load, and that is the finding.
        check_not_refused(error, "reloading the artifact", job.artifact_dir)
        detail = f"{reader} does not run the artifact: {type(error).__name__}: {error}"
        return InspectionCheck(name="reload", passed=False, detail=detail), ""
    answer = tokenizer.decode(output[0, prompt["input_ids"].shape[1] :])
    passed = finite and bool(answer)
    detail = f"{_PROBE_PROMPT!r} -> {answer!r}" if finite else "the logits are not finite: quantize in another dtype"
    return InspectionCheck(name="reload", passed=passed, detail=detail), answer


def _loaded(job: InspectJob) -> tuple[Any, Collection[str]]:
    """The artifact as transformers loads it, or as its engine does where only that can; and what was not found."""
    import torch
    from transformers import AutoModelForCausalLM

    dtype = getattr(torch, job.dtype)
    if path := gguf_file(job.artifact_dir):
        return read_as_source(path, job.checkpoint_dir, job.dtype)
    if _engine_reads(job):
        from quantizers.engines.gptqmodel_engine import load_artifact

        kind = format_of(job.artifact.method)
        return load_artifact(job.artifact_dir, kind, job.device, dtype, job.threads), ()
    with integer_experts_read():
        model, info = AutoModelForCausalLM.from_pretrained(
            job.artifact_dir,
            config=_config_to_reload(job.artifact_dir, job.device),
            dtype=dtype,
            device_map=job.device,
            output_loading_info=True,
        )
    return model, info["missing_keys"]


def _record(
    job: InspectJob,
    checks: list[InspectionCheck],
    correlation: dict[str, float | None] | None = None,
    error: dict[str, float] | None = None,
    answer: str = "",
) -> InspectionRecord:
    return InspectionRecord(
        artifact_digest=job.artifact.digest,
        checks=checks,
        module_correlation=correlation or {},
        module_relative_error=error or {},
        probe_prompt=_PROBE_PROMPT,
        probe_answer=answer,
    )


def _module_of(tensor: str, modules: Collection[str]) -> str | None:
    """The Linear that a tensor belongs to: `a.b.weight.absmax` belongs to `a.b`."""
    parts = tensor.split(".")
    return next((name for end in range(len(parts) - 1, 0, -1) if (name := ".".join(parts[:end])) in modules), None)


def _total(headers: dict[str, TensorInfo]) -> int:
    return sum(info.size_bytes for info in headers.values())
