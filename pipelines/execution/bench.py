"""One model on one server, whatever the engine: started or attached to, loaded, checked and written down."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from configs.errors import RequestError, StageError
from configs.loading import load_yaml_model
from evals.asking.hub_data import OFFLINE
from pipelines.execution.fork_servers import ForkServers
from pipelines.execution.stage_job import run_job
from pipelines.execution.workspace import Workspace
from pipelines.planning.device import MachineRecord, detect_machine
from pipelines.planning.served_folder import checked_folder
from pipelines.planning.stages import Stage
from pipelines.recipe.bench_config import BenchConfig, method_of
from pipelines.records.bench_result import BenchResult
from pipelines.records.model_cost import pricing_of
from pipelines.report.bench_page import write_bench_page
from pipelines.stage_programs.bench_stage import BenchJob
from registry.contracts import ServingRecord
from registry.contracts.base import DType
from registry.files import write_text_atomically
from registry.store import Store
from serving_checks.engines.table import engine_of
from serving_checks.load.client import check_open_files
from serving_checks.load.prompts import read_text
from serving_checks.load.requests import LOAD_REQUESTS_FILE
from serving_checks.processes.scratch import scratch_folder

RECORD_FILE = "record.json"
SERVER_LOG_FILE = "server.log"
STAGE_MODULE = "pipelines.stage_programs.bench_stage"

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")


class OpenBench(NamedTuple):
    """A config that was read and found sound, on this machine."""

    config: BenchConfig
    machine: MachineRecord
    dtype: DType


def open_bench(file: Path, overrides: list[str]) -> OpenBench:
    """Read the config and check all that can be known before a server is started.

    Raises:
        RequestError: The config is wrong, or cannot be carried out here; nothing was started.
    """
    config = load_yaml_model(file, BenchConfig, overrides)
    if not any((config.model / name).is_file() for name in _TOKENIZER_FILES):
        raise RequestError(
            f"`model`: there is no tokenizer in {config.model.resolve()}",
            remedy="name a model's folder; for a server that runs already, one with its model's tokenizer",
        )
    machine = detect_machine(config.device)
    dtype = checked_folder(config.model, config.serving, config.dtype, machine).dtype
    check_open_files(config.load)
    read_text(config.load.prompts.file)
    return OpenBench(config, machine, dtype)


def execute_bench(bench: OpenBench, workspace: Workspace, on_progress: Callable[[str], None]) -> BenchResult:
    """Measure, and write record and page; what fails leaves the requests that were measured, and logs.

    Args:
        workspace: Gets `bench/<name>/<UTC time>/`.
        on_progress: Called a few times a second with what is being done.

    Raises:
        RequestError: The server does not take what it is asked.
        StageError: The server or the load generator failed, or the model is a stored one and damaged.
    """
    config, machine = bench.config, bench.machine
    with workspace.machine_lock(lambda pid: on_progress(f"waiting for run of process {pid}")):
        _check_stored(config.model)
        directory = workspace.new_bench_dir(config.name)
        try:
            record = _measured(bench, directory, on_progress)
            _check_stored(config.model)
            write_text_atomically(directory / RECORD_FILE, record.model_dump_json(indent=2))
            page = write_bench_page(config, machine, record, directory)
        except BaseException as error:
            _sweep(directory, keep_logs=isinstance(error, StageError | OSError))
            raise
    return BenchResult(config.name, record, directory, page, pricing_of(config.model_dump(mode="json")))


def _measured(bench: OpenBench, directory: Path, on_progress: Callable[[str], None]) -> ServingRecord:
    config, machine = bench.config, bench.machine
    stage = Stage("bench", "", {})
    log_file, scratch = directory / "bench.log", directory / "job"
    with scratch_folder(), ForkServers(config, machine, scratch, for_stages=False) as fork_servers:
        job = BenchJob(
            stage=stage.kind,
            result_file=scratch / "bench.result.json",
            output_dir=directory,
            model_dir=config.model.resolve(),
            serving=config.serving,
            load=config.load,
            checks=config.checks,
            profile=config.profile,
            device=machine.device,
            device_name=machine.device_name if engine_of(config.serving).runs_here else "another machine",
            dtype=bench.dtype,
            threads=machine.serving_threads,
            server_log_file=directory / SERVER_LOG_FILE,
            deadlines=config.deadlines,
            unquantized=method_of(config.model) is None,
            fork_server=fork_servers.for_model_servers(stage, config.serving),
        )
        patience = config.deadlines.of_stage(stage.kind)
        result = run_job(
            job, STAGE_MODULE, stage.name, log_file, env=OFFLINE, patience=patience, on_progress=on_progress
        )
    if result.failure:
        kind = RequestError if result.failure.exit_code == RequestError.exit_code else StageError
        raise kind(result.failure.what, remedy=result.failure.remedy, blame=result.failure.blame)
    shutil.rmtree(scratch)
    log_file.unlink()
    return ServingRecord.model_validate(result.record)


def _check_stored(model: Path) -> None:
    """Raise DamagedObject where the model is an object of a store and its bytes are not those of its digest."""
    found = Store.around(model)
    if found:
        store, digest = found
        store.open(digest)


def _sweep(directory: Path, *, keep_logs: bool) -> None:
    """Take away what is half done. What was measured stays: the requests of the load tests that were over."""
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOAD_REQUESTS_FILE and not (keep_logs and path.suffix == ".log"):
            path.unlink()
    for folder in (directory, directory.parent):
        with suppress(OSError):  # it is not empty
            folder.rmdir()
