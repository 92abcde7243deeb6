"""What the tests of this folder read: the repository's own files and their imports."""

import ast
import functools
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("configs", "registry", "quantizers", "evals", "serving_checks", "pipelines")
_PARTS = (*PACKAGES, "tests", "tools", "benchmarks", "docs", "environments", ".ci")
_TEXT_SUFFIXES = {".py", ".md", ".yaml", ".toml", ".txt", ".lock", ".html", ".css", ".js", ".json", ".jsonl", ""}


def python_files(*parts: str) -> list[Path]:
    """Python files below the named top-level folders, sorted."""
    return sorted(path for part in parts for path in (ROOT / part).rglob("*.py"))


def text_files() -> list[Path]:
    """Every text file that belongs to the repository, without what is built or ignored."""
    below = [path for part in _PARTS for path in (ROOT / part).rglob("*") if "__pycache__" not in path.parts]
    top = [path for path in ROOT.iterdir() if path.name != ".git"]  # a file in a linked worktree
    return sorted(path for path in (*below, *top) if path.is_file() and path.suffix in _TEXT_SUFFIXES)


def imports_of(path: Path) -> Iterator[tuple[str, int]]:
    """(module, line) of every import statement, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module, node.lineno


def words_of_code(path: Path) -> Iterator[tuple[str, int]]:
    """(word, line) of names, imports and strings; what explains, in docstrings and comments, is left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    # A string that stands alone: the docstring of a module, a class, a function or a field.
    explained = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    yield from imports_of(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in explained:
            yield node.value, node.lineno
        elif isinstance(node, ast.Name):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute):
            yield node.attr, node.lineno
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, node.lineno


def importers_of(package: str) -> set[str]:
    """Our modules, as paths below the root, that import `package` or a part of it."""
    return {
        str(path.relative_to(ROOT))
        for path in python_files(*PACKAGES)
        if any(module.split(".")[0] == package for module, _ in imports_of(path))
    }


@functools.cache
def project_metadata() -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
