import ast
import re
import warnings
from pathlib import Path

import pytest
import yaml

from configs.loading import load_yaml_model
from pipelines.cli import COMMANDS
from pipelines.recipe.run_config import RunConfig
from quantizers.base import METHODS
from tests.architecture.repository import PACKAGES, ROOT, python_files, text_files

RECIPES = sorted((ROOT / "configs" / "recipes").glob("*.yaml"))
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    *(
        f"docs/{name}.md"
        for name in (
            "architecture",
            "artifacts",
            "cost",
            "deploy",
            "engines",
            "environments",
            "housekeeping",
            "init",
            "limits",
            "multi-node",
            "registry",
            "rendering",
            "replay",
            "review",
            "schedule",
            "shared-store",
            "verdict",
            "watching",
        )
    ),
)
MANY_LINES, MOST_LINES = 500, 700
MOST_FUNCTION_LINES = 60

# Written in two halves, so that this file passes its own test.
FORBIDDEN = {
    "an unfinished place": re.compile(r"\b(TO" + r"DO|FIX" + r"ME|X" + r"XX)\b"),
    "a path of one machine": re.compile(r"(?<![\w.])/(work|opt|root|home)" + r"/\w"),
    # Threads that other tests left sleep in it: one that does not wait any more fills the memory. A module's name for
    # it is replaced instead.
    "a clock of all threads replaced by a test": re.compile(r"time" + r"(, \"|\.)(sleep|time|monotonic)\",? *(?!\))\w"),
}

LOCKS = sorted((ROOT / "environments").glob("*/*.lock"))


def test_there_are_recipes() -> None:
    assert {path.name for path in RECIPES} >= {"demo.yaml", "llama_8b_cuda.yaml"}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_a_recipe_validates(recipe: Path) -> None:
    load_yaml_model(recipe, RunConfig)


def test_every_method_has_a_recipe() -> None:
    used = {
        entry["method"]
        for recipe in RECIPES
        for entry in yaml.safe_load(recipe.read_text(encoding="utf-8"))["methods"].values()
    }
    assert used == set(METHODS)


@pytest.mark.parametrize("path", python_files(*PACKAGES, "tests", "tools", "benchmarks"), ids=lambda p: p.name)
def test_a_file_is_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    assert lines <= MOST_LINES
    if lines > MANY_LINES:
        warnings.warn(f"{path.relative_to(ROOT)} has {lines} lines: are there two subjects in it?", stacklevel=1)
    long = [
        f"{node.name} has {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= MOST_FUNCTION_LINES
    ]
    assert not long


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(what: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in text_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if FORBIDDEN[what].search(line)
    ]
    assert not found


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_that_a_document_names_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(re.findall(r"(?:`|^ *)make ([a-z-]+)", text, flags=re.MULTILINE)) <= set(targets)
    assert set(re.findall(r"(?:`|^ *|bin/)quantbench ([a-z]+)", text, flags=re.MULTILINE)) <= set(COMMANDS)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_a_document_names_exist(document: str) -> None:
    source = ROOT / document
    text = source.read_text(encoding="utf-8")
    links = {source.parent / target for target in re.findall(r"\]\((?!https?:)([^)#]+)", text)}
    quoted = {
        ROOT / path for path in re.findall(rf"`((?:{'|'.join((*PACKAGES, 'tests', 'tools', 'docs'))})/[\w./-]+)`", text)
    }
    # The picture is taken from a finished demo and added with it.
    assert sorted(str(path) for path in links | quoted if not path.exists() and path.suffix != ".png") == []


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_lock_names_versions_and_no_places(lock: Path) -> None:
    lines = lock.read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.lstrip().startswith("#")]
    assert pins and all(re.fullmatch(r"[a-z0-9._-]+(\[[a-z,]+\])?==[\w.+!]+( ; .+)?", pin) for pin in pins)


def test_each_lock_holds_the_torch_of_its_device() -> None:
    for lock in [
        lock
        for lock in LOCKS
        if lock.parent.name not in ("airflow", "dagster", "deploy", "envoy", "litellm", "locust", "moto")
    ]:
        wanted = r"^torch==[\d.]+\+cpu$" if lock.stem == "cpu" else r"^torch==[\d.]+$"
        assert re.search(wanted, lock.read_text(encoding="utf-8"), flags=re.MULTILINE), lock
