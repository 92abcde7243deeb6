"""What can be known to fail before it costs an hour: rules, compatibility, disk space. Nothing is loaded."""

import difflib
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from configs.errors import RequestError, StageError
from evals.suites.generation import most_tokens
from evals.suites.resolve import checked_leaves
from pipelines.planning.compatibility import Asked, serving_violations
from pipelines.planning.context import JobContext
from pipelines.planning.device import MachineRecord
from pipelines.planning.interpreters import check_interpreter
from pipelines.planning.memory_split import split_violations
from pipelines.planning.stages import STAGE_MODULES, Stage, quantize_dtype, serve_dtype
from pipelines.recipe.run_config import RunConfig
from quantizers.base import METHODS, MethodConfig, load_method, mixed_precision_of, needs_rows, packing_of
from quantizers.calibration.config import check_calibration
from quantizers.checkpoints.architectures import architecture_table
from quantizers.checkpoints.expert_names import has_experts
from quantizers.checkpoints.sources import SourceConfig, checkpoint_bytes, shared_bytes
from quantizers.methods.families import family_violations
from quantizers.methods.rules import range_violations, tensor_parallel_violations
from quantizers.precision.choice import precision_violations
from quantizers.precision.config import AS_IT_IS
from registry.contracts import CheckpointRecord, StageResult
from registry.contracts.base import Device
from serving_checks.engines.base import ServingConfig
from serving_checks.engines.table import engine_type

logger = logging.getLogger(__name__)

_SPARE_BYTES = 64 << 20
"""For tokenizer, logs and records."""


def check_environments(environments: Mapping[str, Path], stages: Sequence[Stage]) -> None:
    """Raise RequestError for an entry of `environments` that names nothing, or a Python that cannot run its stage."""
    known = [*STAGE_MODULES, *METHODS]
    for name in environments:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise RequestError(
                f"`environments` has an entry {name!r}, which is neither a stage nor a method",
                remedy=(f"did you mean {near[0]}? " if near else "") + f"known: {', '.join(known)}",
            )
    for stage in stages:
        if stage.interpreter:
            check_interpreter(stage.interpreter, STAGE_MODULES[stage.kind])


def check_memory(serving: ServingConfig, machine: MachineRecord) -> None:
    """Raise RequestError for a KV cache that this machine cannot hold; a GPU's rank has a GPU of its own."""
    gib: float | None = getattr(serving, "kv_cache_gib", None)
    ranks = serving.ranks
    memory, sharing = machine.memory_bytes, ranks
    if machine.device == "cuda":
        memory, sharing = machine.gpu_memory_bytes or 0, 1
    if gib is not None and memory and gib * sharing * 2**30 > memory:
        raise RequestError(
            f"serving.kv_cache_gib asks for {gib:g} GiB on each of {ranks} ranks, and this machine has"
            f" {memory / 2**30:.1f} GiB" + (" on a GPU" if machine.device == "cuda" else ""),
            remedy="lower serving.kv_cache_gib",
        )


def check_families(methods: Mapping[str, MethodConfig], architecture: str | None) -> None:
    """Raise RequestError for methods that cannot make a model of this architecture; None: it is not known yet."""
    found = [
        f"{name}: {line}" for name, method in methods.items() for line in family_violations(method, architecture or "")
    ]
    if found:
        _refuse(found)


def check_architecture(config: RunConfig, machine: MachineRecord, architecture: str | None) -> None:
    """Raise RequestError for artifacts that are not served here of such a model; None: it is not known yet."""
    found = [
        f"{name}: {line}"
        for name, method in config.methods.items()
        for one in _asked_of(_asked(config, machine), method)
        for line in serving_violations(_of(one, architecture))
        if line not in serving_violations(one)
    ]
    if found:
        _refuse(list(dict.fromkeys(found)))


def _of(asked: Asked, architecture: str | None) -> Asked:
    """The same for a model of which the architecture alone is known."""
    row = architecture_table().architectures.get(architecture or "")
    return asked._replace(architecture=architecture, experts=row is not None and row.experts)


def without_refused(
    config: RunConfig, machine: MachineRecord, architecture: str | None = None
) -> tuple[RunConfig, dict[str, str]]:
    """The config without those of its `optional` entries that this machine cannot make or serve, and why, by name.

    Args:
        config: Of the recipe.
        machine: This one.
        architecture: The source's, where that is known already.

    Raises:
        RequestError: Nothing is left.
    """
    left_out = {
        name: "; ".join(found)
        for name in config.optional
        if (found := _refused_by_machine(config, machine, name, architecture))
    }
    if len(left_out) == len(config.methods):
        _refuse([f"{name}: {why}" for name, why in left_out.items()])
    kept = {name: method for name, method in config.methods.items() if name not in left_out}
    replicates = {name: count for name, count in config.replicates.items() if name not in left_out}
    # What is kept is a recipe again: a run's config.json can be run as one.
    optional = [name for name in config.optional if name not in left_out]
    return config.model_copy(update={"methods": kept, "replicates": replicates, "optional": optional}), left_out


def _refused_by_machine(config: RunConfig, machine: MachineRecord, name: str, architecture: str | None) -> list[str]:
    """Why this machine does not take an entry that another one might."""
    entry, asked = config.methods[name], _of(_asked(config, machine), architecture)
    served = _asked_of(asked, entry)
    # Of all models, or on every machine: then the recipe is wrong, and the run is refused for it.
    others = serving_violations(asked)
    others += [line for one in served for line in serving_violations(one._replace(device=None, cpu_flags=None))]
    # Without shapes, what is left to refuse is the device.
    dtype = quantize_dtype(config, machine, entry.method)
    made = load_method(entry.method).violations(entry, {}, 1, machine.device, dtype)
    elsewhere = load_method(entry.method).violations(entry, {}, 1, _OTHER_DEVICE[machine.device], dtype)
    refused = dict.fromkeys(line for one in served for line in serving_violations(one))
    return [line for line in refused if line not in others] + [line for line in made if line not in elsewhere]


_OTHER_DEVICE: dict[Device, Device] = {"cpu": "cuda", "cuda": "cpu"}


def _asked(config: RunConfig, machine: MachineRecord, head_size: int | None = None) -> Asked:
    serving, engine = config.serving, engine_type(config.serving.engine)
    ranks, stages = serving.tensor_parallel_size, serving.pipeline_parallel_size
    return Asked(None, machine.device, ranks, stages, engine.name, machine.cpu_flags, head_size=head_size)


def _asked_of(asked: Asked, method: MethodConfig) -> list[Asked]:
    """An artifact as it is to be served, once for each of the bits that its packed modules may have."""
    mixed = mixed_precision_of(method)
    own = getattr(method, "bits", None)
    packed = [own] if mixed is None or own is None else [bits for bits in mixed.choices if bits != AS_IT_IS]
    return [asked._replace(method=method.method, bits=bits, mixed=mixed is not None) for bits in packed]


def check_rules(context: JobContext, checkpoint: CheckpointRecord) -> None:
    """Raise RequestError with all that forbids the run on this checkpoint, machine and serving config."""
    found = rule_violations(context, checkpoint)
    # A first recipe is written all the same, with this as a warning.
    found += split_violations(context.config, context.machine, checkpoint)
    if found:
        _refuse(found)


def _refuse(found: Sequence[str]) -> NoReturn:
    raise RequestError(
        "the run is refused before its work begins:" + "".join(f"\n  - {line}" for line in found),
        remedy="change the recipe as each line says",
    )


def rule_violations(context: JobContext, checkpoint: CheckpointRecord) -> list[str]:
    """Sentences with the entry's name, the layers and the remedy; empty where nothing is wrong."""
    config, machine = context.config, context.machine
    engine = engine_type(config.serving.engine)
    ranks = config.serving.tensor_parallel_size
    found = tensor_parallel_violations(checkpoint, ranks) + _suite_violations(context, checkpoint)
    compared = config.checks.sharded_over(ranks)
    if compared and compared != ranks:
        found += [f"checks.sharding: {line}" for line in tensor_parallel_violations(checkpoint, compared)]
    found += length_violations(config.serving, checkpoint.positions) + _token_violations(checkpoint)
    asked = _asked(config, machine, checkpoint.head_size)._replace(
        experts=has_experts(checkpoint.linear_shapes), architecture=checkpoint.architecture
    )
    for_all = serving_violations(asked)
    found += for_all
    served = serve_dtype(config, machine, None)
    found += [f"baseline: {line}" for line in range_violations(checkpoint.beyond_float16, [served])]
    if not (engine.gives_logprobs or engine.forces_tokens):
        found.append(
            f"{engine.name} gives no log-probabilities of tokens by their ids, which the evaluation asks for;"
            " set serving.engine to one that does, or load and check it without an evaluation: `quantbench bench`"
        )
    if any(needs_rows(method) for method in config.methods.values()):
        found += _calibration_violations(context, checkpoint)
    for name, method in config.methods.items():
        dtype = quantize_dtype(config, machine, method.method)
        shapes = checkpoint.linear_shapes
        lines = load_method(method.method).violations(method, shapes, ranks, machine.device, dtype)
        lines += family_violations(method, checkpoint.architecture)
        if mixed := mixed_precision_of(method):
            lines += precision_violations(mixed, packing_of(method), checkpoint)
        refused = [line for one in _asked_of(asked, method) for line in serving_violations(one)]
        lines += [line for line in dict.fromkeys(refused) if line not in for_all]
        lines += _range_violations(context, checkpoint, method)
        in_16_bits_only = engine.serves_in_16_bits_only(method.method)
        if serve_dtype(config, machine, method.method) == "float32" and in_16_bits_only:
            lines.append(
                f"{engine.name} serves {method.method} in 16-bit types only; set dtype.serve to auto or bfloat16"
            )
        found += [f"{name}: {line}" for line in lines]
    return found


def length_violations(serving: ServingConfig, positions: int) -> list[str]:
    """Why a model that reads so many tokens is not served like this; empty where it is."""
    if serving.max_model_len <= positions:
        return []
    return [
        f"serving.max_model_len {serving.max_model_len} exceeds the model's {positions} positions; set it to"
        f" {positions} or less"
    ]


def _token_violations(checkpoint: CheckpointRecord) -> list[str]:
    if checkpoint.has_bos_or_eos:
        return []
    return [
        "the tokenizer has neither BOS nor EOS, behind which a text's first token is asked for; add the model's"
        " tokenizer_config.json, which names them"
    ]


def _range_violations(context: JobContext, checkpoint: CheckpointRecord, method: MethodConfig) -> list[str]:
    config, machine = context.config, context.machine
    engine = load_method(method.method)
    quantizing, serving = quantize_dtype(config, machine, method.method), serve_dtype(config, machine, method.method)
    computing = getattr(method, "compute_dtype", "bfloat16")
    found = range_violations(checkpoint.beyond_float16, [quantizing, serving, computing])
    if found or not engine.float16_step:
        return found
    linears = {
        name: value
        for name, value in checkpoint.beyond_float16.items()
        if name.removesuffix(".weight") in checkpoint.linear_shapes
    }
    return range_violations(linears, ["float16"], f", {engine.float16_step},")


def _suite_violations(context: JobContext, checkpoint: CheckpointRecord) -> list[str]:
    found = _room_violations(context)
    chatting = [category.name for category in context.suite.categories if category.chat_template]
    if checkpoint.has_chat_template or not chatting:
        return found
    return [
        *found,
        f"suite {context.suite.name} asks {', '.join(chatting)} through the model's chat template, and it has none; add"
        " its chat_template.jinja, or take `chat_template` out of a copy of the suite's file",
    ]


def _room_violations(context: JobContext) -> list[str]:
    """Where answers alone would fill the context."""
    length = context.config.serving.max_model_len
    leaves = [leaf for category in context.suite.categories for leaf in checked_leaves(category) if leaf.is_generative]
    wanted = {leaf.name: most_tokens(leaf.config.get("generation_kwargs")) for leaf in leaves}
    longest = max(wanted, key=wanted.__getitem__, default="")
    # One token of the context stays free, as the evaluation has it.
    if not longest or wanted[longest] < length - 1:
        return []
    return [
        f"suite {context.suite.name}: answers to {longest} take up to {wanted[longest]} tokens, and"
        f" serving.max_model_len {length} leaves no room for a question; raise it, or leave the task out of a copy of"
        " the suite's file"
    ]


def _calibration_violations(context: JobContext, checkpoint: CheckpointRecord) -> list[str]:
    try:
        check_calibration(context.config.calibration, checkpoint)
    except RequestError as error:
        return [f"calibration: {error.what}; {error.remedy}"]
    return []


def expected_bytes(stage: Stage, source: SourceConfig, results: Mapping[str, StageResult]) -> int | None:
    """Upper estimate of what the stage writes: artifacts are allowed twice the checkpoint. None where it is unknown."""
    if stage.kind == "prepare":
        return checkpoint_bytes(source)
    prepared = results.get("prepare")
    if stage.kind == "quantize" and prepared and prepared.object:
        return 2 * prepared.object.size_bytes
    return 0


def check_free_space(
    root: Path,
    stage: Stage,
    source: SourceConfig,
    results: Mapping[str, StageResult],
    beside: Sequence[Stage] = (),
) -> None:
    """Raise StageError when the workspace's disk cannot hold what the stage is going to write.

    Args:
        root: The workspace's.
        stage: The one that is to begin.
        source: Of the run.
        results: Of the stages before.
        beside: Those that work already, which may write as much as if they had not begun.
    """
    expected = expected_bytes(stage, source, results)
    if stage.kind == "prepare" and expected:
        expected -= min(expected, shared_bytes(source, root))
    promised = sum(expected_bytes(one, source, results) or 0 for one in beside)
    free = shutil.disk_usage(root).free
    if expected is None:
        logger.warning(
            "how large the source is shows only while it is downloaded; %.1f GiB are free on the disk of %s",
            free / 2**30,
            root,
        )
    needed = (expected or 0) + promised + _SPARE_BYTES
    if free < needed:
        names = ", ".join([stage.name, *(one.name for one in beside)] if promised else [stage.name])
        raise StageError(
            f"{names} may write {needed / 2**20:.0f} MiB to the disk of {root}, where {free / 2**20:.0f} MiB are free",
            remedy="free space there or name a --workspace on another disk, then run the same command again",
        )
