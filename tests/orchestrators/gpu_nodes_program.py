"""Ray nodes on this machine that say they have GPUs, as many as each argument says; the first one is the head.

Prints the cluster's address and stays until standard input is closed. Runs in an environment that has Ray.
"""

import socket
import sys

from ray.cluster_utils import Cluster

_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
"""A raylet waits 15 s for its agent to say those that it was not told; a busy machine takes longer."""


def _free_ports() -> dict[str, int]:
    listening = [socket.create_server(("127.0.0.1", 0)) for _ in _PORTS]
    ports = [one.getsockname()[1] for one in listening]
    for one in listening:
        one.close()
    return dict(zip(_PORTS, ports, strict=True))


def main() -> None:
    """Start the nodes, say where, and wait."""
    cluster = Cluster()
    for gpus in sys.argv[1:]:
        cluster.add_node(num_cpus=1, num_gpus=int(gpus), include_dashboard=False, **_free_ports())
    print(cluster.address, flush=True)
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main()
