"""A server by the Python of its engine: our own, or that of the engine's environment, which is made first."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pipelines.environments.definition import MAIN, environment_named
from pipelines.environments.making import in_use
from serving_checks.engines.base import ServerRequest
from serving_checks.engines.table import engine_type
from serving_checks.processes.pulse import UNBOUNDED, Patience
from serving_checks.server import RunningServer, serve


@contextmanager
def served(
    request: ServerRequest, log_file: Path, fork_server: Path | None = None, patience: Patience = UNBOUNDED
) -> Iterator[RunningServer]:
    """See `serving_checks.server.serve`.

    Raises:
        StageError: Its environment could not be made, and as `serve` does.
    """
    name = engine_type(request.config.engine).environment
    with ExitStack() as held:
        if name != MAIN:
            python = held.enter_context(in_use(environment_named(name, request.device), _tell))
            request = request._replace(python=python)
        yield held.enter_context(serve(request, log_file, fork_server=fork_server, patience=patience))


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
