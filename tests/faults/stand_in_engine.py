"""Imported by the process that stages are forked from: vLLM's adapter as it is, but for the program that it starts."""

import sys

from serving_checks.engines.base import ServerCommand, ServerRequest
from serving_checks.engines.vllm import VllmEngine
from tests.faults.program import hand_on_scratch

_as_vllm = VllmEngine.command


def _as_stand_in(self: VllmEngine, request: ServerRequest, port: int) -> ServerCommand:
    options = {
        "port": port,
        "model": request.model_dir,
        "dtype": request.dtype,
        "max-model-len": request.config.max_model_len,
    }
    argv = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return ServerCommand(
        [sys.executable, "-P", "-m", "tests.faults.stand_in", *argv], _as_vllm(self, request, port).env
    )


VllmEngine.command = _as_stand_in
hand_on_scratch()
