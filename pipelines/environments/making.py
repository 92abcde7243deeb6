"""Making an environment at its first use, checking and removing it.

uv does it, through the same script that fills our own `.venv` (`tools/environment.py`), so that a machine's mirrors,
certificates and folders of wheels hold for both. Two who want the same one take turns; who is killed leaves a folder
without its stamp, which the next one clears and makes again out of uv's cache.
"""

import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from configs.errors import RequestError, StageError
from configs.reading.json_text import parse_json
from pipelines.environments.definition import MAIN, PYTHON, ROOT, Environment, normalized
from pipelines.environments.folders import (
    Made,
    folder_of,
    folders_of,
    held,
    home,
    made,
    python_of,
    stamp_file,
)
from registry.files import write_text_atomically
from serving_checks.processes import supervisor
from serving_checks.processes.endings import death_of
from serving_checks.processes.pulse import Patience

SCRIPT = ROOT / "tools" / "environment.py"
OUR_CODE = {"PYTHONPATH": str(ROOT)}
"""Variables by which an environment's Python finds our packages."""
_PATIENCE = Patience(silent_seconds=600.0, suspended_seconds=60.0)
_CHECK_PATIENCE = Patience(deadline_seconds=600.0)
_SPARE_BYTES = 256 << 20
Say = Callable[[str], None]


class _Trouble(NamedTuple):
    """What uv's words mean."""

    words: re.Pattern[str]
    what: str
    remedy: str


# Without a network uv also says that it found no solution, so that comes first.
_TROUBLES = (
    _Trouble(
        re.compile(
            r"dns error|failed to (?:fetch|download)|error sending request|connection (?:refused|reset)|timed out|"
            r"network (?:was|connectivity is) disabled",
            re.IGNORECASE,
        ),
        "the package index did not answer",
        "see that the network is there (pip's index, proxy and certificates hold here too), then run the same command",
    ),
    _Trouble(
        re.compile(r"no solution found|unsatisfiable", re.IGNORECASE),
        "its lock does not resolve: a package index does not have what is pinned, or not for this machine",
        "see what the log names; `make lock` writes the locks anew",
    ),
    _Trouble(
        re.compile(r"failed to build", re.IGNORECASE),
        "one of its packages could not be built here",
        "the log names what its build lacks",
    ),
)


@contextmanager
def in_use(environment: Environment, say: Say) -> Iterator[Path]:
    """An environment's Python, made now where it is not yet; nobody removes it within the block.

    Args:
        say: Called with what is being done, a few times a second while it is made.

    Raises:
        StageError: It could not be made.
    """
    sync(environment, say)
    with held(folder_of(environment), alone=False, on_wait=lambda: say(f"waiting for environment {environment.name}")):
        # Between the two locks somebody may have removed it.
        if made(environment) is None:
            raise StageError(
                f"environment {environment.name} was removed just now", remedy="run the same command again"
            )
        yield python_of(environment)


def sync(environment: Environment, say: Say) -> Made:
    """Make an environment, or find that it is made.

    Raises:
        RequestError: It is the one that this process runs in.
        StageError: It could not be made; what there is of it is made anew the next time.
    """
    if environment.name == MAIN:
        raise RequestError(f"environment {MAIN} is the one of this command", remedy="`make setup` keeps it up to date")
    if there := made(environment):
        return there
    folder = folder_of(environment)
    with held(folder, alone=True, on_wait=lambda: say(f"waiting for another process that makes {environment.name}")):
        return made(environment) or _make(environment, folder, say)


def _make(environment: Environment, folder: Path, say: Say) -> Made:
    start, name = time.monotonic(), environment.name
    _check_room(environment, folder)
    log_file = folder.with_name(f"{folder.name}.log")
    log_file.unlink(missing_ok=True)
    stamp_file(folder).unlink(missing_ok=True)
    size = f"{environment.size_gib:.1f} GiB"
    say(f"making environment {name}: {len(environment.versions)} packages, about {size} in {folder}")
    argv = [sys.executable, "-P", str(SCRIPT), "fill", str(folder), str(environment.lock_file), environment.device]
    finished = supervisor.run(
        argv,
        log_file=log_file,
        env={"PYTHONUNBUFFERED": "1"},
        patience=_PATIENCE,
        on_tick=lambda _: say(
            f"making environment {name}: {_installed(folder)} of {len(environment.versions)} packages"
        ),
    )
    if finished.ending.exit_code:
        raise _not_made(environment, finished, log_file)
    record = Made(
        digest=environment.digest,
        made_at=datetime.now(UTC),
        seconds=time.monotonic() - start,
        size_bytes=_size_bytes(folder),
    )
    write_text_atomically(stamp_file(folder), record.model_dump_json(indent=2))
    return record


def _check_room(environment: Environment, folder: Path) -> None:
    free = shutil.disk_usage(folder.parent).free
    needed = int(environment.size_gib * 2**30) + _SPARE_BYTES
    if free < needed:
        raise StageError(
            f"environment {environment.name} needs about {needed / 2**30:.1f} GiB and the disk of {folder.parent} has"
            f" {free / 2**30:.1f}",
            remedy="free space there (`quantbench env list`, `uv cache clean`), or set XDG_CACHE_HOME to another disk",
            blame="machine",
        )


def _not_made(environment: Environment, finished: supervisor.Finished, log_file: Path) -> StageError:
    tail = finished.ending.log_tail
    death = death_of(finished.ending)
    what, remedy = death.reason, death.remedy
    # A signal or a full disk says more than uv's words about what it could not do then.
    if death.blame != "machine":
        trouble = next((one for one in _TROUBLES if one.words.search(tail)), None)
        what, remedy = (trouble.what, trouble.remedy) if trouble else ("uv gave up", "see what the log names")
    return StageError(
        f"environment {environment.name} could not be made: {what}; the end of {log_file}:\n{supervisor.quoted(tail)}",
        remedy=remedy,
        blame="machine",
    )


def check(environment: Environment) -> list[str]:
    """What is wrong with a made environment: pins that differ, modules of the engine or of ours that do not import.

    Raises:
        RequestError: It is not made.
    """
    if environment.name != MAIN and made(environment) is None:
        raise RequestError(
            f"environment {environment.name} is not made", remedy=f"quantbench env sync {environment.name}"
        )
    python = Path(sys.executable) if environment.name == MAIN else python_of(environment)
    log_file = home() / f"{environment.name}-check-{os.getpid()}.log"
    try:
        finished = supervisor.run(
            [str(python), "-P", "-c", _PROGRAM, *environment.definition.imports],
            log_file=log_file,
            env=OUR_CODE,
            patience=_CHECK_PATIENCE,
        )
        told = [line for line in supervisor.tail_of(log_file, 400).splitlines() if line.startswith(_MARK)]
    finally:
        log_file.unlink(missing_ok=True)
    if not told:
        return [f"its Python {finished.ending.how}: {death_of(finished.ending).reason}"]
    found = parse_json(told[-1].removeprefix(_MARK))
    there = {normalized(name): version for name, version in found["versions"]}
    wrong: list[str] = found["wrong"]
    for name, version in environment.versions.items():
        if there.get(name) != version:
            wrong.append(f"{name} is {there.get(name, 'not there')}, and its lock has {version}")
    return wrong


_MARK = "quantbench: "
# Whatever the engines print when they are imported, the last line is ours.
_PROGRAM = f"""\
import importlib, importlib.metadata, json, sys
# Before the imports: some packages put copies of others, older ones, on the path.
versions = [(one.name, one.version) for one in importlib.metadata.distributions()]
wrong = []
if list(sys.version_info[:2]) != {[*map(int, PYTHON.split("."))]}:
    wrong.append("it has Python " + sys.version.split()[0])
for name in ["quantizers.__main__", *sys.argv[1:]]:
    try:
        importlib.import_module(name)
    except Exception as error:
        wrong.append(name + " does not import: " + type(error).__name__ + ": " + " ".join(str(error).split())[:300])
sys.stdout.flush()
print("\\n{_MARK}" + json.dumps(dict(wrong=wrong, versions=versions)), flush=True)
"""


def remove(name: str) -> int:
    """Remove all that was made of an environment, of older locks too; how many bytes its folders held.

    Raises:
        RequestError: It is in use.
    """
    freed = 0
    for folder in folders_of(name):

        def busy() -> None:
            raise RequestError(f"{folder} is in use", remedy="wait for the run that works in it, or stop it")  # noqa: B023

        with held(folder, alone=True, on_wait=busy):
            freed += _size_bytes(folder)
            shutil.rmtree(folder, ignore_errors=True)
            if folder.exists():
                raise StageError(
                    f"{folder} could not be removed whole", remedy="see whose its files are", blame="machine"
                )
            folder.with_name(f"{folder.name}.log").unlink(missing_ok=True)
            folder.with_name(f"{folder.name}.lock").unlink(missing_ok=True)
    return freed


def _installed(folder: Path) -> int:
    return sum(1 for _ in folder.glob("lib/python*/site-packages/*.dist-info"))


def _size_bytes(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            total += os.lstat(Path(place, name)).st_blocks * 512
    return total
