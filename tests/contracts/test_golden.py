"""Records are kept for years: a change of their shape has to be seen, and `schema_version` judged.

`QUANTBENCH_UPDATE_GOLDEN=1` writes the shapes anew.
"""

import json
import os
from pathlib import Path

import pytest

from pipelines.planning import device
from pipelines.records import events, rows, run_outcome, run_record
from registry import contracts

RECORDS = {name: getattr(contracts, name) for name in contracts.__all__} | {
    record.__name__: record
    for record in (
        run_record.RunRecord,
        rows.Row,
        events.StageOutcome,
        events.TimeBreakdown,
        device.MachineRecord,
        run_outcome.RunOutcome,
        run_outcome.ToldFailure,
        run_outcome.ToldRegression,
    )
}
"""What stages leave, what `result.json` is made of, and what schedulers are told."""

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", RECORDS)
def test_the_shape_is_as_it_was(name: str) -> None:
    record = RECORDS[name]
    schema = record.model_json_schema()
    shape = {
        "schema_version": record.model_fields["schema_version"].default,
        "required": sorted(schema.get("required", [])),
        "fields": sorted(schema["properties"]),
    }
    path = GOLDEN / f"{name}.json"
    if os.environ.get("QUANTBENCH_UPDATE_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        path.write_text(json.dumps(shape, indent=2) + "\n")
    assert json.loads(path.read_text()) == shape, "a new shape: raise schema_version if old records would be misread"


@pytest.mark.parametrize("name", RECORDS)
def test_unknown_fields_are_refused_and_records_are_frozen(name: str) -> None:
    config = RECORDS[name].model_config
    assert config["extra"] == "forbid"
    assert config["frozen"]


def test_no_record_was_forgotten() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(RECORDS)
