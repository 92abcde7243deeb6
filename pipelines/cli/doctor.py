"""`quantbench doctor`"""

import argparse
import json
import platform
import shutil
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.environments.definition import MAIN, environment_named, environment_names, normalized
from pipelines.environments.folders import state_of
from pipelines.planning.compatibility import Asked, serving_violations
from pipelines.planning.device import MachineRecord, detect_machine
from pipelines.planning.interpreters import versions_of_engine
from pipelines.planning.stages import installed_versions
from pipelines.report.machine_limits import limit_rows, limit_titles
from quantizers.base import METHODS, load_method
from registry.contracts import MachineLimits
from registry.contracts.base import Method
from registry.shared_store import SharedStore
from serving_checks.engines.base import Engine
from serving_checks.engines.table import ENGINES, engine_type
from serving_checks.readings.machine_limits import take_limits

HELP = "say what this machine is, which engines it has and what each method can do here"

PYTHON_NOTE = "quantbench.python"
"""Of the environment's folder; `tools/environment.py` writes it."""
_LIBRARIES = ("torch", "transformers", "optimum", "lm-eval", "datasets", "mlflow")
"""That are shown beside the engines of methods and servers."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Whether to measure."""
    parser.add_argument(
        "--measure", action="store_true", help="also measure memory bandwidth and matrix rates, in some seconds"
    )
    parser.add_argument(
        "--store", metavar="ADDRESS", help="try a shared store from here instead: a folder, or s3://BUCKET/PREFIX"
    )


def execute(args: argparse.Namespace) -> int:
    """Print it; 0, since a machine without a GPU is a fact and no failure.

    Raises:
        RequestError: `--store` names nothing that can be one.
        StageError: It cannot be written to and read from here.
    """
    if args.store is not None:
        return _tried_store(args.store, args.json)
    machine = detect_machine()
    serving = [engine for engine in map(engine_type, ENGINES) if engine.distributions]
    quantizing = [one.engine for one in map(load_method, METHODS) if one.environment == MAIN]
    served_by = [name for one in serving if one.environment == MAIN for name in (*one.distributions, *one.plugins)]
    names = list(dict.fromkeys((*_LIBRARIES, *quantizing, *served_by)))
    versions = installed_versions(tuple(names))
    existing = next(
        folder
        for folder in (Path(args.workspace).resolve(), *Path(args.workspace).resolve().parents)
        if folder.exists()
    )
    disk = shutil.disk_usage(existing)
    methods = {method: _able(method, machine, serving, versions) for method in METHODS}
    environments = [environment_named(name, machine.device) for name in environment_names()]
    limits = _measured(machine) if args.measure else None
    report = {
        "python": platform.python_version(),
        "python_chosen": _python_chosen(),
        "machine": machine.model_dump(mode="json"),
        "disk_free_bytes": disk.free,
        "engines": {name: versions.get(name) for name in names},
        "methods": methods,
        "environments": {one.name: state_of(one) for one in environments},
    }
    if limits:
        report["limits"] = limits.model_dump(mode="json")
    if args.json:
        print(json.dumps(report, indent=2))
        return 0
    console = Console()
    console.print(_facts(machine, f"{disk.free / 2**30:.1f} GiB free at {existing}"))
    if limits:
        _print_limits(console, limits)
    engines = Table("package", "version", title="engines", title_justify="left")
    for name in names:
        engines.add_row(name, versions.get(name, "[dim]not installed"))
    console.print(engines)
    table = Table("method", "quantize", "serve", "tensor parallel", title="methods", title_justify="left")
    for method, able in methods.items():
        table.add_row(method, able["quantize"], able["serve"], able["tensor_parallel"])
    console.print(table)
    others = Table("environment", "state", "used by", title="environments", title_justify="left")
    for one in environments:
        others.add_row(one.name, state_of(one), ", ".join(one.definition.used_by))
    console.print(others)
    return 0


def _tried_store(address: str, as_json: bool) -> int:
    began = time.monotonic()
    store = SharedStore(address)
    with store.probe() as token:
        store.answer(token)
    seconds = time.monotonic() - began
    if as_json:
        print(json.dumps({"store": store.address, "seconds": seconds}))
    else:
        Console().print(f"{store.address}: written, read and removed in {seconds:.2f} s", soft_wrap=True)
    return 0


def _measured(machine: MachineRecord) -> MachineLimits:
    """The machine's limits; says first what it waits for.

    Raises:
        StageError: The process that measures failed.
    """
    told = Console(stderr=True)
    told.print("measuring memory bandwidth and matrix rates: some seconds, in which nothing else should run")
    return take_limits(machine.device, machine.serving_threads)


def _print_limits(console: Console, limits: MachineLimits) -> None:
    table = Table("limit", "unit", title="limits, measured", title_justify="left")
    for title in limit_titles(limits):
        table.add_column(title, justify="right")
    for name, unit, values in limit_rows(limits):
        table.add_row(name, unit, *values)
    console.print(table)
    for doubt in limits.doubts:
        console.print(Text(f"doubtful: {doubt}; a share of these limits is too high then", "yellow"), soft_wrap=True)
    for note in limits.notes:
        console.print(Text(note, "dim"), soft_wrap=True)


def _facts(machine: MachineRecord, disk: str) -> Table:
    """What this machine is, a line a fact."""
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
    facts.add_row("disk", disk)
    return facts


def _able(
    method: Method, machine: MachineRecord, serving: list[type[Engine]], versions: dict[str, str]
) -> dict[str, str]:
    """What can be done with a method here."""
    refusals = [
        serving_violations(Asked(method, machine.device, 2, engine=one.name, cpu_flags=machine.cpu_flags))
        for one in serving
    ]
    return {
        "quantize": _quantizes(method, machine, versions),
        "serve": "; ".join(_serves(one, method, machine, versions) for one in serving),
        "tensor_parallel": "yes" if [] in refusals else f"no: {'; '.join(lines[0] for lines in refusals)}",
    }


def _quantizes(method: Method, machine: MachineRecord, versions: dict[str, str]) -> str:
    quantizer, dtype = load_method(method), machine.quantize_dtype(method)
    # Without shapes, what is left to refuse is the device.
    refused = quantizer.violations(quantizer.config_type(method=method), {}, 1, machine.device, dtype)
    if refused:
        return f"no: {refused[0]}"
    if quantizer.environment != MAIN:
        if quantizer.environment not in environment_names():
            return f"no: environment {quantizer.environment} is in Quantbench's repository; work in a clone of it"
        environment = environment_named(quantizer.environment, machine.device)
        version = environment.versions[normalized(quantizer.engine)]
        return f"{quantizer.engine} {version}, {dtype}; environment {environment.name}: {state_of(environment)}"
    if quantizer.engine not in versions:
        return f"no: install {quantizer.engine}"
    return f"{quantizer.engine} {versions[quantizer.engine]}, {dtype}"


def _python_chosen() -> str | None:
    """Why the environment has this Python, as the set-up wrote it there; None in an environment of another make."""
    note = Path(sys.prefix) / PYTHON_NOTE
    return note.read_text(encoding="utf-8").strip() if note.is_file() else None


def _serves(engine: type[Engine], method: Method, machine: MachineRecord, versions: dict[str, str]) -> str:
    if engine.environment != MAIN and engine.environment in environment_names():
        versions = versions_of_engine(engine, machine.device)
    version = next((versions[name] for name in engine.distributions if name in versions), None)
    if version is None:
        return f"{engine.name}: no, install {' or '.join(engine.distributions)}"
    refused = serving_violations(Asked(method, machine.device, 1, engine=engine.name, cpu_flags=machine.cpu_flags))
    if refused:
        return f"no: {refused[0]}"
    return f"{engine.name} {version}, {machine.serve_dtype(engine.serves_in_16_bits_only(method))}"
