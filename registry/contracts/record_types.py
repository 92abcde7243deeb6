"""What each stage's record is: results are typed where they are read."""

from collections.abc import Mapping

from registry.contracts.artifact import ArtifactRecord, InspectionRecord
from registry.contracts.base import Record
from registry.contracts.calibration import CalibrationRecord
from registry.contracts.checkpoint import CheckpointRecord
from registry.contracts.measurement import MeasurementRecord
from registry.contracts.replay import ReplayRecord
from registry.contracts.sensitivity import SensitivityRecord
from registry.contracts.serving import ServingRecord
from registry.contracts.soundness import SoundnessRecord

RECORD_TYPES: Mapping[str, type[Record]] = {
    "prepare": CheckpointRecord,
    "soundness": SoundnessRecord,
    "calibrate": CalibrationRecord,
    "sensitivity": SensitivityRecord,
    "quantize": ArtifactRecord,
    "inspect": InspectionRecord,
    "measure": MeasurementRecord,
    "tune": ServingRecord,
    "bench": ServingRecord,
    "replay": ReplayRecord,
}
