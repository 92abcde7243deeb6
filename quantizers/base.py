"""What a quantization method is: a config, rules that are checked before work begins, and the work itself.

A new method is one file in `quantizers/methods/` with a `MethodConfig` subclass and a class that has the shape of
`Quantizer`, one line in `METHODS`, one recipe and one test. A method's module is imported when the method is asked for.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, Self, cast

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from configs.base import StrictModel
from configs.errors import RequestError
from configs.quantities import Count
from quantizers.precision.config import AS_IT_IS, MixedPrecision
from quantizers.precision.storage import Packing
from registry.contracts import ArtifactRecord, CheckpointRecord, FilesJob, PrecisionRecord, QuantizedModule
from registry.contracts.base import Device, DType, Method, format_of

if TYPE_CHECKING:
    from registry.stage_process import StageClock

LinearShapes = dict[str, tuple[int, int]]
"""Module name -> (out_features, in_features)."""


METHODS: dict[Method, str] = {
    "gptq": "quantizers.methods.gptq:GPTQ",
    "awq": "quantizers.methods.awq:AWQ",
    "bnb_nf4": "quantizers.methods.bitsandbytes_nf4:BitsAndBytesNF4",
    "bnb_int8": "quantizers.methods.bitsandbytes_int8:BitsAndBytesInt8",
    "rtn": "quantizers.methods.round_to_nearest:RoundToNearest",
    "w8a8": "quantizers.methods.w8a8:W8A8",
    "w8a8_gptq": "quantizers.methods.w8a8_gptq:W8A8GPTQ",
    "w4a16_gptq": "quantizers.methods.w4a16_gptq:W4A16GPTQ",
    "fp8": "quantizers.methods.fp8:FP8",
    "nvfp4": "quantizers.methods.nvfp4:NVFP4",
    "autoround": "quantizers.methods.autoround:AutoRound",
    "gguf": "quantizers.methods.gguf:GGUF",
    "gptq_autogptq": "quantizers.methods.gptq_autogptq:AutoGPTQ",
    "awq_autoawq": "quantizers.methods.awq_autoawq:AutoAWQ",
}
"""Method -> "module:Class" of its Quantizer."""

IMPORTS: dict[Method, str] = {
    "gptq_imported": "quantizers.methods.imported:ImportedGPTQ",
    "awq_imported": "quantizers.methods.imported:ImportedAWQ",
    "bnb_nf4_imported": "quantizers.methods.imported:ImportedNF4",
    "bnb_int8_imported": "quantizers.methods.imported:ImportedInt8",
    "rtn_imported": "quantizers.methods.imported:ImportedPacked",
    "w8a8_imported": "quantizers.methods.imported:ImportedW8A8",
}
"""The same of what was quantized elsewhere, by its format; nobody chooses these for a model."""


_BITS: dict[Method, int] = {
    "bnb_nf4": 4,
    "bnb_int8": 8,
    "w8a8": 8,
    "w8a8_gptq": 8,
    "w4a16_gptq": 4,
    "fp8": 8,
    "nvfp4": 4,
}


def bits_of(artifact: ArtifactRecord) -> int:
    """Bits of a weight's code, scales and zero points left out: what a method was asked for or always has. Those of
    most modules, where some have more."""
    return own_bits(artifact.method, artifact.parameters)


def own_bits(method: Method, parameters: Mapping[str, Any]) -> int:
    """The same of a method and its parameters."""
    if format_of(method) == "gguf":
        return int(parameters["type"][1])  # q4_k_m
    return _BITS.get(method) or _BITS.get(format_of(method)) or int(parameters["bits"])


class MethodConfig(StrictModel):
    """The parameters of one quantization method; a subclass narrows `method` to its own Literal."""

    method: Method


class CalibratedMethodConfig(MethodConfig):
    """A method that looks at calibration rows."""

    calibration_rows: Count | None = Field(default=None, ge=1)
    """Rows of the calibration set to use, the first ones; all when null. AWQ's time grows with each of them."""


class MixedMethodConfig(MethodConfig):
    """A method whose format stores modules of one model in several precisions."""

    storable: ClassVar[tuple[int, ...]]
    """Bits that the format has; 16 leaves a module as it is."""
    # No part of a dump where it is not used: keys and cards of all other artifacts stay what they were.
    mixed_precision: MixedPrecision | None = Field(default=None, exclude_if=lambda value: value is None)
    """More bits for a few modules, within a size."""

    @model_validator(mode="after")
    def _choices_begin_with_own_bits(self) -> Self:
        if self.mixed_precision is None:
            return self
        choices, own = self.mixed_precision.choices, own_bits(self.method, self.__dict__)
        beyond = sorted(set(choices) - set(self.storable))
        if beyond or choices[0] != own:
            possible = [bits for bits in self.storable if bits >= own]
            raise ValueError(
                f"{self.method} in {own} bits mixes {', '.join(map(str, possible))}, beginning with {own}; set"
                f" mixed_precision.choices to {possible} or less of it, not {choices}"
            )
        return self


def packing_of(config: MethodConfig) -> Packing:
    """How a method entry's modules are stored."""
    zero_points = not getattr(config, "symmetric", True) or getattr(config, "zero_point", False)
    return Packing(format_of(config.method), int(getattr(config, "group_size", -1)), zero_points)


def mixed_precision_of(config: MethodConfig) -> MixedPrecision | None:
    """What a method entry asks for; None where all modules get the same bits."""
    return config.mixed_precision if isinstance(config, MixedMethodConfig) else None


def needs_rows(config: MethodConfig) -> bool:
    """Whether a method entry looks at calibration rows: to quantize, or to choose precisions."""
    return load_method(config.method).needs_calibration or mixed_precision_of(config) is not None


class MixtureMethodConfig(CalibratedMethodConfig):
    """A method that can round an expert which no calibration token reached, and all others as it does."""

    # No part of a dump where it is not used: keys and cards of all other artifacts stay what they were.
    unreached_experts: Literal["refuse", "round"] = Field(default="refuse", exclude_if=lambda value: value == "refuse")
    """Experts that no calibration token reached: `refuse` ends the stage, `round` rounds them to nearest."""


@dataclass(frozen=True)
class QuantizeOutcome:
    """What a method reports once its artifact is complete.

    Args:
        modules: Every Linear that was quantized, with the engine's own loss and fallback where it gives them.
        versions: Distribution name -> version of the libraries that shaped the weights.
        engine: The library that did the work, such as `gptqmodel`.
        found: Parameters that no config named: what an imported artifact's own config says.
    """

    modules: list[QuantizedModule]
    versions: dict[str, str]
    engine: str
    found: dict[str, Any] = field(default_factory=dict)


def parse_config(raw: MethodConfig | Mapping[str, Any]) -> MethodConfig:
    """Turn a method entry of a recipe or a job into the method's own config type.

    Raises:
        RequestError: `method` is missing or names no method.
        pydantic.ValidationError: A parameter is unknown or has the wrong type.
    """
    if isinstance(raw, MethodConfig):
        return raw
    if "method" not in raw:
        raise RequestError("a method entry does not say its `method`", remedy=f"add one of {', '.join(METHODS)}")
    return load_method(raw["method"]).config_type.model_validate(raw)


class QuantizeJob(FilesJob):
    """Make one artifact in `output_dir`."""

    name: str
    """The method entry's name in the recipe."""
    config: Annotated[SerializeAsAny[MethodConfig], BeforeValidator(parse_config)]
    checkpoint_dir: Path
    checkpoint: CheckpointRecord
    calibration_dir: Path | None
    """Holds `rows.json`; None for methods that need no calibration."""
    calibration_digest: str | None
    precision: PrecisionRecord | None = None
    """The bits of each Linear; None where all have the method's own."""
    device: Device
    dtype: DType
    """What the weights are held in while the method runs."""
    threads: int
    kept_dir: Path | None = None
    """Keeps what is made module by module, for a process that goes on where this one was killed."""

    def bits_of_module(self, module: str) -> int | None:
        """Where it differs from the method's own; 16 leaves the module as it is."""
        if self.precision is None:
            return None
        bits = self.precision.module_bits[module]
        return None if bits == own_bits(self.config.method, self.config.__dict__) else bits

    @property
    def left_alone(self) -> list[str]:
        """Linears that stay as they are."""
        return [name for name in self.checkpoint.linear_shapes if self.bits_of_module(name) == AS_IT_IS]

    @property
    def quantized_linears(self) -> LinearShapes:
        """All others."""
        shapes = self.checkpoint.linear_shapes
        return {name: shape for name, shape in shapes.items() if self.bits_of_module(name) != AS_IT_IS}


class Quantizer(Protocol):
    """One quantization method. Instances hold no state; `load_method` makes them."""

    config_type: ClassVar[type[MethodConfig]]
    needs_calibration: ClassVar[bool]
    engine: ClassVar[str]
    """The distribution that does the work; its version shapes the result."""
    environment: ClassVar[str]
    """Which of `environments/` it works in: `main` beside ourselves, or one of its own."""
    float16_step: ClassVar[str]
    """What happens in float16 whatever the dtype, in words: it ends weights beyond 65504. Empty where nothing does."""
    neighbours_matter: ClassVar[bool]
    """Whether a token's answer depends on the tokens that are computed at the same time, beyond the last bits."""

    def violations(
        self,
        config: MethodConfig,
        linear_shapes: LinearShapes,
        tensor_parallel: int,
        device: Device,
        quantize_dtype: DType,
    ) -> list[str]:
        """Find everything that forbids this config on this model, without loading anything.

        Args:
            config: An instance of `config_type`.
            linear_shapes: The model's Linears, from its CheckpointRecord.
            tensor_parallel: Ranks that the artifact is going to be served on.
            device: Where the method is going to run.
            quantize_dtype: What the weights are going to be held in while it runs.

        Returns:
            Whole sentences with layer names, numbers and the remedy; empty where nothing is wrong.
        """
        ...

    def quantize(self, job: QuantizeJob, clock: StageClock) -> QuantizeOutcome:
        """Write a complete artifact into `job.output_dir`.

        Complete means: safetensors weights, config.json with its `quantization_config`, tokenizer, chat template and
        generation config, so that transformers and vLLM load the folder as it is.

        Raises:
            StageError: The engine gave up.
        """
        ...


def load_method(name: str) -> Quantizer:
    """Import and make the method called `name`.

    Raises:
        RequestError: There is no such method; the error names the nearest one.
    """
    target = cast(Mapping[str, str], METHODS | IMPORTS).get(name)
    if target is None:
        near = difflib.get_close_matches(name, [*METHODS, *IMPORTS], n=1, cutoff=0.4)
        raise RequestError(
            f"there is no quantization method {name!r}",
            remedy=(f"did you mean {near[0]!r}? " if near else "") + f"the methods are {', '.join(METHODS)}",
        )
    module, _, attribute = target.partition(":")
    return cast(Quantizer, getattr(importlib.import_module(module), attribute)())


def check_rules(
    method: Quantizer,
    config: MethodConfig,
    linear_shapes: LinearShapes,
    *,
    tensor_parallel: int,
    device: Device,
    quantize_dtype: DType,
) -> None:
    """Raise RequestError with every violation at once; nothing is started then."""
    found = method.violations(config, linear_shapes, tensor_parallel, device, quantize_dtype)
    if found:
        raise RequestError(
            f"{config.method} cannot quantize this model as asked:" + "".join(f"\n  - {line}" for line in found),
            remedy="change the named parameters of this method in the recipe; each line says to what",
        )
