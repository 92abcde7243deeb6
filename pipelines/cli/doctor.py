"""`quantbench doctor`"""

import argparse
import json
import platform
import shutil
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipelines.planning.compatibility import Asked, serving_violations
from pipelines.planning.device import MachineRecord, detect_machine
from pipelines.planning.stages import installed_versions
from quantizers.base import METHODS, load_method
from registry.contracts.base import Method
from serving_checks.engines.base import Engine
from serving_checks.engines.table import ENGINES, engine_type

HELP = "say what this machine is, which engines it has and what each method can do here"

PYTHON_NOTE = "quantbench.python"
"""Of the environment's folder; `tools/environment.py` writes it."""
_ENGINES = (
    "torch",
    "transformers",
    "gptqmodel",
    "bitsandbytes",
    "optimum",
    "lm-eval",
    "datasets",
    "mlflow",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Nothing beyond the common ones."""


def execute(args: argparse.Namespace) -> int:
    """Print it; always 0, since a machine without a GPU is a fact and no failure."""
    machine = detect_machine()
    serving = [engine for engine in map(engine_type, ENGINES) if engine.distributions]
    names = list(dict.fromkeys((*_ENGINES, *(name for one in serving for name in (*one.distributions, *one.plugins)))))
    versions = installed_versions(tuple(names))
    existing = next(
        folder
        for folder in (Path(args.workspace).resolve(), *Path(args.workspace).resolve().parents)
        if folder.exists()
    )
    disk = shutil.disk_usage(existing)
    methods = {method: _able(method, machine, serving, versions) for method in METHODS}
    report = {
        "python": platform.python_version(),
        "python_chosen": _python_chosen(),
        "machine": machine.model_dump(mode="json"),
        "disk_free_bytes": disk.free,
        "engines": {name: versions.get(name) for name in names},
        "methods": methods,
    }
    if args.json:
        print(json.dumps(report, indent=2))
        return 0
    console = Console()
    facts = Table(show_header=False, box=None)
    chosen = _python_chosen()
    where = f"{platform.python_version()}, {Path(sys.executable).resolve()}"
    facts.add_row("Python", f"{where}: {chosen}" if chosen else where)
    facts.add_row("device", f"{machine.device}: {machine.device_name}, {machine.threads} threads")
    facts.add_row("CPU features", ", ".join(machine.cpu_flags) or "none that matter")
    facts.add_row(
        "fast bfloat16",
        "yes" if machine.fast_bfloat16 else "no (no AMX / AVX512-BF16): float32 where the engines take it",
    )
    facts.add_row("memory", f"{machine.memory_bytes / 2**30:.1f} GiB")
    facts.add_row(
        "GPU",
        f"{(machine.gpu_memory_bytes or 0) / 2**30:.1f} GiB, driver {machine.driver_version}"
        if machine.gpu_memory_bytes
        else "none answers",
    )
    facts.add_row("disk", f"{disk.free / 2**30:.1f} GiB free at {existing}")
    console.print(facts)
    engines = Table("package", "version", title="engines", title_justify="left")
    for name in names:
        engines.add_row(name, versions.get(name, "[dim]not installed"))
    console.print(engines)
    table = Table("method", "quantize", "serve", "tensor parallel", title="methods", title_justify="left")
    for method, able in methods.items():
        table.add_row(method, able["quantize"], able["serve"], able["tensor_parallel"])
    console.print(table)
    return 0


def _able(
    method: Method, machine: MachineRecord, serving: list[type[Engine]], versions: dict[str, str]
) -> dict[str, str]:
    """What can be done with a method here."""
    engine = load_method(method).engine
    refusals = [
        serving_violations(Asked(method, machine.device, 2, engine=one.name, cpu_flags=machine.cpu_flags))
        for one in serving
    ]
    return {
        "quantize": f"{engine} {versions[engine]}, {machine.quantize_dtype(method)}"
        if engine in versions
        else f"no: install {engine}",
        "serve": "; ".join(_serves(one, method, machine, versions) for one in serving),
        "tensor_parallel": "yes" if [] in refusals else f"no: {'; '.join(lines[0] for lines in refusals)}",
    }


def _python_chosen() -> str | None:
    """Why the environment has this Python, as the set-up wrote it there; None in an environment of another make."""
    note = Path(sys.prefix) / PYTHON_NOTE
    return note.read_text(encoding="utf-8").strip() if note.is_file() else None


def _serves(engine: type[Engine], method: Method, machine: MachineRecord, versions: dict[str, str]) -> str:
    version = next((versions[name] for name in engine.distributions if name in versions), None)
    if version is None:
        return f"{engine.name}: no, install {' or '.join(engine.distributions)}"
    refused = serving_violations(Asked(method, machine.device, 1, engine=engine.name, cpu_flags=machine.cpu_flags))
    if refused:
        return f"no: {refused[0]}"
    return f"{engine.name} {version}, {machine.serve_dtype(method in engine.serves_in_16_bits_only)}"
