"""What the calibrate stage is asked: where the text comes from, how much of it, and through which template."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from configs.base import StrictModel
from configs.errors import RequestError
from configs.quantities import Count, Label, LocalPath, Seed, Tokens
from registry.contracts import CheckpointRecord, FilesJob
from registry.contracts.base import Device, DType


class _Calibration(StrictModel):
    samples: Count = Field(default=128, ge=1)
    """Rows."""
    tokens: Tokens = Field(default=512, ge=16)
    """Tokens in each row."""
    seed: Seed = 0
    chat_template: bool = False
    """Through the model's chat template: what an instruct model is going to see."""


class SelfCalibration(_Calibration):
    """Text sampled from the model itself at temperature 1; needs no data."""

    source: Literal["self"]


class FileCalibration(_Calibration):
    """A local file: .jsonl with `text` or `messages` in each line, or .txt with documents between empty lines."""

    source: Literal["file"]
    path: LocalPath


class HubCalibration(_Calibration):
    """A Hugging Face data set at a fixed revision, streamed."""

    source: Literal["hub"]
    id: Label
    config: Label | None = None
    split: Label = "train"
    revision: Label
    text_column: Label = "text"


CalibrationConfig = Annotated[SelfCalibration | FileCalibration | HubCalibration, Field(discriminator="source")]


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


def check_calibration(config: CalibrationConfig, positions: int, has_chat_template: bool) -> None:
    """Refuse what the calibrate stage would refuse before it loads anything (RequestError)."""
    if config.tokens > positions:
        raise RequestError(
            f"calibration rows of {config.tokens} tokens exceed the model's {positions} positions",
            remedy=f"set tokens to {positions} or less",
        )
    if config.chat_template and not has_chat_template:
        raise RequestError(
            "calibration asks for the chat template, but the model has none", remedy="set chat_template to false"
        )
