"""A search over serving parameters, as data: its cells, and the table that is kept of them."""

from datetime import datetime
from pathlib import Path
from typing import Any

from configs.errors import StageError
from pipelines.planning.device import MachineRecord
from pipelines.recipe.tune_config import TuneConfig, cell_name
from registry.contracts import Failure, ServingRecord
from registry.contracts.base import Record
from serving_checks.load import LoadConfig

TABLE_FILE = "tune.json"
WINNER_FILE = "serving.yaml"


class TuneCell(Record):
    """One combination of parameters and what it came to."""

    parameters: dict[str, Any]
    """Of the grid; null is the engine's default."""
    goodput_requests_per_second: float | None
    """By the objective; 0 where the SLO was missed, None where the cell does not count."""
    note: str = ""
    """Why it does not count, or what has to be known beside its number."""
    serving: ServingRecord | None = None
    failure: Failure | None = None

    @property
    def name(self) -> str:
        return cell_name(self.parameters)


class TuneRecord(Record):
    """`tune.json` of a run's folder: the whole table."""

    run_id: str
    run_dir: Path
    started_at: datetime
    config: dict[str, Any]
    """The recipe with defaults."""
    machine: MachineRecord
    tune: TuneConfig
    load: LoadConfig
    """What each cell was loaded with."""
    model_digest: str
    cells: list[TuneCell]
    """The best first."""
    winner: dict[str, Any] | None
    """Its parameters, also in `winner_file`; None where no cell kept the SLO."""
    reason: str
    winner_file: Path | None

    @property
    def exit_code(self) -> int:
        """0 with a winner, 1 where no cell kept the SLO, 3 where none could be measured."""
        if self.winner is not None:
            return 0
        return StageError.exit_code if all(cell.failure for cell in self.cells) else 1
