import ast
import functools
import importlib.metadata
import importlib.util
import re
import subprocess
import symtable
import sys
from pathlib import Path

import pytest

from tests.architecture.repository import (
    PACKAGES,
    ROOT,
    importers_of,
    imports_of,
    project_metadata,
    python_files,
    words_of_code,
)

HEAVY = ("torch", "transformers", "vllm", "mlflow", "lm_eval", "gptqmodel", "datasets", "bitsandbytes")


def test_the_import_direction_holds() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_what_is_imported_of_our_own_is_there() -> None:
    """Types are checked in the packages alone; a test that the second tier runs shows late that a name has gone."""
    parts = (*PACKAGES, "tests", "benchmarks", "tools")
    missing = []
    for path in python_files(*parts):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in parts:
                names = names_in(node.module)
                found = [alias.name for alias in node.names if alias.name not in names]
                missing += [f"{path.relative_to(ROOT)}:{node.lineno}: {node.module} has no {name}" for name in found]
    assert missing == []


@functools.cache
def names_in(module: str) -> set[str]:
    """What `from module import ...` finds: names bound at its top level, and its modules where it is a package."""
    folder = ROOT.joinpath(*module.split("."))
    modules = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/*.py")}
    source = next((file for file in (folder.with_suffix(".py"), folder / "__init__.py") if file.is_file()), None)
    if source is None:
        return modules
    table = symtable.symtable(source.read_text(encoding="utf-8"), str(source), "exec")
    return modules | {one.get_name() for one in table.get_symbols() if one.is_assigned() or one.is_imported()}


@pytest.mark.parametrize(
    "module", ["pipelines.cli", "pipelines.recipe.run_config", "quantizers.base", "registry.contracts"]
)
def test_an_import_loads_no_engine(module: str) -> None:
    program = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == "[]", f"import {module} loads {result.stdout} {result.stderr}"


def test_the_command_line_parses_without_an_engine() -> None:
    """Every command's module is imported for the help text."""
    program = (
        "import sys\nfrom pipelines.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.stderr.strip() == "[]", result.stderr


@pytest.mark.parametrize(
    ("package", "modules"),
    [
        ("mlflow", {"registry/tracking/mlflow_backend.py"}),
        (
            "lm_eval",
            {
                "evals/asking/lm_eval_runner.py",
                "evals/asking/questions.py",
                "evals/asking/task_scorer.py",
                "evals/suites/generation.py",
            },
        ),
        ("vllm", {"serving_checks/load/adapter.py", "serving_checks/engines/vllm_fork_patch.py"}),
        (
            "ray",
            {
                "pipelines/stage_programs/ray_broker.py",
                "pipelines/rendering/deploy/serve_application.py",
                "serving_checks/engines/vllm_ray_program.py",
            },
        ),
    ],
)
def test_an_engine_has_one_importer(package: str, modules: set[str]) -> None:
    assert importers_of(package) == modules


PARSES_OUR_OWN = {
    # Records, caches and messages that this program wrote, each checked by its type or its checksum.
    "registry/verified_files.py",
    "registry/sealed.py",
    "registry/stage_process.py",
    "quantizers/engines/engine_frame.py",
    "quantizers/checkpoints/chat_templates.py",
    "evals/asking/request_cache.py",
    "evals/asking/request_plan.py",
    "serving_checks/processes/fork_server.py",
}


def test_foreign_text_is_parsed_by_the_readers_alone() -> None:
    parsing = {
        "json": ("load", "loads"),
        "yaml": ("load", "safe_load", "compose", "parse"),
        "tomllib": ("load", "loads"),
    }
    callers = {
        str(path.relative_to(ROOT))
        for path in python_files(*PACKAGES)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.attr in parsing.get(node.value.id, ())
    }
    assert callers == PARSES_OUR_OWN


OF_VLLM = (
    "serving_checks/engines/vllm",
    "pipelines/planning/compatibility.py",  # data: what each engine does not serve
    "serving_checks/engines/table.py",
    "serving_checks/engines/vllm_fork_patch.py",
    "serving_checks/engines/worker_probe.py",
    "serving_checks/load",  # its load generator is used as a library, whatever serves
    "serving_checks/fake/fake_server.py",  # speaks its dialect
)
TELL_OF_VLLM = {
    # Texts for users: an artifact that no engine serves is refused by the method, and what an evaluation needs is told.
    "quantizers/methods/awq.py",
    "quantizers/methods/bitsandbytes_nf4.py",
    "quantizers/methods/gptq.py",
    "quantizers/checkpoints/schemes.py",
    "quantizers/methods/imported.py",
    "quantizers/methods/card.py",  # which engines read an artifact
    "evals/asking/client.py",
    "pipelines/rendering/deploy/targets.py",  # what took the place of engines that have ended
}
HANDED_OUT = ROOT / "pipelines/rendering/deploy/serve_application.py"
"""Run in Ray's own environment, as a file of the user's."""


def test_no_module_outside_the_adapter_names_the_serving_engine() -> None:
    naming = {
        str(path.relative_to(ROOT))
        for path in python_files(*PACKAGES)
        if any("vllm" in word.lower() for word, _ in words_of_code(path))
    }
    assert {name for name in naming if not name.startswith(OF_VLLM)} == TELL_OF_VLLM


def test_serving_engines_are_reached_through_their_table_only() -> None:
    adapters = {"vllm", "vllm_log", "transformers_serve", "llamacpp", "llamacpp_program", "openai_address"}
    importers = {
        str(path.relative_to(ROOT))
        for path in python_files(*PACKAGES)
        for module, _ in imports_of(path)
        if module.removeprefix("serving_checks.engines.") in adapters
    }
    assert importers <= {"serving_checks/engines/vllm.py"}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_the_repository_s_own(package: str) -> None:
    """Names such as `configs` are common: another distribution's must not come first."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None
    assert Path(spec.origin) == ROOT / package / "__init__.py"


def test_every_package_is_checked() -> None:
    """A new top-level package has to join the layers and mypy's list."""
    found = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    tool = project_metadata()["tool"]
    assert found == set(PACKAGES) == set(tool["importlinter"]["root_packages"]) == set(tool["mypy"]["packages"])


def test_every_imported_distribution_is_declared() -> None:
    project = project_metadata()["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    declared = {_normalized(re.split(r"[^\w.-]", line)[0]) for line in lines}
    distributions = importlib.metadata.packages_distributions()
    missing = set()
    for path in [path for path in python_files(*PACKAGES) if path != HANDED_OUT]:
        for module, line in imports_of(path):
            name = module.split(".")[0]
            # Missing from the map: an engine of the other device, or one that is imported where it is installed only.
            owners = {_normalized(owner) for owner in distributions.get(name, [])}
            if name not in sys.stdlib_module_names and name not in PACKAGES and owners and not owners & declared:
                missing.add(f"{path.relative_to(ROOT)}:{line} imports {name} of {', '.join(sorted(owners))}")
    assert not missing


def _normalized(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_what_runs_in_environments_of_other_engines_imports_pydantic_alone() -> None:
    """Those have no YAML, no numpy of a certain version: engines come later, inside functions."""
    program = (
        "import sys, sysconfig; import quantizers.__main__; site = sysconfig.get_paths()['purelib'];"
        "print(*sorted({n.split('.')[0] for n, m in sys.modules.items() if (getattr(m, '__file__', None) or '')"
        ".startswith(site)}))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    imported = {name for name in done.stdout.split() if not name.startswith(("__editable__", "_distutils_hack"))}
    assert imported <= {"pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection"}
