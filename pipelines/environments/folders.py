"""Where environments lie once they are made: one folder a lock, in the user's cache.

```
~/.cache/quantbench/environments/<name>-<device>-<digest>/       a virtual environment; made.json in it comes last
                                                        .lock    held while it is made, used or removed (flock(2))
                                                        .log     what uv said
```

The cache is that of all clones: an environment holds libraries alone, and our own code is named to its Python by a
variable. uv links files of its own cache, where that is on the same disk.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from configs.errors import RequestError, UnreadableError
from configs.reading.text import read_text
from pipelines.environments.definition import MAIN, Environment
from registry.contracts.base import Record

_STAMP = "made.json"
_STAMP_BYTES = 1 << 16


class Made(Record):
    """made.json: an environment that is whole."""

    digest: str
    made_at: datetime
    seconds: float
    size_bytes: int
    """Of its files, those that it shares with uv's cache included."""


def home() -> Path:
    """The folder of all of them."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "quantbench" / "environments"


def folder_of(environment: Environment) -> Path:
    """Where it lies, or will."""
    return home() / f"{environment.name}-{environment.device}-{environment.digest[:12]}"


def python_of(environment: Environment) -> Path:
    """Its interpreter."""
    return folder_of(environment) / "bin" / "python"


def folders_of(name: str) -> list[Path]:
    """All that was made of that name: other locks and devices too, whole or not."""
    found = {path.with_suffix("") if path.suffix in (".lock", ".log") else path for path in home().glob(f"{name}-*")}
    return sorted(path for path in found if path.name.rsplit("-", 2)[0] == name)


def made(environment: Environment) -> Made | None:
    """What is known of it; None where it was never made, was cut short, or has lost its Python."""
    # A link whose target went with an upgrade of the system's Python is no file.
    if not python_of(environment).is_file():
        return None
    try:
        found = Made.model_validate_json(read_text(stamp_file(folder_of(environment)), _STAMP_BYTES))
    except (OSError, UnreadableError, ValidationError):
        return None
    return found if found.digest == environment.digest else None


def state_of(environment: Environment) -> str:
    """Whether it is made, in words."""
    if environment.name == MAIN:
        return "this one"
    if there := made(environment):
        return f"made, {there.size_bytes / 2**30:.1f} GiB"
    left = [folder for folder in folders_of(environment.name) if folder.is_dir()]
    if folder_of(environment) in left:
        return "cut short"
    return "of an older lock" if left else f"not made, {environment.size_gib:.1f} GiB"


def stamp_file(folder: Path) -> Path:
    """Of a made environment."""
    return folder / _STAMP


@contextmanager
def held(folder: Path, *, alone: bool, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold an environment's lock: with others who use it, or alone, to make or remove it.

    The kernel drops it at the process's end, however that comes about.

    Raises:
        RequestError: The folder for it cannot be made.
    """
    kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    lock = _open(folder)
    try:
        while True:
            try:
                fcntl.flock(lock, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                fcntl.flock(lock, kind)
            # Who removed the environment meanwhile has removed this file too; another has its name now, or none.
            if os.fstat(lock).st_nlink:
                break
            os.close(lock)
            lock = _open(folder)
        yield
    finally:
        os.close(lock)


def _open(folder: Path) -> int:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return os.open(folder.with_name(f"{folder.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise RequestError(
            f"{folder.parent}, where environments are kept, cannot be written: {error.strerror}",
            remedy="free space or rights there, or set XDG_CACHE_HOME to another folder",
            blame="machine",
        ) from error
