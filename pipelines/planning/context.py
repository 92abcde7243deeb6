"""What all jobs of a run share."""

from dataclasses import dataclass

from evals.suites.suite import Suite
from pipelines.planning.device import MachineRecord
from pipelines.recipe.run_config import RunConfig


@dataclass(frozen=True)
class JobContext:
    """What all jobs of a run share."""

    config: RunConfig
    machine: MachineRecord
    suite: Suite
    excluded_texts: list[str]
    """Texts of the evaluation suite; no calibration row may hold one."""
