"""A quantized model and what was found when it was inspected."""

from typing import Any

from registry.contracts.base import DType, Method, Record
from registry.contracts.sensitivity import PrecisionRecord


class QuantizedModule(Record):
    """One quantized Linear, as the engine reported it."""

    name: str
    loss: float | None = None
    """The engine's own loss, in the engine's own unit; None for engines that give none."""
    fallback: str | None = None
    """How the module was quantized instead, where the engine gave up on the method (round-to-nearest); else None."""


class ArtifactRecord(Record):
    digest: str
    """`sha256:<hex>` of the artifact directory's manifest."""
    checkpoint_digest: str
    calibration_digest: str | None
    """None for methods that need no calibration."""
    name: str
    """The method entry's name in the recipe."""
    method: Method
    parameters: dict[str, Any]
    """The method's config, complete with defaults."""
    engine: str
    engine_versions: dict[str, str]
    size_bytes: int
    """All safetensors files together."""
    bits_per_weight: float
    """Bits that the quantized Linear modules take on disk (scales, zeros and statistics included), per weight."""
    quantized_modules: list[QuantizedModule]
    fallback_count: int
    quantize_dtype: DType
    """What the weights were held in while the method ran."""
    quantize_device: str
    duration_seconds: float
    precision: PrecisionRecord | None = None
    """The bits of each Linear; None where all have the method's own."""


class InspectionCheck(Record):
    """One question asked of an artifact."""

    name: str
    passed: bool
    detail: str
    """What was seen, with numbers; for a failure also what to do next."""


class InspectionRecord(Record):
    artifact_digest: str
    checks: list[InspectionCheck]
    module_correlation: dict[str, float | None]
    """Module name -> Pearson correlation of dequantized with source weights; None for a matrix without variance."""
    module_relative_error: dict[str, float]
    """Module name -> Frobenius norm of the difference over that of the source."""
    probe_prompt: str
    probe_answer: str
    """What the artifact, reloaded through transformers, said to the probe prompt (greedy)."""

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)
