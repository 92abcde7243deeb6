"""Imported by a fork server of vLLM: an engine core is then forked from its API server and not started anew.

vLLM's CPU platform sets the spawn method (vllm/platforms/cpu.py), so that the engine core imports all of vLLM again.
What spawning guards against, OpenMP threads and a GPU context in the parent, is not there: an API server computes
nothing.
"""

import multiprocessing

from vllm.v1.engine import utils

utils.get_mp_context = lambda: multiprocessing.get_context("fork")
