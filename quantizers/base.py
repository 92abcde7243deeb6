"""What a quantization method is: a config, rules that are checked before work begins, and the work itself.

A new method is one file with a `MethodConfig` subclass and a class that has the shape of `Quantizer`, one line in
`quantizers/table.py`, one recipe and one test.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from pydantic import Field

from configs.base import StrictModel
from configs.errors import RequestError
from registry.contracts import QuantizedModule
from registry.contracts.base import Device, DType, Method

if TYPE_CHECKING:
    from quantizers.jobs import QuantizeJob
    from registry.stage_process import StageClock

LinearShapes = dict[str, tuple[int, int]]
"""Module name -> (out_features, in_features)."""


class MethodConfig(StrictModel):
    """The parameters of one quantization method; a subclass narrows `method` to its own Literal."""

    method: Method


class CalibratedMethodConfig(MethodConfig):
    """A method that looks at calibration rows."""

    calibration_rows: int | None = Field(default=None, ge=1)
    """Rows of the calibration set to use, the first ones; all when null. AWQ's time grows with each of them."""


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


class Quantizer(Protocol):
    """One quantization method. Instances hold no state; `quantizers.table.load_method` makes them."""

    config_type: ClassVar[type[MethodConfig]]
    needs_calibration: ClassVar[bool]
    engine: ClassVar[str]
    """The distribution that does the work; its version shapes the result."""

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
