"""One artifact with the run that measured it: what its model card and its bill of materials are made of."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from pipelines.records.rows import Row
from pipelines.records.run_record import RunRecord
from registry.contracts import ArtifactRecord, CalibrationRecord, CheckpointRecord
from registry.hashing import FileEntry


class ArtifactOfRun(NamedTuple):
    """An artifact that is to be handed on."""

    run: RunRecord
    row: Row
    artifact: ArtifactRecord
    """The row's."""
    files: Mapping[str, FileEntry]
    """The model's own, by relative POSIX path."""

    @property
    def name(self) -> str:
        """Of the recipe and of the row in it: `smollm2-135m-demo-gptq`."""
        return f"{self.run.config['name']}-{self.row.name}"

    @property
    def baseline(self) -> Row:
        return self.run.rows[0]

    @property
    def checkpoint(self) -> CheckpointRecord | None:
        """What was quantized; None where the run did not come to know it."""
        return self.baseline.checkpoint

    @property
    def hub_id(self) -> str | None:
        """The base model's on the hub; None where it came from somewhere else."""
        source = self.run.config.get("source", {})
        return str(source["id"]) if source.get("kind") == "hub" else None

    @property
    def calibration(self) -> CalibrationRecord | None:
        """The rows that the method looked at; None where it looked at none, or their record is not in the run's."""
        records = [one.result.record for one in self.run.outcomes if one.result.stage == "calibrate"]
        wanted = self.artifact.calibration_digest
        found = next((one for one in records if wanted and one and one.get("digest") == wanted), None)
        return CalibrationRecord.model_validate(found) if found else None

    @property
    def measured_with(self) -> dict[str, str]:
        """Distribution -> version of what served and asked it."""
        stage = f"measure:{self.row.name}"
        return next((dict(one.result.versions) for one in self.run.outcomes if one.name == stage), {})

    @property
    def ended_at(self) -> datetime:
        """In UTC, to the second; when the run was over."""
        ended = self.run.started_at + timedelta(seconds=self.run.breakdown.wall_seconds)
        return ended.astimezone(UTC).replace(microsecond=0)
