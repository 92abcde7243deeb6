"""A disk that fills up while a run works, or has been full before: a small tmpfs in the place of a folder."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from tests.faults.inject import forget
from tests.faults.trial import Kind, Missed, Trial

_SPARE_MIB = 96
"""The run refuses to begin with less than 64 MiB."""
_RUN_SECONDS = 10.0
_FILLER = "filler"
_BLAME = r"no space|disk|space|full|ENOSPC|MiB are free"


@contextmanager
def small_disk(folder: Path, mib: int, inodes: int = 0) -> Iterator[None]:
    """A tmpfs over `folder`, with what the folder held."""
    aside = folder.with_name(folder.name + "-below")
    folder.mkdir(exist_ok=True)
    folder.rename(aside)
    folder.mkdir(mode=0o700)
    options = f"size={mib}m,mode=700" + (f",nr_inodes={inodes}" if inodes else "")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], capture_output=True, text=True, check=False
    )
    try:
        if mounted.returncode:
            raise Missed(f"cannot mount: {mounted.stderr.strip()}")
        subprocess.run(["cp", "-a", f"{aside}/.", str(folder)], check=True)
        yield
    finally:
        if not mounted.returncode:
            subprocess.run(["umount", "-l", str(folder)], check=False)
        subprocess.run(["rm", "-rf", str(folder)], check=True)
        aside.rename(folder)


def fill(folder: Path) -> bool:
    """Write until nothing more goes in."""
    with suppress(OSError), (folder / _FILLER).open("ab") as file:
        block = bytes(1 << 16)
        while True:
            file.write(block)
            file.flush()
    with suppress(OSError), (folder / _FILLER).open("ab", buffering=0) as file:
        while True:
            file.write(b"\0" * 512)
    return True


def _fills_up(trial: Trial, where: str) -> None:
    rng, lab = trial.rng, trial.lab
    folder = lab.workspace if where == "workspace" else lab.tmp
    if rng.random() < 0.2:
        lab.restore(empty=True)
        lab.workspace.mkdir()
    trial.tell(forget(lab.workspace, rng))
    when = rng.choice((0.0, rng.uniform(0.1, _RUN_SECONDS / 4), rng.uniform(0.1, _RUN_SECONDS)))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    with small_disk(folder, size // 2**20 + _SPARE_MIB):
        full = False

        def tick(passed: float) -> None:
            nonlocal full
            if passed >= when:
                full = fill(folder)

        if when == 0.0:
            full = fill(folder)
        finished = lab.finish(lab.start("run", str(lab.recipe), "--json"), on_tick=tick)
        if not full:
            raise Missed("the run ended before")
        trial.tell(f"the disk of {where} was full after {when:.1f} s")
        trial.ended(finished, blame=_BLAME)
        (folder / _FILLER).unlink(missing_ok=True)
        trial.settle()


KINDS = (
    Kind("disk full: workspace", 6.0, partial(_fills_up, where="workspace"), mounts=True),
    Kind("disk full: temporary folder", 2.0, partial(_fills_up, where="tmp"), mounts=True),
)
