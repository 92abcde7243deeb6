"""The records that stages exchange and keep: frozen, versioned, validated. One file a notion, re-exported here."""

from registry.contracts.artifact import ArtifactRecord, InspectionCheck, InspectionRecord, QuantizedModule
from registry.contracts.calibration import CalibrationRecord
from registry.contracts.characterization import (
    Breakdown,
    CharacterizationRecord,
    Flip,
    Heterogeneity,
    LengthTrend,
    PartDrops,
    PromptAgreement,
    StratumDrop,
    TokenAgreementRecord,
)
from registry.contracts.checkpoint import CheckpointRecord
from registry.contracts.comparison import CategoryRetention, RetentionRecord, VerbosityRecord
from registry.contracts.evaluation import (
    AskedAlone,
    AskingConditions,
    CategoryLook,
    CategoryScore,
    EvaluationRecord,
    TaskScore,
)
from registry.contracts.gateway import GatewayRecord
from registry.contracts.gateway_status import (
    AgreementRead,
    ArmStatus,
    GatewayStatus,
    MirrorStatus,
    ObserverRead,
    RecentLoad,
    VerdictStatus,
    VersionRead,
)
from registry.contracts.job import FilesJob, StageJob
from registry.contracts.live_verdict import JudgeSaid, LiveVerdict, RecordedVerdict
from registry.contracts.machine_limits import MachineLimits, Rates, TokenWork
from registry.contracts.measurement import MeasurementRecord
from registry.contracts.pair import Answer, Pair
from registry.contracts.ramp import RampRecord
from registry.contracts.replay import PromptsRecord, ReplayedModel, ReplayRecord
from registry.contracts.reply import Reply, ToolCall
from registry.contracts.route import (
    CascadeRule,
    ClassesRule,
    ClassifierRule,
    RouteCurve,
    RoutedClass,
    RouteLatency,
    RouteOutcome,
    RouteRecord,
)
from registry.contracts.sensitivity import (
    PrecisionRecord,
    SensitivityRecord,
    SensitivityTrial,
    UnitSensitivity,
)
from registry.contracts.serving import (
    SLO,
    CheckRecord,
    Endpoint,
    LoadPoint,
    MemoryRecord,
    Percentiles,
    ProfileRecord,
    ProofScope,
    RateSearch,
    ServingRecord,
)
from registry.contracts.shadow_verdict import MetricVerdict, ShadowVerdict
from registry.contracts.soundness import SoundnessCheck, SoundnessRecord
from registry.contracts.stage import Failure, ObjectRef, StageResult
from registry.contracts.token_cost import TokenCost
from registry.contracts.token_logprobs import PromptLogprobs

__all__ = [
    "SLO",
    "AgreementRead",
    "Answer",
    "ArmStatus",
    "ArtifactRecord",
    "AskedAlone",
    "AskingConditions",
    "Breakdown",
    "CalibrationRecord",
    "CascadeRule",
    "CategoryLook",
    "CategoryRetention",
    "CategoryScore",
    "CharacterizationRecord",
    "CheckRecord",
    "CheckpointRecord",
    "ClassesRule",
    "ClassifierRule",
    "Endpoint",
    "EvaluationRecord",
    "Failure",
    "FilesJob",
    "Flip",
    "GatewayRecord",
    "GatewayStatus",
    "Heterogeneity",
    "InspectionCheck",
    "InspectionRecord",
    "JudgeSaid",
    "LengthTrend",
    "LiveVerdict",
    "LoadPoint",
    "MachineLimits",
    "MeasurementRecord",
    "MemoryRecord",
    "MetricVerdict",
    "MirrorStatus",
    "ObjectRef",
    "ObserverRead",
    "Pair",
    "PartDrops",
    "Percentiles",
    "PrecisionRecord",
    "ProfileRecord",
    "PromptAgreement",
    "PromptLogprobs",
    "PromptsRecord",
    "ProofScope",
    "QuantizedModule",
    "RampRecord",
    "RateSearch",
    "Rates",
    "RecentLoad",
    "RecordedVerdict",
    "ReplayRecord",
    "ReplayedModel",
    "Reply",
    "RetentionRecord",
    "RouteCurve",
    "RouteLatency",
    "RouteOutcome",
    "RouteRecord",
    "RoutedClass",
    "SensitivityRecord",
    "SensitivityTrial",
    "ServingRecord",
    "ShadowVerdict",
    "SoundnessCheck",
    "SoundnessRecord",
    "StageJob",
    "StageResult",
    "StratumDrop",
    "TaskScore",
    "TokenAgreementRecord",
    "TokenCost",
    "TokenWork",
    "ToolCall",
    "UnitSensitivity",
    "VerbosityRecord",
    "VerdictStatus",
    "VersionRead",
]
