"""Imported by a fork server of vLLM: what a server would start a new Python for is done by a fork, or in the server.

vLLM's CPU platform has the engine core and every rank's worker spawned (vllm/platforms/cpu.py), and a model class is
looked at in a process of its own when no earlier start has left a note of it (vllm/model_executor/models/registry.py):
each imports all of vLLM again. What they guard against is not there: no GPU context, and an API server and an engine
core that compute nothing, so have no OpenMP threads; on a GPU vLLM itself forks both.

A spawned worker gets its cores through variables that OpenMP reads when it is loaded
(vllm/utils/ompmultiprocessing.py). In a fork it is loaded already: here the worker inherits the affinity of the thread
that forks it, and so do the threads that it starts.

Classes of language models lie beside those of models around them that read images, and import torchvision with them
(Qwen 3.5).
"""

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from vllm.model_executor.models import registry
from vllm.utils.ompmultiprocessing import OMPProcessManager
from vllm.v1.engine import utils
from vllm.v1.executor import multiproc_executor

from registry.stand_in_modules import stand_in_for_torchvision


def _fork_context() -> Any:
    return multiprocessing.get_context("fork")


@contextmanager
def _on_its_cores(manager: OMPProcessManager, rank: int, local_rank: int) -> Iterator[None]:
    """In place of `configure_omp_envs`: what is forked in the block runs on the rank's cores, a thread each."""
    if manager.skip_setup:
        yield
        return
    cpus, before = manager.cpu_lists[local_rank], os.sched_getaffinity(0)
    if torch.get_num_threads() != len(cpus):
        torch.set_num_threads(len(cpus))
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


stand_in_for_torchvision()
utils.get_mp_context = _fork_context
multiproc_executor.get_mp_context = _fork_context
OMPProcessManager.configure_omp_envs = _on_its_cores
registry._run_in_subprocess = lambda function: function()
