"""The soak of benchmarks/gateway_soak.py, short: real processes that are killed and swapped under load."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.repository import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.thorough]


def test_nothing_is_lost_or_mixed_up(tmp_path: Path) -> None:
    program = [sys.executable, "-P", str(ROOT / "benchmarks" / "gateway_soak.py"), "--folder", str(tmp_path / "soak")]
    done = subprocess.run(
        [*program, "--requests", "2000", "--champion-dies"], check=False, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("all is well\n")
    assert "2000 requests in" in done.stdout
