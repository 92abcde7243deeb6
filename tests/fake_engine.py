"""The fake server in vLLM's place: all that is asked of the engine but the command."""

import sys

from serving_checks.engines.base import ServerCommand, ServerRequest
from serving_checks.engines.vllm import VllmEngine, VllmServerConfig


class FakeEngine(VllmEngine):
    """Starts `serving_checks.fake.fake_server`, which speaks vLLM's dialect and fails to order.

    Args:
        config: What the tests ask the server for.
        arguments: Of its command line, such as `--mode`, `die`.
    """

    def __init__(self, config: VllmServerConfig, *arguments: str) -> None:
        super().__init__(config)
        self._arguments = arguments

    def command(self, request: ServerRequest, port: int) -> ServerCommand:
        """The fake server's command on `port`."""
        argv = [sys.executable, "-P", "-m", "serving_checks.fake.fake_server", "--port", str(port), *self._arguments]
        return ServerCommand(argv, {})
