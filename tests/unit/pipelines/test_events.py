"""Whose time a run's time is."""

import pytest

from pipelines.records.events import TimeBreakdown, time_breakdown
from tests.unit.pipelines.report_records import outcome


def test_what_is_not_the_engines_work_is_ours() -> None:
    inspected = outcome(
        "inspect:gptq", "done", 30.0, **{"import": 14.0, "tokenizer": 2.0, "compare": 3.0, "reload": 6.0}
    )
    served = outcome("measure:gptq", "failed", 50.0, verify=1.0, serve_start=40.0, evaluate=5.0)
    breakdown = time_breakdown([inspected, served, outcome("calibrate", "reused", 0.0)], 100.0)
    # tokenizer, compare and 5 s that no part covers; verify and 4 s that no part covers.
    assert breakdown.stages == {
        "inspect:gptq": {"import": 14.0, "own": 10.0, "reload": 6.0},
        "measure:gptq": {"own": 5.0, "serve_start": 40.0, "evaluate": 5.0},
    }
    assert breakdown.own_seconds == 100.0 - 14.0 - 6.0 - 40.0 - 5.0
    assert breakdown.own_share == pytest.approx(0.35)


def test_more_work_of_our_own_adds_to_both_totals() -> None:
    breakdown = TimeBreakdown(wall_seconds=100.0, stages={"prepare": {"own": 1.0}}, own_seconds=2.0)
    longer = breakdown.with_own("report and record", 13.0)
    assert (longer.wall_seconds, longer.own_seconds) == (113.0, 15.0)
    assert longer.stages == {"prepare": {"own": 1.0}, "report and record": {"own": 13.0}}
