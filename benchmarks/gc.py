"""Time `quantbench workspace gc` on a made-up workspace with many objects.

    .venv/bin/python -m benchmarks.gc [--objects 10000] [--keep-runs 10] [--times 3]

Each run makes three objects: calibration, artifact and measurement, with entries of the cache as large as real ones
(25 kB on average), an inspection and kept answers. Making the workspace takes minutes, and is not timed.
"""

import argparse
import gc
import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from pipelines.execution.housekeeping import Wish, collect, planned
from pipelines.execution.workspace import Workspace
from pipelines.planning.garbage import Asked
from registry import files, stage_cache, store
from tests.used_workspace import UsedWorkspace

_PADDING_BYTES = 25_000


def main() -> None:
    """Print how long a look takes, and a removal of all but the last runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=10_000)
    parser.add_argument("--keep-runs", type=int, default=10)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument(
        "--folder", type=Path, help="where the workspace is made (default: the system's temporary folder)"
    )
    asked = parser.parse_args()
    wish = Wish(Asked(keep_runs=asked.keep_runs))
    with TemporaryDirectory(dir=asked.folder) as folder:
        made = Path(folder) / "made"
        make(made, asked.objects)
        for _ in range(asked.times):
            root = Path(folder) / "workspace"
            shutil.copytree(made, root)
            workspace = Workspace(root)
            told("look", lambda workspace=workspace: planned(workspace, wish))
            told("removal", lambda workspace=workspace: collect(workspace, wish, print))
            shutil.rmtree(root)


def make(root: Path, objects: int) -> None:
    """A workspace of so many objects, three a run, of recipes that ran 28 times each."""
    for module in (files, store):  # what is made here may be lost
        module.fsync = lambda path: None  # type: ignore[attr-defined]
    store.fsync_tree = lambda path: None
    check = stage_cache.StageCache._check
    stage_cache.StageCache._check = lambda self, result: None  # type: ignore[method-assign]
    used = UsedWorkspace(root)
    for number in range((objects - 1) // 3):
        used.run(number % 28, name=f"recipe-{number // 28}")
    stage_cache.StageCache._check = check  # type: ignore[method-assign]
    for path in root.glob("cache/*/*.json"):
        with path.open("a") as file:
            file.write(" " * _PADDING_BYTES)
    del used
    gc.collect()


def told(what: str, work) -> None:  # type: ignore[no-untyped-def]
    """Run it and print its seconds, and how much it found."""
    began = time.monotonic()
    found = work()
    print(f"{what}: {time.monotonic() - began:.2f} s, {len(found.removed)} things go")


if __name__ == "__main__":
    main()
