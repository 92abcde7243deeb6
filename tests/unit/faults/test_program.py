"""The campaign's program: what is started in the plain way serves by the stand-in too."""

import sys
from pathlib import Path

import pytest

from serving_checks.processes.supervisor import Supervised
from tests.faults.program import RECORDER, take_warm


@pytest.mark.parametrize(
    ("module", "stands_in"),
    [("pipelines.stage_programs.measure", True), ("quantizers", False), (RECORDER, False), ("vllm.x", False)],
)
def test_a_stage_that_is_not_forked_has_the_stand_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, stands_in: bool
) -> None:
    for name in ("start", "_fork"):
        monkeypatch.setattr(Supervised, name, getattr(Supervised, name))  # put back after the test
    take_warm(tmp_path)
    child = Supervised([sys.executable, "-P", "-m", module, "job.json"], log_file=tmp_path / "log", grace_seconds=1.0)
    assert child._fork(0) is None
    expected = ["tests.faults.stand_in_stage"] if stands_in else []
    assert child.argv[3:] == [*expected, module, "job.json"]
