"""Imported by a fork server of vLLM: what a server would start a new Python for is done by a fork, or in the server.

vLLM's CPU platform has the engine core spawned (vllm/platforms/cpu.py), and a model class is looked at in a process of
its own when no earlier start has left a note of it (vllm/model_executor/models/registry.py): each imports all of vLLM
again. What both guard against is not there: no GPU context, and an API server that computes nothing, so has no OpenMP
threads.
"""

import multiprocessing

from vllm.model_executor.models import registry
from vllm.v1.engine import utils

utils.get_mp_context = lambda: multiprocessing.get_context("fork")
registry._run_in_subprocess = lambda function: function()
