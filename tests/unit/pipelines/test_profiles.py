"""The dearest operators in the terminal."""

import io
from pathlib import Path

from rich.console import Console

from pipelines.records.events import StageOutcome
from pipelines.report.profiles import print_profiles
from registry.contracts import MeasurementRecord, ObjectRef, StageResult
from registry.store import Store
from tests.records import profile_record
from tests.unit.pipelines.report_records import report_record


def printed(tmp_path: Path, *profiled: str) -> str:
    record = report_record(tmp_path)
    rows, outcomes = [], []
    for row in record.rows:
        if row.measurement and row.name in profiled:
            serving = row.measurement.serving.model_copy(update={"profile": profile_record()})
            row = row.model_copy(update={"measurement": row.measurement.model_copy(update={"serving": serving})})  # noqa: PLW2901
            assert isinstance(row.measurement, MeasurementRecord)
            result = StageResult(stage="measure", object=ObjectRef(digest="sha256:abc", size_bytes=1))
            outcomes.append(StageOutcome(name=f"measure:{row.name}", how="done", wall_seconds=1.0, result=result))
        rows.append(row)
    out = io.StringIO()
    changed = record.model_copy(update={"rows": rows, "outcomes": outcomes})
    print_profiles(Console(file=out, width=200), changed, Store(tmp_path / "store"))
    return out.getvalue()


def test_operators_and_the_place_of_the_trace_are_told(tmp_path: Path) -> None:
    text = printed(tmp_path, "baseline")
    first, second = text.index("aten::mm"), text.index("(x)")
    assert first < second
    assert text[first:second].split()[1:] == ["3.00", "75", "%"]
    assert str(tmp_path / "store") in text
    assert "profile.trace.json.gz" in text


def test_models_without_a_profile_are_left_out(tmp_path: Path) -> None:
    assert printed(tmp_path) == ""
