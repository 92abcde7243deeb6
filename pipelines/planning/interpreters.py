"""Other environments' Pythons: whether they can run a stage, and which libraries they have.

Both are read: of an environment that is named from its lock, whether it is made or not, of any other Python from the
folders beside it. Nothing is started: a plan makes no environment and runs no program that a recipe names, and a run
does so for its stage alone.
"""

import functools
import os
import re
from pathlib import Path
from typing import NamedTuple

from configs.errors import RequestError, UnreadableError
from configs.reading.text import read_text
from pipelines.environments.definition import MAIN, Environment, environment_named, normalized
from registry.contracts.base import Device
from serving_checks.engines.base import Engine

_OLDEST = (3, 11)
_PACKAGES = {"quantizers", "pipelines"}
"""Those whose modules are run as stages."""
_DISTRIBUTION = "quantbench"
_MARK_BYTES = 1 << 16
_REMEDY = (
    "name the `bin/python` of an environment with Python 3.11 or later, as `import sys; print(sys.executable)` tells it"
)


Interpreter = Path | Environment
"""What runs a stage that this process's own Python does not run."""


def interpreter_of(named: Path, device: Device) -> Interpreter | None:
    """What a recipe's `environments` means by a value: a path has a folder, a name has none; None for our own.

    Raises:
        RequestError: There is no environment of that name.
    """
    if len(named.parts) > 1:
        return named
    return None if str(named) == MAIN else environment_named(str(named), device)


class _Folders(NamedTuple):
    site_folders: list[Path]
    """Where its libraries lie, those that are imported first before the others."""
    versions: dict[str, str]
    """Normalized distribution name -> version."""


def versions_of(interpreter: Interpreter, distributions: tuple[str, ...]) -> dict[str, str]:
    """Distribution -> version of those that are, or are going to be, installed in `interpreter`'s environment.

    Raises:
        RequestError: It is no environment's Python of 3.11 or later.
    """
    versions = interpreter.versions if isinstance(interpreter, Environment) else _environment(interpreter).versions
    return {name: versions[normalized(name)] for name in distributions if normalized(name) in versions}


def versions_of_engine(engine: type[Engine], device: Device) -> dict[str, str]:
    """Distribution -> version of a serving engine and its plugins, wherever it lives.

    Raises:
        RequestError: Its environment is not for this device.
    """
    if engine.environment == MAIN:
        return engine.versions()
    environment = environment_named(engine.environment, device)
    return versions_of(environment, (*engine.distributions, *engine.plugins))


def check_interpreter(interpreter: Interpreter, module: str) -> None:
    """Refuse what is no environment's Python, or one that cannot run `module` (RequestError)."""
    if isinstance(interpreter, Environment):
        return
    environment, package = _environment(interpreter), module.partition(".")[0]
    installed = package in _PACKAGES and _DISTRIBUTION in environment.versions
    if not installed and not any((folder / package).is_dir() for folder in environment.site_folders):
        raise RequestError(
            f"{interpreter} cannot run `{module}`: its environment does not have Quantbench",
            remedy=f"install it there too: {interpreter} -m pip install pydantic pyyaml, and then"
            f" {interpreter} -m pip install --no-deps -e . in Quantbench's folder",
        )


@functools.cache
def _environment(interpreter: Path) -> _Folders:
    try:
        if not interpreter.is_file():
            raise _refusal(interpreter, "there is no such file")
        if not os.access(interpreter, os.X_OK):
            raise _refusal(interpreter, "it may not be executed")
        folders = _site_folders(interpreter)
        versions: dict[str, str] = {}
        for folder in folders:
            for path in folder.glob("*.dist-info"):
                # The folder is named after both (packaging.python.org, recording installed projects).
                name, _, version = path.name.removesuffix(".dist-info").partition("-")
                versions.setdefault(normalized(name), version)
    except (OSError, UnreadableError) as error:
        raise _refusal(interpreter, str(getattr(error, "what", error))) from error
    return _Folders(folders, versions)


def _site_folders(interpreter: Path) -> list[Path]:
    root = interpreter.absolute().parent.parent
    mark = root / "pyvenv.cfg"
    if not mark.is_file():
        return _own_site_folders(interpreter, root)
    lines = [line.partition("=") for line in read_text(mark, _MARK_BYTES).splitlines()]
    told = {key.strip().lower(): value.strip() for key, _, value in lines}
    version = _checked(interpreter, told.get("version") or told.get("version_info") or "")
    folders = [root / "lib" / version / "site-packages"]
    if told.get("include-system-site-packages", "").lower() == "true":
        folders += _own_site_folders(Path(told.get("home", "")) / version, Path(told.get("home", "")).parent)
    if not folders[0].is_dir():
        raise _refusal(interpreter, f"there is no folder {folders[0]}")
    return folders


def _own_site_folders(interpreter: Path, root: Path) -> list[Path]:
    """Of a Python that is no virtual environment; Debian has folders of its own."""
    present = {path.name for path in root.glob("lib/python3.*") if (path / "os.py").is_file()}
    named = Path(os.path.realpath(interpreter)).name
    version = named if named in present else next(iter(present)) if len(present) == 1 else ""
    version = _checked(interpreter, version.removeprefix("python"))
    folders = [Path.home() / ".local/lib" / version / "site-packages", root / "lib" / version / "site-packages"]
    folders += [root / "local/lib" / version / "dist-packages", root / "lib/python3/dist-packages"]
    return [folder for folder in folders if folder.is_dir()]


def _checked(interpreter: Path, version: str) -> str:
    """`python3.11` for a version that is new enough, such as 3.11.7."""
    match = re.match(r"(\d{1,3})\.(\d{1,3})\b", version)
    if match is None:
        raise _refusal(interpreter, "no Python's libraries lie beside it")
    major, minor = int(match[1]), int(match[2])
    if (major, minor) < _OLDEST:
        raise _refusal(interpreter, f"its environment has Python {major}.{minor}")
    return f"python{major}.{minor}"


def _refusal(interpreter: Path, why: str) -> RequestError:
    return RequestError(
        f"`environments` names {interpreter}, which is no environment's Python of 3.11 or later: {why}", remedy=_REMEDY
    )
