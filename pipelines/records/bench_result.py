"""What a bench ended with, as data."""

from pathlib import Path
from typing import NamedTuple

from pipelines.records.model_cost import Pricing
from registry.contracts import ServingRecord


class BenchResult(NamedTuple):
    """What was measured, and where it is."""

    name: str
    record: ServingRecord
    directory: Path
    page: Path
    pricing: Pricing | None = None
    """What costs are computed from."""

    @property
    def exit_code(self) -> int:
        """1 where a check failed or a load test is not to be believed; else 0."""
        failed = any(check.outcome == "fail" for check in self.record.checks)
        return int(failed or any(point.invalid for point in self.record.load_points))
