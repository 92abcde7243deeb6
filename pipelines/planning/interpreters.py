"""Other environments' Pythons: whether they can run a stage, and which libraries they have. Each is asked once."""

import functools
import json
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

from configs.errors import RequestError

_DEADLINE_SECONDS = 60.0
_QUESTION = """
import importlib.metadata, importlib.util, json, sys
modules = [name for name in sys.argv[1:] if importlib.util.find_spec(name)]
found = [*importlib.metadata.distributions()][::-1]  # of two with one name the first on the path is imported
print(json.dumps([modules, {one.name: one.version for one in found if one.name}]))
"""
_MODULES = ("quantizers", "pipelines")
"""Packages whose modules are run as stages."""


class _Environment(NamedTuple):
    modules: list[str]
    versions: dict[str, str]
    """Normalized distribution name -> version."""


def versions_of(interpreter: Path, distributions: tuple[str, ...]) -> dict[str, str]:
    """Distribution -> version of those that are installed in `interpreter`'s environment.

    Raises:
        RequestError: It does not run or is no Python of 3.11 or later.
    """
    versions = _environment(interpreter).versions
    return {name: versions[_normalized(name)] for name in distributions if _normalized(name) in versions}


def check_interpreter(interpreter: Path, module: str) -> None:
    """Refuse a Python that does not run, or that cannot run `module` (RequestError)."""
    package = module.partition(".")[0]
    if package not in _environment(interpreter).modules:
        raise RequestError(
            f"{interpreter} cannot run `{module}`: its environment does not have Quantbench",
            remedy=f"install it there too: {interpreter} -m pip install pydantic pyyaml, and then"
            f" {interpreter} -m pip install --no-deps -e . in Quantbench's folder",
        )


@functools.cache
def _environment(interpreter: Path) -> _Environment:
    try:
        # -P as stages are run: what lies in the working directory does not count.
        asked = subprocess.run(
            [str(interpreter), "-P", "-c", _QUESTION, *_MODULES],
            capture_output=True,
            text=True,
            check=True,
            timeout=_DEADLINE_SECONDS,
        )
        modules, versions = json.loads(asked.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1:]
        raise RequestError(
            f"`environments` names {interpreter}, which does not answer as a Python does: {' '.join(said)}",
            remedy="name the `bin/python` of an environment with Python 3.11 or later",
        ) from error
    return _Environment(modules, {_normalized(name): version for name, version in versions.items()})


def _normalized(distribution: str) -> str:
    """As PyPI compares names (packaging.python.org, name normalization)."""
    return re.sub(r"[-_.]+", "-", distribution).lower()
