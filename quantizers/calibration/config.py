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


def check_calibration(config: CalibrationConfig, checkpoint: CheckpointRecord) -> None:
    """Refuse what the calibrate stage would refuse before it loads anything (RequestError)."""
    if config.tokens > checkpoint.positions:
        raise RequestError(
            f"calibration rows of {config.tokens} tokens exceed the model's {checkpoint.positions} positions",
            remedy=f"set tokens to {checkpoint.positions} or less",
        )
    # GPTQModel 7.3.6 calls all layers as it calls the first, and so with that one's window
    # (looper/input_cache.py, looper/forward_executor.py).
    if checkpoint.sliding_window and config.tokens > checkpoint.sliding_window:
        raise RequestError(
            f"calibration rows of {config.tokens} tokens are longer than the sliding window of"
            f" {checkpoint.sliding_window} that some layers of this model have, and the engine would give all layers"
            " that window",
            remedy=f"set tokens to {checkpoint.sliding_window} or less",
        )
    if config.chat_template and not checkpoint.has_chat_template:
        raise RequestError(
            "calibration asks for the chat template, but the model has none", remedy="set chat_template to false"
        )
