"""How many short streamed completions a second the fake server sustains, and its client with it.

    .venv/bin/python -P benchmarks/fake_server.py [--requests 5000] [--clients 1]

Run it alone on the machine. Several clients show whether the server or the one client is the limit.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from registry.contracts.serving import Endpoint
from serving_checks.processes.supervisor import Supervised
from serving_checks.server import free_port
from serving_checks.transport.http_json import get_text
from serving_checks.transport.streaming import StreamingClient

IN_FLIGHT = 64


async def load(endpoint: Endpoint, requests: int, output_tokens: int) -> float:
    """Requests per second with IN_FLIGHT of them open all the time."""
    left = iter(range(requests))
    async with StreamingClient(endpoint) as client:

        async def work() -> None:
            for number in left:
                answer = await client.complete(f"{number} short words", output_tokens)
                if answer.output_tokens != output_tokens:
                    raise SystemExit(f"{answer.output_tokens} tokens instead of {output_tokens}")

        start = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(IN_FLIGHT):
                group.create_task(work())
    return requests / (time.perf_counter() - start)


def main() -> None:
    """Start the server and the clients, each of which prints its rate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=5000, help="of each client (5000)")
    parser.add_argument("--output-tokens", type=int, default=8, help="of each answer (8)")
    parser.add_argument("--clients", type=int, default=1, help="processes that send at the same time (1)")
    parser.add_argument("--base-url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.base_url:
        endpoint = Endpoint(
            base_url=options.base_url, served_model_name="model", model_path="", max_model_len=options.output_tokens + 8
        )
        print(f"{asyncio.run(load(endpoint, options.requests, options.output_tokens)):.0f} requests/s", flush=True)
        return
    port = free_port(None)
    server = [sys.executable, "-P", "-m", "serving_checks.fake.fake_server", "--port", str(port)]
    with tempfile.TemporaryDirectory() as folder, Supervised(server, log_file=Path(folder) / "log") as child:
        base_url = f"http://127.0.0.1:{port}"
        while True:
            try:
                get_text(f"{base_url}/health")
                break
            except OSError:
                if child.wait(0.1) is not None:
                    raise SystemExit(child.log_tail()) from None
        client = [sys.executable, "-P", *sys.argv, "--base-url", base_url]
        clients = [subprocess.Popen(client) for _ in range(options.clients)]
        if any(one.wait() for one in clients):
            raise SystemExit(child.log_tail())


if __name__ == "__main__":
    main()
