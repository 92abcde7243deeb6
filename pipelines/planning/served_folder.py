"""A model's folder, or the server that has it already, as it will be served: checked before anything is started."""

from pathlib import Path
from typing import Literal, NamedTuple

from configs.errors import RequestError
from pipelines.planning.compatibility import Asked, serving_violations
from pipelines.planning.device import MachineRecord
from pipelines.planning.memory_split import check_ranks
from pipelines.planning.open_run import check_device, check_machines_see
from pipelines.planning.preflight import check_memory, length_violations
from pipelines.planning.stages import folder_dtype
from pipelines.recipe.bench_config import method_of, sizes_of
from registry.contracts.base import DType
from serving_checks.engines.base import LaunchedEngine, ServerRequest, ServingConfig
from serving_checks.engines.table import engine_of
from serving_checks.server import check_servable
from serving_checks.transport.http_json import authorization


class ServedFolder(NamedTuple):
    """One model on one server."""

    model: Path
    serving: ServingConfig
    dtype: DType


def checked_folder(
    model: Path, serving: ServingConfig, dtype: DType | Literal["auto"], machine: MachineRecord
) -> ServedFolder:
    """The folder with the dtype that it is served in.

    Raises:
        RequestError: This machine or the engine does not serve it so; nothing was started.
    """
    engine = engine_of(serving)
    served = ServedFolder(model, serving, folder_dtype(model, serving, dtype, machine))
    if isinstance(engine, LaunchedEngine):
        check_device(machine)
        check_ranks(serving, machine)
        check_memory(serving, machine)
    check_servable(engine, ServerRequest(serving, model, served.dtype, machine.device, machine.serving_threads))
    ranks, stages = serving.tensor_parallel_size, serving.pipeline_parallel_size
    method, sizes = method_of(model), sizes_of(model)
    asked = Asked(method, machine.device, ranks, stages, engine.name, machine.cpu_flags, head_size=sizes.head_size)
    found = serving_violations(asked)
    if isinstance(engine, LaunchedEngine) and sizes.positions:
        found += length_violations(serving, sizes.positions)
    if found:
        raise RequestError("; ".join(found), remedy="change `serving` as it says")
    authorization(engine.api_key_variable)
    check_machines_see(model / "config.json", serving)
    return served
