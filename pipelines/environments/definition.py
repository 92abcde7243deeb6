"""Environments as data: libraries that cannot live beside ours, one folder each in `environments/`.

```
environments/<name>/environment.yaml    what for, who uses it, what has to be importable in it
                    requirements.txt    what is asked for; overrides.txt beside it where pins have to give way
                    cpu.lock, cuda.lock what that comes to on each kind of device, written by `make lock`
```

One that has nothing to do with a GPU has no `cuda.lock`, and is the same on every machine.

`main` is the one that this process runs in. It is filled by `make setup` and is the only one without a folder in the
user's cache.
"""

import difflib
import functools
import hashlib
import json
import re
from pathlib import Path
from typing import Literal, NamedTuple

from configs.base import StrictModel
from configs.errors import RequestError
from configs.loading import load_yaml_model
from configs.quantities import Gibibytes, Label
from configs.reading.text import read_text
from registry.contracts.base import Device

ROOT = Path(__file__).resolve().parents[2]
"""Of the repository; what is installed without it has no environments but its own."""
MAIN = "main"
PYTHON = "3.11"
"""Of every environment: what the locks are for."""
_LOCK_BYTES = 4 << 20
_PIN = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(\[[a-z,]+\])?==(?P<version>[\w.+!]+)( ; .+)?$")


class Definition(StrictModel):
    """environment.yaml."""

    version: Literal[1]
    """Of this file's format."""
    purpose: Label
    """One line."""
    used_by: list[Label] = []
    """Methods, benchmarks and tests that run in it."""
    imports: list[Label] = []
    """Modules that `quantbench env check` imports there."""
    size_gib: dict[Device, Gibibytes]
    """On disk, about; told before it is made."""


class Environment(NamedTuple):
    """One environment on one kind of device."""

    name: str
    device: Device
    """What it is locked for: `cpu` on every machine for one that knows no GPU."""
    definition: Definition
    lock_file: Path
    versions: dict[str, str]
    """Normalized distribution name -> pinned version."""

    @property
    def size_gib(self) -> float:
        """On disk, about."""
        return self.definition.size_gib[self.device]

    @property
    def digest(self) -> str:
        """Of all that is installed; comments and order of the lock do not count."""
        pins = json.dumps([PYTHON, self.device, sorted(self.versions.items())])
        return hashlib.sha256(pins.encode()).hexdigest()


def environment_names() -> list[str]:
    """All of them, main included, in alphabetical order."""
    return sorted(file.parent.name for file in (ROOT / "environments").glob("*/environment.yaml"))


@functools.cache
def environment_named(name: str, device: Device) -> Environment:
    """Read an environment's definition and its lock.

    Args:
        name: Of a folder in `environments/`.
        device: Of the machine that it will work on.

    Raises:
        RequestError: There is none of that name, or none for the device; it is not written as it should be.
    """
    names = environment_names()
    folder = ROOT / "environments" / name
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        raise RequestError(
            f"there is no environment {name!r} in {folder.parent}",
            remedy=(f"did you mean {near[0]}? " if near else "")
            + (f"known: {', '.join(names)}" if names else "Quantbench's repository has them: work in a clone of it"),
        )
    definition = load_yaml_model(folder / "environment.yaml", Definition)
    if list(definition.size_gib) == ["cpu"]:
        device = "cpu"
    lock_file = folder / f"{device}.lock"
    if not lock_file.is_file() or device not in definition.size_gib:
        raise RequestError(
            f"environment {name} has no lock for {device}, or no size: {lock_file}",
            remedy="run it on a device that it has one for; or make the empty file, run `make lock`, and write the size"
            f" of what comes of it into {folder / 'environment.yaml'}",
        )
    return Environment(name, device, definition, lock_file, _pins(lock_file))


def normalized(distribution: str) -> str:
    """As PyPI compares names (packaging.python.org, name normalization)."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _pins(lock_file: Path) -> dict[str, str]:
    pins: dict[str, str] = {}
    for number, line in enumerate(read_text(lock_file, _LOCK_BYTES).splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        pin = _PIN.match(line)
        if pin is None:
            raise RequestError(
                f"{lock_file}:{number}: no pinned version: {line.strip()!r}", remedy="write it anew: `make lock`"
            )
        pins[normalized(pin["name"])] = pin["version"]
    if not pins:
        raise RequestError(f"{lock_file} is empty", remedy="fill it: `make lock`")
    return pins
