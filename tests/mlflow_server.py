"""A real MLflow tracking server on loopback, with an artifact store of its own."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving_checks.processes.supervisor import Supervised
from serving_checks.server import free_port
from tests.answering import until_it_answers


@contextmanager
def mlflow_server(
    folder: Path, backend: str | None = None, port: int | None = None
) -> Iterator[tuple[str, Supervised]]:
    """Its address and its process.

    Args:
        folder: Gets the database, the artifacts and the log.
        backend: A database's address; SQLite in `folder` when None.
        port: A free one when None.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port(port)
    argv = [
        sys.executable,
        "-P",
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    argv += ["--backend-store-uri", backend or f"sqlite:///{folder / 'server.db'}"]
    argv += ["--artifacts-destination", str(folder / "artifacts")]
    uri = f"http://127.0.0.1:{port}"
    env = {"MLFLOW_DISABLE_TELEMETRY": "true"}
    with Supervised(argv, log_file=folder / "server.log", env=env, cwd=folder) as server:
        until_it_answers(server, f"{uri}/health", 180)
        yield uri, server
