"""Moto's server on loopback, which answers as S3 does, in an environment of its own."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.environments.definition import environment_named
from pipelines.environments.making import in_use
from serving_checks.processes.supervisor import Supervised
from serving_checks.server import free_port
from tests.answering import until_it_answers

_CHUNK_BYTES = 1 << 16


@contextmanager
def moto_server(folder: Path) -> Iterator[tuple[str, Supervised]]:
    """Its address and its process; it keeps everything in memory."""
    port = free_port(None)
    url = f"http://127.0.0.1:{port}"
    with in_use(environment_named("moto", "cpu"), print) as python:
        argv = [str(python), "-P", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        with Supervised(argv, log_file=folder / "moto.log", cwd=folder) as server:
            until_it_answers(server, f"{url}/moto-api/", 120)
            yield url, server


@contextmanager
def cut_once(url: str, after_bytes: int) -> Iterator[tuple[str, list[int]]]:
    """A way to a server that closes the first connection on which so much was answered; its address, and what was
    answered when it was closed."""
    host, port = url.removeprefix("http://").split(":")
    listener = socket.create_server(("127.0.0.1", 0))
    cuts: list[int] = []

    def answer(client: socket.socket, server: socket.socket) -> None:
        answered = 0
        with client, server:
            while chunk := _received(server):
                answered += len(chunk)
                if answered > after_bytes and not cuts:
                    cuts.append(answered)
                    break
                try:
                    client.sendall(chunk)
                except OSError:
                    break
            for one in (client, server):
                try:
                    one.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue

    def ask(client: socket.socket, server: socket.socket) -> None:
        while chunk := _received(client):
            try:
                server.sendall(chunk)
            except OSError:
                return

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection((host, int(port)))
            for way in (ask, answer):
                threading.Thread(target=way, args=(client, server), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", cuts
    finally:
        listener.close()


def _received(one: socket.socket) -> bytes:
    try:
        return one.recv(_CHUNK_BYTES)
    except OSError:
        return b""
