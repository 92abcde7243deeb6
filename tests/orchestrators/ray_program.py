"""Ray nodes on this machine, for as long as standard input is open; run in an environment that has Ray.

The first argument is a JSON list with an object a node, the head first: `folder`, its workspace; `env`, variables
besides; `cores`, those that it may compute on; `gpus`, how many it says that it has. Prints the cluster's address. A
line of input that names a node by its number kills it.
"""

import json
import os
import socket
import sys
from typing import Any

from ray.cluster_utils import Cluster

# A raylet whose agent has not written its ports within 15 s ends itself, and an agent's imports take that long on a
# machine that is busy. Ports that are told are not waited for.
_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
_ATTEMPTS = 5


def _free_ports() -> dict[str, int]:
    listening = [socket.create_server(("127.0.0.1", 0)) for _ in _PORTS]
    ports = [one.getsockname()[1] for one in listening]
    for one in listening:
        one.close()
    return dict(zip(_PORTS, ports, strict=True))


def _started(wanted_nodes: list[dict[str, Any]]) -> tuple[Cluster, list[Any]]:
    all_cores, cluster = os.sched_getaffinity(0), Cluster()
    try:
        nodes = []
        for wanted in wanted_nodes:
            os.sched_setaffinity(0, wanted.get("cores", all_cores))
            nodes.append(
                cluster.add_node(
                    num_cpus=len(os.sched_getaffinity(0)),
                    num_gpus=wanted.get("gpus"),
                    resources={"quantbench": 1},
                    env_vars={"QUANTBENCH_NODE": wanted["folder"], **wanted.get("env", {})},
                    include_dashboard=False,
                    **_free_ports(),
                )
            )
    except BaseException:
        cluster.shutdown()
        os.sched_setaffinity(0, all_cores)
        raise
    return cluster, nodes


def main() -> None:
    """Start the nodes, and obey."""
    for left in range(_ATTEMPTS - 1, -1, -1):
        try:
            cluster, nodes = _started(json.loads(sys.argv[1]))
            break
        except Exception as error:  # an agent that was too late after all
            print(error, file=sys.stderr, flush=True)
            if not left:
                raise
    print(json.dumps({"address": cluster.address}), flush=True)
    for line in sys.stdin:
        cluster.remove_node(nodes[int(line)], allow_graceful=False)
        print("removed", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
