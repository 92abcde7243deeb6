"""The one process of a run that Ray's library lives in, and the one module that imports it.

The library may end the process that it lives in when its cluster goes, and takes over the process's signals: neither
may happen to a run. So it has a process of its own, which whoever runs stages asks over a socket: a line of JSON each
call, a connection each, and answers of a line each. Who closes the connection takes the call back.

What goes to a node and comes from it is text. The function that takes it there is sent as code, and imports ours on the
node: so a node without Quantbench says that in words.
"""

import os
import secrets
import select
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingUnixStreamServer
from typing import Any

from registry.contracts.base import Record

RESOURCE = "quantbench"
"""What a node has one of that may do the work of stages: a stage takes it whole."""
_POLL_SECONDS = 0.2
_CANCEL_SECONDS = 20.0
"""For a stage to end its processes, before its worker process is ended."""
_NAMESPACE = "quantbench"


class ClusterNode(Record):
    """A node that may do the work of stages."""

    node_id: str
    name: str
    cpus: float
    gpus: float


class Call(Record):
    """What is asked: a function of text, on a node; without a module: which nodes there are."""

    module: str | None = None
    function: str = ""
    text: str = ""
    node_id: str | None = None
    """Where; any node that is free when None."""
    cpus: float = 0.0
    """Of the node, which are held as long as the call."""
    gpus: float = 0.0
    whole: bool = True
    """Whether it holds the node's RESOURCE too."""
    retries: int = 0
    """How often it is called again when its node or process died."""


class Answer(Record):
    """A line of what is answered: all but the last say what is being done."""

    said: str | None = None
    text: str | None = None
    """What the function gave."""
    nodes: list[ClusterNode] | None = None
    fault: str | None = None
    """Why there is nothing, in Ray's words."""


def main() -> int:
    """Connect to the cluster at argv[2] and answer on the socket argv[1]."""
    place, address = Path(sys.argv[1]), sys.argv[2]
    os.chdir("/")  # Ray gives nodes the working folder as a place of modules, where other code may lie
    _connect(address)
    with _Server(str(place), _Handler) as server:
        server.serve_forever()
    return 0


def _connect(address: str) -> None:
    import ray

    own: dict[str, Any] = {}
    if address == "local":
        own = {"resources": {RESOURCE: 1}, "include_dashboard": False}
    ray.init(address=address, log_to_driver=False, namespace=_NAMESPACE, **own)


class _Server(ThreadingUnixStreamServer):
    daemon_threads = True


class _Handler(StreamRequestHandler):
    def handle(self) -> None:
        call = Call.model_validate_json(self.rfile.readline())
        try:
            answer = Answer(nodes=_nodes()) if call.module is None else self._called(call)
        except Exception as error:  # whatever Ray raises is its word about the cluster
            answer = Answer(fault=_in_words(error))
        self._tell(answer)

    def _called(self, call: Call) -> Answer:
        import ray
        from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get

        key, said = secrets.token_hex(16), ""
        task = _task(call).remote(key, call.module, call.function, call.text)
        try:
            while not ray.wait([task], timeout=_POLL_SECONDS)[0]:
                if self._taken_back():
                    _cancel(task)
                    return Answer(fault="it was taken back")
                found = (_internal_kv_get(key, namespace=_NAMESPACE) or b"").decode()
                if found != said:
                    said = found
                    self._tell(Answer(said=said))
            return Answer(text=ray.get(task))
        finally:
            _internal_kv_del(key, namespace=_NAMESPACE)

    def _taken_back(self) -> bool:
        connection: socket.socket = self.connection
        readable, _, _ = select.select([connection], [], [], 0)
        return bool(readable) and connection.recv(1, socket.MSG_PEEK) == b""

    def _tell(self, answer: Answer) -> None:
        try:
            self.wfile.write(answer.model_dump_json().encode() + b"\n")
        except OSError:
            return  # nobody waits for it any more


def _nodes() -> list[ClusterNode]:
    import ray

    return [
        ClusterNode(
            node_id=node["NodeID"],
            name=node["NodeManagerAddress"],
            cpus=node["Resources"].get("CPU", 0),
            gpus=node["Resources"].get("GPU", 0),
        )
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get(RESOURCE, 0) >= 1
    ]


def _task(call: Call) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    options: dict[str, Any] = {
        "num_cpus": call.cpus,
        "num_gpus": call.gpus,
        "max_retries": call.retries,
        "resources": {RESOURCE: 1} if call.whole else {},
    }
    if call.node_id is not None:
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(call.node_id, soft=False)
    return ray.remote(**options)(_sent())


def _sent() -> Callable[[str, str, str, str], str]:
    """The function that runs on a node. A function within one is sent as code, not as the name of a module."""
    namespace = _NAMESPACE

    def on_node(key: str, module: str, function: str, text: str) -> str:
        import importlib
        import os
        import time

        from ray.experimental.internal_kv import _internal_kv_put

        # Ray sets it to the CPUs that a task holds; a stage says by itself on how many threads it computes.
        with open("/proc/self/environ", "rb") as file:  # noqa: PTH123
            if b"OMP_NUM_THREADS=" not in file.read():
                os.environ.pop("OMP_NUM_THREADS", None)
        told, told_at = "", 0.0

        def tell(said: str) -> None:
            nonlocal told, told_at
            if said != told and time.monotonic() - told_at > 0.5:
                told, told_at = said, time.monotonic()
                _internal_kv_put(key, said, overwrite=True, namespace=namespace)

        return str(getattr(importlib.import_module(module), function)(text, tell))

    return on_node


def _cancel(task: Any) -> None:
    """End the call: by an exception in its process, which ends what it started, or else with its process."""
    import ray

    ray.cancel(task)
    if not ray.wait([task], timeout=_CANCEL_SECONDS)[0]:
        ray.cancel(task, force=True)


def _in_words(error: Exception) -> str:
    cause = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {' '.join(lines)[:1000]}"


if __name__ == "__main__":
    sys.exit(main())
