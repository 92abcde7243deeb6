"""How many servers share a suite's items, and which GPUs each computes on."""

from configs.errors import RequestError
from pipelines.planning.device import MachineRecord
from pipelines.recipe.run_config import RunConfig
from serving_checks.engines.base import LaunchedConfig

_LOADING = 2
"""Copies of the weights that a server may hold while it loads them: its own, and what it reads them from."""


def check_data_parallel(config: RunConfig, machine: MachineRecord) -> None:
    """Raise RequestError where the recipe asks for more servers than this machine takes."""
    wanted, room = config.evaluation.data_parallel_size, _room(config, machine)
    if wanted == "auto" or wanted <= room:
        return
    ranks = config.serving.ranks
    if not isinstance(config.serving, LaunchedConfig):
        why = f"a server of {config.serving.engine} runs already, and is one"
    elif config.serving.over_machines:
        why = "one that is shared out over machines takes them all"
    elif machine.device == "cuda":
        why = f"each takes GPUs of its own, {ranks} of the {len(machine.gpus)} that are visible here"
    else:
        why = f"each computes on {machine.serving_threads} of {machine.threads} cores here"
    raise RequestError(
        f"evaluation.data_parallel_size asks for {wanted} servers, and this machine takes {room}: {why}",
        remedy="set evaluation.data_parallel_size to auto, or lower it",
    )


def servers_of(config: RunConfig, machine: MachineRecord, model_bytes: int) -> list[list[str]]:
    """One entry for each server of a model that its evaluation is shared over: the GPUs it takes, on a CPU none.

    Args:
        config: One that `check_data_parallel` passed.
        model_bytes: Of the model's files.
    """
    if config.serving.over_machines:
        return [[]]
    wanted, ranks = config.evaluation.data_parallel_size, config.serving.ranks
    size = _room(config, machine) if wanted == "auto" else wanted
    if wanted == "auto" and machine.device == "cpu":
        cache_bytes = getattr(config.serving, "kv_cache_gib", 0.0) * 2**30 * ranks
        size = min(size, max(1, int(machine.memory_bytes / (_LOADING * model_bytes + cache_bytes))))
    return [machine.gpus[place * ranks : (place + 1) * ranks] for place in range(size)]


def _room(config: RunConfig, machine: MachineRecord) -> int:
    """Servers that compute beside one another without waiting for one another; at least one."""
    if not isinstance(config.serving, LaunchedConfig) or config.serving.over_machines:
        return 1
    if machine.device == "cuda":
        return max(1, len(machine.gpus) // config.serving.ranks)
    # Threads of servers that share a core wait for each other by spinning.
    return max(1, machine.threads // machine.serving_threads)
