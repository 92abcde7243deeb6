"""What every stage process is told; each stage adds its own fields, beside its own code."""

from pathlib import Path

from registry.contracts.base import Record


class StageJob(Record):
    stage: str
    """The stage's kind: `prepare`, `soundness`, `calibrate`, `sensitivity`, `quantize`, `inspect`, `measure`."""
    result_file: Path
    """Where the StageResult goes, atomically, at the end."""
    output_dir: Path | None = None
    """An empty directory for the stage's files; the runner moves it into the store afterwards."""


class FilesJob(StageJob):
    """A stage that always makes files."""

    output_dir: Path
