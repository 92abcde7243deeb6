"""Benchmark rows that this machine has not yet: fetched from the hub into its cache, once, before anything is asked.

The process that asks is offline, so that no model of a run is asked other rows than the one before it. What its cache
lacks is fetched by a process of its own.

    python -P -m evals.asking.hub_data < WANTED     [{"path": ..., "name": ..., "more": {...}}, ...]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from configs.errors import RequestError
from configs.reading.json_text import parse_json
from evals.suites.resolve import ResolvedTask

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
"""For every process that does not fetch from the hub; Hugging Face's libraries read it when they are imported."""


def fetch(tasks: Iterable[ResolvedTask]) -> bool:
    """Fetch the rows of the tasks that have none of their own into the hub's cache; whether there are such tasks.

    Raises:
        RequestError: A data set cannot be had.
    """
    wanted = {json.dumps(one): one for task in tasks if (one := _wanted(task))}
    if not wanted:
        return False
    env = {name: value for name, value in os.environ.items() if name not in OFFLINE}
    argv = [sys.executable, "-P", "-m", "evals.asking.hub_data"]
    asked = json.dumps([*wanted.values()])
    done = subprocess.run(argv, input=asked, env=env, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        paths = ", ".join(dict.fromkeys(str(one["path"]) for one in wanted.values()))
        said = done.stdout.strip() or f"{paths}: the process that fetches them ended with {done.returncode}"
        path, _, why = said.partition(": ")
        raise RequestError(
            f"rows of {path} are not in this machine's cache, and the hub gives none: {why}",
            remedy="let this machine reach a hub (HF_ENDPOINT and HF_TOKEN name another one and its key), name local"
            " rows in `evaluation.data`, or take the suite `demo`, which brings its own",
        )
    return True


def _wanted(task: ResolvedTask) -> dict[str, Any] | None:
    config = task.config
    if task.files or not isinstance(config.get("dataset_path"), str) or config.get("custom_dataset"):
        return None
    more = {name: value for name, value in (config.get("dataset_kwargs") or {}).items() if name != "trust_remote_code"}
    return {"path": config["dataset_path"], "name": config.get("dataset_name"), "more": more}


def _fetch(wanted: Iterable[Mapping[str, Any]]) -> int:
    import datasets

    for one in wanted:
        print(f"fetching {one['path']} {one['name'] or ''} from the hub", file=sys.stderr, flush=True)
        try:
            datasets.load_dataset(one["path"], one["name"], **one["more"])
        except Exception as error:  # The library raises whatever a hub, a disk or a file makes it stumble over.
            print(f"{one['path']}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(_fetch(parse_json(sys.stdin.read())))
