"""What one server run told about one model: evaluation and serving were measured on the same bytes and process."""

from registry.contracts.base import Record
from registry.contracts.evaluation import EvaluationRecord
from registry.contracts.serving import ServingRecord


class MeasurementRecord(Record):
    model_digest: str
    evaluation: EvaluationRecord
    serving: ServingRecord
