"""The records that stages exchange and keep: frozen, versioned, validated. One file a notion, re-exported here."""

from registry.contracts.artifact import ArtifactRecord, InspectionCheck, InspectionRecord, QuantizedModule
from registry.contracts.calibration import CalibrationRecord
from registry.contracts.checkpoint import CheckpointRecord
from registry.contracts.comparison import CategoryRetention, RetentionRecord
from registry.contracts.evaluation import CategoryScore, EvaluationRecord, TaskScore
from registry.contracts.job import StageJob
from registry.contracts.measurement import MeasurementRecord
from registry.contracts.serving import Endpoint, LoadPoint, MemoryRecord, ServingRecord
from registry.contracts.stage import Failure, ObjectRef, StageResult

__all__ = [
    "ArtifactRecord",
    "CalibrationRecord",
    "CategoryRetention",
    "CategoryScore",
    "CheckpointRecord",
    "Endpoint",
    "EvaluationRecord",
    "Failure",
    "InspectionCheck",
    "InspectionRecord",
    "LoadPoint",
    "MeasurementRecord",
    "MemoryRecord",
    "ObjectRef",
    "QuantizedModule",
    "RetentionRecord",
    "ServingRecord",
    "StageJob",
    "StageResult",
    "TaskScore",
]
