"""What a quantization method is: a config, rules that are checked before work begins, and the work itself.

A new method is one file in `quantizers/methods/` with a `MethodConfig` subclass and a class that has the shape of
`Quantizer`, one line in `METHODS`, one recipe and one test. A method's module is imported when the method is asked for.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, cast

from pydantic import BeforeValidator, Field, SerializeAsAny

from configs.base import StrictModel
from configs.errors import RequestError
from configs.quantities import Count
from registry.contracts import ArtifactRecord, CheckpointRecord, FilesJob, QuantizedModule
from registry.contracts.base import Device, DType, Method

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
    "gptq_autogptq": "quantizers.methods.gptq_autogptq:AutoGPTQ",
    "awq_autoawq": "quantizers.methods.awq_autoawq:AutoAWQ",
}
"""Method -> "module:Class" of its Quantizer."""


_BITS: dict[Method, int] = {"bnb_nf4": 4, "bnb_int8": 8, "w8a8": 8}


def bits_of(artifact: ArtifactRecord) -> int:
    """Bits of a weight's code, scales and zero points left out: what a method was asked for or always has."""
    return _BITS.get(artifact.method) or int(artifact.parameters["bits"])


class MethodConfig(StrictModel):
    """The parameters of one quantization method; a subclass narrows `method` to its own Literal."""

    method: Method


class CalibratedMethodConfig(MethodConfig):
    """A method that looks at calibration rows."""

    calibration_rows: Count | None = Field(default=None, ge=1)
    """Rows of the calibration set to use, the first ones; all when null. AWQ's time grows with each of them."""


class MixtureMethodConfig(CalibratedMethodConfig):
    """A method that can round an expert which no calibration token reached, and all others as it does."""

    unreached_experts: Literal["refuse", "round"] = "refuse"
    """Experts that no calibration token reached: `refuse` ends the stage, `round` rounds them to nearest."""


@dataclass(frozen=True)
class QuantizeOutcome:
    """What a method reports once its artifact is complete.

    Args:
        modules: Every Linear that was quantized, with the engine's own loss and fallback where it gives them.
        versions: Distribution name -> version of the libraries that shaped the weights.
        engine: The library that did the work, such as `gptqmodel`.
    """

    modules: list[QuantizedModule]
    versions: dict[str, str]
    engine: str


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
    device: Device
    dtype: DType
    """What the weights are held in while the method runs."""
    threads: int


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
    target = cast(Mapping[str, str], METHODS).get(name)
    if target is None:
        near = difflib.get_close_matches(name, METHODS, n=1, cutoff=0.4)
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
