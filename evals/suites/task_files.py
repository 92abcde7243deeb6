"""Reads lm-eval's task files without importing lm-eval: includes merged, functions named but not yet imported."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from configs.errors import RequestError
from configs.reading.text import MalformedError, read_text
from configs.reading.yaml_text import YAML_BYTES, compose
from registry.hashing import digest_of_file

_PARTS_OF_OTHER_FILES = ("include", "task_list")
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Function:
    """A `!function module.name` of a task file; the module lies beside the file or is importable."""

    folder: Path
    reference: str

    @property
    def _module_file(self) -> Path:
        return self.folder / f"{self.reference.rpartition('.')[0].replace('.', '/')}.py"

    def digest_parts(self) -> list[str]:
        """What the function is, without where it lies."""
        return [self.reference, digest_of_file(self._module_file)] if self._module_file.exists() else [self.reference]

    def load(self) -> Any:
        """Import the function as lm-eval does (lm_eval/tasks/_yaml_loader.py).

        Raises:
            RequestError: A library that its module imports is not installed, or the module asks for what is not here.
        """
        module_name, _, name = self.reference.rpartition(".")
        try:
            module = (
                _module_of(self._module_file) if self._module_file.exists() else importlib.import_module(module_name)
            )
        except ImportError as error:
            raise RequestError(
                f"the scoring functions of {self.folder} need {error.name or error}, which is not installed",
                remedy=f"install it with `pip install {error.name}`, or take the task out of the suite",
            ) from error
        except (Exception, SystemExit) as error:
            # Modules of tasks start programs, ask a hub or end the process when they do not find what they need.
            raise RequestError(
                f"the scoring functions of {self.folder} cannot be loaded: {type(error).__name__}: {error}",
                remedy="give them what they ask for, or take the task out of the suite",
            ) from error
        return getattr(module, name)


def _module_of(file: Path) -> ModuleType:
    # lm-eval's name for the module, so that one imported by either is not run twice.
    root = tasks_root()
    parts = file.with_suffix("").relative_to(root).parts if file.is_relative_to(root) else (str(file.with_suffix("")),)
    name = ".".join(("lm_eval", "tasks", *parts)) if file.is_relative_to(root) else parts[0]
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None and spec.loader is not None  # noqa: S101 - a .py file always has both
        module = importlib.util.module_from_spec(spec)
        # What lm-eval looks at before it runs a module anew.
        vars(module)["__mtime__"] = file.stat().st_mtime_ns
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]


def tasks_root() -> Path:
    """The folder of lm-eval's own tasks.

    Raises:
        RequestError: lm-eval is not installed.
    """
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or spec.origin is None:
        raise RequestError("lm-eval is not installed", remedy="set the environment up again: `make setup`")
    return Path(spec.origin).parent / "tasks"


def read_task_file(path: Path, known: dict[Path, dict[str, Any]] | None = None) -> dict[str, Any]:
    """The mapping in a task file, what it includes merged below it; `!function` values are `Function`.

    Args:
        path: A YAML file.
        known: Files read before, for many that include the same; filled.

    Raises:
        UnreadableError: It, or a file it includes, cannot be read, or is not YAML within bounds.
        ValueError, yaml.YAMLError: The file holds no mapping, what is no value, or includes itself.
    """
    return _read(path, {} if known is None else known, ())


def _read(path: Path, known: dict[Path, dict[str, Any]], including: tuple[Path, ...]) -> dict[str, Any]:
    if path in known:
        return known[path]
    if path in including:
        raise ValueError(f"{path} includes itself")
    own = _parse(path)
    includes = own.get("include", [])
    merged: dict[str, Any] = {}
    for name in [includes] if isinstance(includes, str) else includes:
        other = _read(_normal(path.parent / name), known, (*including, path))
        merged |= {key: value for key, value in other.items() if key not in _PARTS_OF_OTHER_FILES}
    merged |= {key: value for key, value in own.items() if key != "include"}
    known[path] = merged
    return merged


def _parse(path: Path) -> dict[str, Any]:
    loader_type = _loader(path.parent)
    try:
        root = compose(read_text(path, YAML_BYTES), loader_type)
        value = None if root is None else loader_type("").construct_document(root)
    except MalformedError as error:
        raise error.in_file(path) from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no mapping")
    return value


def _loader(folder: Path) -> Callable[[str], Any]:
    class Loader(_Base):  # type: ignore[misc] # PyYAML's C loader has no types
        """Safe YAML plus `!function`, which only names."""

    Loader.add_constructor("!function", lambda loader, node: Function(folder, loader.construct_scalar(node)))
    return Loader


def _normal(path: Path) -> Path:
    """Without `..`, links kept as they are: lm-eval's folder may itself be reached by one."""
    return Path(*_without_dots(path.parts))


def _without_dots(parts: tuple[str, ...]) -> list[str]:
    kept: list[str] = []
    for part in parts:
        if part == "..":
            kept = kept[:-1] or kept
        else:
            kept.append(part)
    return kept
