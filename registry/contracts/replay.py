"""What was replayed, on which models, and how far it came."""

from datetime import datetime
from typing import Any, Literal

from registry.contracts.base import Device, DType, Record

LogFormat = Literal["openai", "litellm", "mlflow"]


class PromptsRecord(Record):
    """The log that prompts were taken from."""

    file: str
    format: LogFormat
    digest: str
    """Of the file's bytes."""
    lines: int
    """That are not blank."""
    broken: int
    """Lines that hold no prompt that can be asked; they were left out."""
    broken_lines: list[str]
    """The first of them, each with its number and why; nothing of what it says."""
    prompts: int
    """That are replayed: one for each model call of a line, or those drawn where a limit is set."""


class ReplayedModel(Record):
    """One side of a replay."""

    name: str
    """What the config calls it: a folder, a digest, a run's row, or an address."""
    digest: str | None
    """Of the folder's manifest; None for a server that ran already."""
    engine: str
    engine_version: str
    """`unknown` for a server that ran already."""
    dtype: DType


REPLAY_FILE = "replay.json"


class ReplayRecord(Record):
    """`replay.json` of a replay's folder: written when it begins, and anew when it is complete."""

    name: str
    config: dict[str, Any]
    """What shapes the pairs: all of the config but its description and deadlines."""
    config_digest: str
    prompts: PromptsRecord
    champion: ReplayedModel
    candidate: ReplayedModel
    device: Device
    device_name: str
    verdict: dict[str, Any]
    """How the pairs are to be judged, as it was written before the first one was asked."""
    verdict_digest: str
    started_at: datetime
    """UTC, as below."""
    finished_at: datetime | None = None
    """None while prompts are missing."""
    pairs: int = 0
    champion_errors: int = 0
    candidate_errors: int = 0
    seconds: dict[str, float] = {}
    """Where the time of the sitting that completed it went, by part."""
    warnings: list[str] = []
    """What a reader of the numbers has to know: fallbacks of an engine, a server that was not started here."""
