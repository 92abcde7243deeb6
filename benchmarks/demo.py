"""Runs a recipe in an empty workspace and prints what it took, against the targets.

    .venv/bin/python -P benchmarks/demo.py [RECIPE]

Run it alone on the machine. It prints the whole run's minutes, the minutes until the first artifact stood beside the
baseline, the share that is our own (see `pipelines.records.events`; the process's start and end included), and the
seconds of a second run, which has nothing to do.
"""

import json
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

RECIPE = sys.argv[1] if len(sys.argv) > 1 else "configs/recipes/demo.yaml"
TARGETS = {"whole run": "30 min", "first compared artifact": "10 min", "own share": "3 %", "second run": "5 s"}


def run(workspace: str) -> tuple[dict[str, Any], float]:
    """The run's record and its wall seconds, process start included."""
    start = time.monotonic()
    command = [sys.executable, "-P", "-m", "pipelines.cli", "run", RECIPE, "--workspace", workspace, "--json"]
    finished = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(finished.stdout), time.monotonic() - start


def seconds_until_first_comparison(record: dict[str, Any]) -> float:
    """From the run's begin until the first artifact's measurement has ended."""
    begin = datetime.fromisoformat(record["started_at"])
    ends = [
        datetime.fromisoformat(outcome["started_at"]) + timedelta(seconds=outcome["wall_seconds"])
        for outcome in record["outcomes"]
        if outcome["name"].startswith("measure:") and outcome["name"] != "measure:baseline"
    ]
    return (min(ends) - begin).total_seconds()


def main() -> None:
    """Print one line a figure."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".benchmark-") as workspace:
        record, seconds = run(workspace)
        again = run(workspace)[1]
    breakdown = record["breakdown"]
    engine_seconds = breakdown["wall_seconds"] - breakdown["own_seconds"]
    measured = {
        "whole run": f"{seconds / 60:.1f} min",
        "first compared artifact": f"{seconds_until_first_comparison(record) / 60:.1f} min",
        "own share": f"{100 * (1 - engine_seconds / seconds):.1f} %",
        "second run": f"{again:.1f} s",
    }
    machine = record["machine"]
    print(f"{machine['device_name']}, {machine['threads']} threads, fast bfloat16: {machine['fast_bfloat16']}")
    for name, target in TARGETS.items():
        print(f"{name:26} {measured[name]:>10}   at most {target}")


if __name__ == "__main__":
    main()
