"""What the stage processes of this package are told."""

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, SerializeAsAny

from quantizers.base import MethodConfig
from quantizers.calibration import CalibrationConfig
from quantizers.sources import SourceConfig
from quantizers.table import parse_config
from registry.contracts import ArtifactRecord, CheckpointRecord, StageJob
from registry.contracts.base import Device, DType


class FilesJob(StageJob):
    """A stage that makes files."""

    output_dir: Path


class PrepareJob(FilesJob):
    """Turn a source into a safetensors checkpoint in `output_dir`."""

    source: SourceConfig
    dtype: DType
    """What GGUF weights are written as; sources that are safetensors already keep their own."""


class CalibrateJob(FilesJob):
    """Make the token rows that GPTQ and AWQ look at."""

    config: CalibrationConfig
    checkpoint_dir: Path
    checkpoint: CheckpointRecord
    excluded_texts: list[str]
    """Texts of the evaluation suite; no row may hold one."""
    device: Device
    dtype: DType
    threads: int


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
