"""A rendered line of cron, started by a cron daemon."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from pipelines.cli import main
from pipelines.records.run_outcome import RunOutcome
from tests.unit.pipelines.test_schedule import RECIPE

CRON = shutil.which("cron")
pytestmark = [
    pytest.mark.service,
    pytest.mark.skipif(CRON is None or os.geteuid() != 0, reason="Debian's cron as root is needed: make services"),
]
SECONDS = 240
"""cron looks once a minute."""


def test_cron_starts_what_was_rendered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In cron's own surroundings, which have next to no variables: it says that the recipe's model is not there."""
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o755)
    recipe = tmp_path / "weekly.yaml"
    recipe.write_text(RECIPE.replace("0 4 * * 0", "* * * * *").replace("Europe/Berlin", "UTC"))
    assert main(["schedule", "render", str(recipe), "--target", "cron", "--out", str(tmp_path / "rendered")]) == 0
    installed = Path("/etc/cron.d") / f"quantbench-test-{os.getpid()}"
    said = tmp_path / "workspace" / "quantbench-weekly.jsonl"
    # Where the system's own daemon runs, this one ends at once.
    assert CRON is not None
    with subprocess.Popen([CRON, "-f"]) as daemon:
        try:
            installed.write_text((tmp_path / "rendered" / "quantbench-weekly").read_text())
            until = time.monotonic() + SECONDS
            while not (said.is_file() and said.read_text().endswith("\n")):
                assert time.monotonic() < until, "cron has started nothing"
                time.sleep(0.5)
        finally:
            installed.unlink()
            daemon.terminate()
    outcome = RunOutcome.model_validate_json(said.read_text().splitlines()[0])
    assert (outcome.status, outcome.exit_code, outcome.recipe) == ("refused", 2, "weekly")
    assert outcome.recipe_file == recipe and outcome.workspace == tmp_path / "workspace"
    assert "the model folder model does not exist" in outcome.failures[0].what
    assert (tmp_path / "workspace" / "quantbench-weekly.log").read_text().startswith("error: the model folder")
